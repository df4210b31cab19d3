"""Memory that was promised to one run is not promised to the next, and starts are exclusive."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.core.errors import HostError
from sandbox.hosts import admission
from sandbox.hosts.admission import Want, admitted, overhead, require_memory
from sandbox.hosts.drivers.fake import FakeHypervisor
from tests.support.fakes.run_world import DEAD
from tests.support.waiting import soon

MIB, GIB = 1 << 20, 1 << 30


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(admission, "PLACE", tmp_path / "admission")
    return tmp_path / "admission"


def host(memory: int, uri: str = "xen:///system") -> FakeHypervisor:
    return FakeHypervisor(uri=uri, kind="xen", memory=memory)


# -- how much a clone takes -------------------------------------------------------------------


@given(*[st.integers(0, 1 << 43)] * 3, st.lists(st.integers(0, 1 << 40), max_size=4))
def test_what_is_refused_does_not_fit(
    free: int, memory: int, kept: int, promised: list[int]
) -> None:
    others = tuple(Want(f"run{n}", taken) for n, taken in enumerate(promised))
    needed = sum(m + overhead(m) for m in (memory, *promised)) + kept
    if needed <= free:
        require_memory(Want("mine", memory, kept), free, others)
        return
    with pytest.raises(HostError) as caught:
        require_memory(Want("mine", memory, kept), free, others)
    words = caught.value.message
    assert f"needs {memory >> 20} MiB" in words
    assert f"has {free >> 20} MiB free" in words
    assert all(other.run in words for other in others)
    assert ("stay free" in words) == bool(kept)
    assert caught.value.hint


def test_page_tables_grow_with_the_guest() -> None:
    assert overhead(64 * GIB) - overhead(32 * GIB) == 32 * 8 * MIB
    with pytest.raises(HostError, match="65536 MiB of memory and 640 MiB beside it"):
        require_memory(Want("mine", 64 * GIB), 64 * GIB + 600 * MIB)


# -- runs that begin together -----------------------------------------------------------------


def test_what_was_promised_is_not_promised_again() -> None:
    xen = host(3 * GIB)
    with admitted(xen, "first", 2 * GIB, 0, soon()) as first:
        with pytest.raises(HostError, match=r"3072 MiB free, 2192 MiB .* start just now \(first"):
            admitted(xen, "second", GIB, 0, soon()).__enter__()
        first.start(lambda: setattr(xen, "memory", GIB - 150 * MIB))
        # Now the host's own figure has it; it is not counted twice.
        with admitted(xen, "third", 512 * MIB, 0, soon()):
            pass
    xen.memory = 3 * GIB
    with admitted(xen, "fourth", 2 * GIB, 0, soon()):
        pass


def test_a_promise_ends_with_its_run(place: Path) -> None:
    xen = host(3 * GIB)
    with pytest.raises(ZeroDivisionError), admitted(xen, "first", 2 * GIB, 0, soon()):
        raise ZeroDivisionError
    with admitted(xen, "second", 2 * GIB, 0, soon()):
        (ledger,) = place.iterdir()
        (entry,) = json.loads(ledger.read_text())
        assert entry["run"] == "second"
        for over in ({"owner": DEAD}, {"until": time.time() - 1}):
            ledger.write_text(json.dumps([entry | over]))
            with admitted(xen, "third", 2 * GIB, 0, soon()):
                pass


@pytest.mark.parametrize(
    "text",
    ["", "[", "{}", "[1]", '[{"run": 1}]', '[{"run": "x", "memory": 1, "until": "y"}]', "\0\0"],
)
def test_a_damaged_ledger_promises_nothing(place: Path, text: str) -> None:
    xen = host(3 * GIB)
    with admitted(xen, "first", GIB, 0, soon()):
        (ledger,) = place.iterdir()
        ledger.write_text(text)
        with admitted(xen, "second", 2 * GIB, 0, soon()):
            pass


def test_other_hosts_have_memory_of_their_own() -> None:
    """And a host is one, whoever reaches it and however."""
    with admitted(host(3 * GIB, "xen+ssh://root@a/system"), "first", 2 * GIB, 0, soon()):
        with admitted(host(3 * GIB, "xen+ssh://root@b/system"), "second", 2 * GIB, 0, soon()):
            pass
        same = host(3 * GIB, "xen+ssh://admin@a/system?keyfile=/k")
        with pytest.raises(HostError, match="first"):
            admitted(same, "third", 2 * GIB, 0, soon()).__enter__()


def test_memory_that_somebody_else_took_is_noticed_before_the_start() -> None:
    xen = host(3 * GIB)
    with admitted(xen, "first", 2 * GIB, GIB // 2, soon()) as first:
        xen.memory = GIB  # its administrator started a guest
        with pytest.raises(HostError, match="1024 MiB free"):
            first.start(lambda: pytest.fail("it was started"))


# -- the lock ---------------------------------------------------------------------------------


def test_a_place_that_cannot_be_made_is_the_hosts_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(admission, "PLACE", tmp_path / "file" / "admission")
    with pytest.raises(HostError, match="cannot open"):
        admitted(host(8 * GIB), "first", GIB, 0, soon()).__enter__()


def test_the_ledger_is_roots_alone(place: Path) -> None:
    with admitted(host(8 * GIB), "first", GIB, 0, soon()):
        (ledger,) = place.iterdir()
        assert os.stat(ledger).st_mode & 0o777 == 0o600
