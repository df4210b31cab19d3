"""Runs whose state folder or whose host is gone for a while: what is removed all the same."""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from sandbox.clone import reaper
from sandbox.clone.reaper import reap, remove_run
from sandbox.core.deadline import Deadline
from sandbox.core.errors import DeadlineExceeded, HostError
from sandbox.core.settings import Settings
from sandbox.core.store import Store
from sandbox.hosts.drivers.fake import FakeHypervisor
from sandbox.hosts.transport import HostLost
from tests.support.waiting import holds_soon
from tests.system.test_reaper import clone_of, hypervisor, store

__all__ = ["hypervisor", "store"]


def test_the_processes_of_a_lost_state_folder_are_ended_too(
    hypervisor: FakeHypervisor, store: Store, tmp_path: Path
) -> None:
    """They are known by the path that they work on, which lay beneath that other folder."""
    other = Store(Settings(state=tmp_path / "other")).create()
    clone_of(hypervisor, other)
    hypervisor.end_export("web01", other.clone)
    image, socket = tmp_path / "a.raw", other.clone / "a.sock"
    image.write_bytes(bytes(1 << 20))
    server = subprocess.Popen(
        ["qemu-nbd", "--read-only", "--persistent", "-f", "raw", "--socket", socket, image]
    )
    try:
        assert holds_soon(socket.exists)
        shutil.rmtree(tmp_path / "other")
        (done,) = reap(hypervisor, store)
        assert done.run == other.id
        assert any("qemu-nbd" in removed for removed in done.removed)
        assert server.wait(10) == -signal.SIGKILL
    finally:
        server.kill()
        server.wait()


# -- the way to the host is cut for a while ---------------------------------------------------

LOST = HostLost("the host a cannot be reached", "try: ssh a")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reaper, "_RETRY_PAUSE", 0.02)


@pytest.mark.parametrize("problem", [LOST, DeadlineExceeded("removing the gate: ssh", 20)])
@pytest.mark.parametrize("times", [1, 5])
def test_a_host_that_comes_back_is_cleaned_up(
    hypervisor: FakeHypervisor, store: Store, problem: Exception, times: int
) -> None:
    folder = store.create()
    clone_of(hypervisor, folder)
    for method in ("destroy", "end_export", "destroy_network"):
        hypervisor.fail(method, *[problem] * times)
    done = remove_run(hypervisor, folder, Deadline(20, "cleanup"))
    assert done.failed == ()
    assert len(done.removed) == 4
    assert list(hypervisor.domains) == ["web01"]
    assert hypervisor.networks == {}
    assert not folder.clone.exists()


def test_a_host_that_stays_away_is_waited_for_until_the_deadline(
    hypervisor: FakeHypervisor, store: Store
) -> None:
    folder = store.create()
    clone_of(hypervisor, folder)
    hypervisor.fail("destroy", *[LOST] * 10_000)
    deadline = Deadline(0.5, "cleanup")
    done = remove_run(hypervisor, folder, deadline)
    assert done.failed == (str(LOST),)
    assert deadline.remaining() < 0.1
    assert len(hypervisor._failures["destroy"]) < 9_998, "it was tried again"
    assert hypervisor.networks == {}, "what could be removed is"
    assert folder.clone.exists(), "a later reap needs it"


def test_what_is_refused_is_not_asked_again(hypervisor: FakeHypervisor, store: Store) -> None:
    folder = store.create()
    clone_of(hypervisor, folder)
    hypervisor.fail("destroy", HostError("it will not die"), HostError("again"))
    hypervisor.fail("destroy_network", LOST)
    done = remove_run(hypervisor, folder, Deadline(20, "cleanup"))
    assert done.failed == ("it will not die",)
    assert hypervisor.networks == {}


def test_without_a_deadline_nothing_is_waited_for(hypervisor: FakeHypervisor, store: Store) -> None:
    """`sandbox rm` and `reap`: somebody sits before them, or they come again."""
    folder = store.create()
    clone_of(hypervisor, folder)
    hypervisor.fail("destroy", LOST)
    assert remove_run(hypervisor, folder).failed == (str(LOST),)
    assert remove_run(hypervisor, folder).failed == ()
