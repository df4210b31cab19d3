"""A state folder with runs, the hypervisor beside it, and a record in the making."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest

from sandbox.deadline import Deadline
from sandbox.hypervisors.libvirt_qemu import LibvirtQemu
from sandbox.records import Phase, RunRecord
from sandbox.settings import Settings
from sandbox.store import this_process
from tests.support.fakes.run_world import World
from tests.support.fakes.sample_records import passed


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Commands that connect to a hypervisor get libvirt's test driver."""
    state = Path(tempfile.mkdtemp(prefix="sb-", dir="/tmp"))
    hypervisor = LibvirtQemu.connect("test:///default", Deadline(10, "connecting"))

    def driver_for(_uri: str, deadline: Deadline) -> LibvirtQemu:
        return LibvirtQemu.connect("test:///default", deadline)  # the same books, until closed

    monkeypatch.setattr("sandbox.hypervisors.driver_for", driver_for)
    monkeypatch.setattr("sandbox.host_checks.driver_for", driver_for)
    monkeypatch.setenv("SANDBOX_STATE", str(state / "state"))
    monkeypatch.setenv("SANDBOX_CACHE", str(state / "cache"))
    try:
        yield World(Settings(state=state / "state", cache=state / "cache"), hypervisor)
    finally:
        empty_the_books()
        hypervisor.close()
        shutil.rmtree(state)


def empty_the_books() -> None:
    """The test driver keeps them as long as any connection is open, and a busy machine may close
    one late: the next test's clones may have the same names."""
    books = libvirt.open("test:///default")
    for one in (*books.listAllDomains(), *books.listAllNetworks()):
        if one.name().startswith("sandbox-"):
            one.destroy()
    books.close()


@pytest.fixture
def running() -> RunRecord:
    """A record as it stands in the middle of an upgrade."""
    whole = passed()
    values = {"state": "running", "decision": None, "finished": 0.0, "phases": whole.phases[:4]}
    values |= {"phase": Phase.UPGRADE}
    facts = whole.facts.model_copy(
        update={"upgrade": None, "reboot": None, "after": None, "checks_after": None}
    )
    return whole.model_copy(update={**values, "facts": facts, "started": time.time() - 90})


@pytest.fixture
def alive() -> str:
    """The mark of an owner that runs: this process."""
    return this_process()
