"""What is removed of a run, in which order, and what never is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import NoReturn

import pytest

from sandbox.clone.reaper import domain_name, leftovers, reap, remove_run
from sandbox.core.errors import HostError
from sandbox.core.process import run
from sandbox.core.settings import Settings
from sandbox.core.store import RunFolder, Store, start_time, this_process
from sandbox.hosts.drivers import Mark
from sandbox.hosts.drivers.fake import FakeHypervisor
from sandbox.hosts.transport import LocalHost
from sandbox.hosts.volumes import host_disks, lvm
from sandbox.hosts.volumes.host_disks import HostDisks
from sandbox.network import isolation
from tests.support.fakes.run_world import DEAD
from tests.support.machine.processes import is_running
from tests.support.waiting import holds_soon, soon


@pytest.fixture
def store() -> Iterator[Store]:
    with tempfile.TemporaryDirectory(prefix="sbtest-") as state:
        yield Store(Settings(state=Path(state)))


@pytest.fixture
def hypervisor() -> FakeHypervisor:
    made = FakeHypervisor()
    made.define("<domain><name>web01</name><devices/></domain>", running=True)
    return made


def clone_of(hypervisor: FakeHypervisor, folder: RunFolder, owner: str = DEAD) -> None:
    """A clone that runs, on a network, with an export of web01."""
    folder.note(owner=owner, source="web01")
    mark = Mark(folder.id, owner, 0, str(folder.clone))
    element = isolation.network_xml(isolation.names(folder.id), mark, len(hypervisor.networks))
    hypervisor.create_network(element)
    metadata = element[element.index("<metadata>") : element.index("</metadata>") + 11]
    hypervisor.start(
        f"<domain><name>{domain_name(folder.id)}</name>{metadata}<devices/></domain>", soon()
    )
    source = hypervisor.domains["web01"]
    if source.export is None:
        hypervisor.export_running(hypervisor.lookup("web01"), (), folder.clone, soon())


@pytest.fixture
def helper() -> Iterator[subprocess.Popen[bytes]]:
    """A process of a run's, in a group of its own."""
    child = subprocess.Popen(["sleep", "60"], start_new_session=True)
    yield child
    if child.poll() is None:
        child.kill()
    child.wait()


# -- one run ----------------------------------------------------------------------------------


def test_everything_of_a_run_is_removed_and_named(
    hypervisor: FakeHypervisor, store: Store, helper: subprocess.Popen[bytes]
) -> None:
    folder = store.create()
    clone_of(hypervisor, folder)
    folder.register(helper.pid, "qemu-nbd")
    done = remove_run(hypervisor, folder)
    assert done.failed == ()
    assert done.removed == (
        f"domain {domain_name(folder.id)}",
        f"qemu-nbd process {helper.pid}",
        "export of web01",
        f"network sandbox-{folder.id}",
        f"folder {folder.clone}",
    )
    assert list(hypervisor.domains) == ["web01"]
    assert hypervisor.networks == {}
    assert hypervisor.domains["web01"].export is None
    assert helper.wait(5) == -signal.SIGKILL
    assert folder.artifacts.exists(), "the record stays"
    again = remove_run(hypervisor, folder)
    assert (again.removed, again.failed) == ((), ())


def test_a_real_gate_is_removed(hypervisor: FakeHypervisor, store: Store) -> None:
    folder = store.create()
    names = isolation.names(folder.id)
    run(["ip", "link", "add", names.bridge, "type", "bridge"], soon())
    try:
        run(["nft", "-f", "-"], soon(), input=isolation.gate_rules(names, 22).encode())
        assert f"gate {names.table}" in remove_run(hypervisor, folder).removed
        assert names.table not in run(["nft", "list", "tables"], soon()).stdout
    finally:
        isolation.remove_gate(LocalHost(), names)
        run(["ip", "link", "del", names.bridge], soon())


STEPS = ("destroy", "end_export", "destroy_network")


@pytest.mark.parametrize("method", STEPS)
@pytest.mark.parametrize("problem", [HostError("no"), OSError("no")])
def test_one_step_that_fails_does_not_stop_the_others(
    hypervisor: FakeHypervisor, store: Store, method: str, problem: Exception
) -> None:
    folder = store.create()
    clone_of(hypervisor, folder)
    hypervisor.fail(method, problem)
    done = remove_run(hypervisor, folder)
    assert done.failed == ("no",)
    assert len(done.removed) == 2, done.removed
    assert folder.clone.exists(), "a later reap needs to know the source and the processes"
    again = remove_run(hypervisor, folder)
    assert again.failed == ()
    assert len(again.removed) == 2
    assert list(hypervisor.domains) == ["web01"]
    assert hypervisor.networks == {}
    assert not folder.clone.exists()


def test_what_does_not_carry_the_runs_mark_is_never_removed(
    hypervisor: FakeHypervisor, store: Store
) -> None:
    """Somebody gave his own domain and network the names that we would."""
    folder = store.create()
    name = domain_name(folder.id)
    hypervisor.define(f"<domain><name>{name}</name><devices/></domain>", running=True)
    hypervisor.networks[name] = f"<network><name>{name}</name></network>"
    done = remove_run(hypervisor, folder)
    assert len(done.failed) == 2
    assert all("does not carry the mark" in text for text in done.failed)
    assert name in hypervisor.domains
    assert name in hypervisor.networks


def test_another_runs_export_is_not_ended(hypervisor: FakeHypervisor, store: Store) -> None:
    first, second = store.create(), store.create()
    clone_of(hypervisor, first)
    second.note(source="web01")
    remove_run(hypervisor, second)
    assert hypervisor.domains["web01"].export is not None


# -- processes --------------------------------------------------------------------------------


def test_a_recycled_pid_is_not_killed(
    hypervisor: FakeHypervisor, store: Store, helper: subprocess.Popen[bytes]
) -> None:
    folder = store.create()
    with (folder.clone / "processes").open("a") as file:
        file.write(f"{helper.pid} {int(start_time(helper.pid)) - 1} qemu-nbd\n")
        file.write(f"{helper.pid}  ssh\n999999999 1 ssh\n")
    assert remove_run(hypervisor, folder).failed == ()
    assert helper.poll() is None


def test_a_whole_group_is_ended(hypervisor: FakeHypervisor, store: Store, tmp_path: Path) -> None:
    folder, pid = store.create(), tmp_path / "pid"
    child = subprocess.Popen(
        ["sh", "-c", f"sleep 60 & echo $! >{pid}; wait"], start_new_session=True
    )
    folder.register(child.pid, "virt-customize")
    assert holds_soon(lambda: pid.exists() and pid.read_text().strip() != "")
    remove_run(hypervisor, folder)
    assert child.wait(5) == -signal.SIGKILL
    assert holds_soon(lambda: not is_running(int(pid.read_text())))


def test_a_process_that_does_not_lead_its_group_takes_nobody_along(
    hypervisor: FakeHypervisor, store: Store
) -> None:
    folder = store.create()
    child = subprocess.Popen(["sleep", "60"])  # in our own group
    folder.register(child.pid, "ssh")
    remove_run(hypervisor, folder)
    assert child.wait(5) == -signal.SIGKILL


def test_a_program_that_a_killed_run_could_not_note_is_found(
    hypervisor: FakeHypervisor, store: Store, tmp_path: Path
) -> None:
    """By the run's own folder on its command line; nobody else's program has that."""
    folder, other = store.create(), store.create()
    program = tmp_path / "qemu-nbd"
    program.symlink_to("/usr/bin/tail")
    for place in (folder, other):
        (place.clone / "x").touch()
    children = [
        subprocess.Popen([program, "-f", place.clone / "x"], stderr=subprocess.DEVNULL)
        for place in (folder, other)
    ]
    try:
        started = time.monotonic()
        while not any("qemu-nbd" in text for text in remove_run(hypervisor, folder).removed):
            assert time.monotonic() - started < 60, "never found"
        assert children[0].wait(5) == -signal.SIGKILL
        assert is_running(children[1].pid)
    finally:
        for child in children:
            child.kill()
            child.wait()


# -- whose run it is --------------------------------------------------------------------------


def test_only_what_the_dead_left_and_did_not_keep_is_reaped(
    hypervisor: FakeHypervisor, store: Store
) -> None:
    dead, living, kept = (store.create() for _ in range(3))
    clone_of(hypervisor, dead)
    clone_of(hypervisor, living, owner=this_process())
    clone_of(hypervisor, kept)
    kept.note(kept="yes")
    assert leftovers(hypervisor, store) == (dead.id,)
    assert [done.run for done in reap(hypervisor, store)] == [dead.id]
    assert set(hypervisor.domains) == {"web01", domain_name(living.id), domain_name(kept.id)}
    assert reap(hypervisor, store) == ()


def test_the_run_of_a_killed_process_is_reaped(hypervisor: FakeHypervisor, store: Store) -> None:
    """A real process makes a run and dies of kill -9."""
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom sandbox.core.settings import Settings\n"
        "from sandbox.core.store import Store\n"
        "print(Store(Settings(state=Path(sys.argv[1]))).create().id, flush=True)\ntime.sleep(60)\n"
    )
    state = store.folder("x").artifacts.parent.parent
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(state)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout
    run_id = child.stdout.readline().strip()
    assert leftovers(hypervisor, store) == (), "its owner lives"
    os.kill(child.pid, signal.SIGKILL)
    assert holds_soon(lambda: leftovers(hypervisor, store) == (run_id,))
    child.communicate()
    assert [done.run for done in reap(hypervisor, store)] == [run_id]
    assert not store.folder(run_id).clone.exists()


def test_a_domain_whose_folder_is_lost_is_reaped(hypervisor: FakeHypervisor, store: Store) -> None:
    folder = store.create()
    clone_of(hypervisor, folder)
    hypervisor.end_export("web01", folder.clone)
    folder.remove_clone()
    assert [done.run for done in reap(hypervisor, store)] == [folder.id]
    assert list(hypervisor.domains) == ["web01"]


def test_what_another_state_folder_knows_of_is_left_to_it(
    hypervisor: FakeHypervisor, store: Store, tmp_path: Path
) -> None:
    """It may have been kept on purpose: only that folder says so."""
    other = Store(Settings(state=tmp_path)).create()
    clone_of(hypervisor, other)
    assert reap(hypervisor, store) == ()
    assert domain_name(other.id) in hypervisor.domains


ELSEWHERE = "1:1:00000000-0000-0000-0000-000000000000:0123456789ab"


def marked_elsewhere(hypervisor: FakeHypervisor, deadline: float) -> None:
    """A clone on this host that another machine drives; its folder is there, not here."""
    mark = Mark("20260102-030405-abcdef", ELSEWHERE, int(deadline), "/there/clones/x")
    hypervisor.create_network(isolation.network_xml(isolation.names(mark.run), mark, 1))


@pytest.mark.parametrize(
    ("seconds", "reaped"), [(3600, False), (-60, False), (-1700, False), (-1900, True)]
)
def test_what_another_machine_drives_lives_until_its_time_is_up(
    hypervisor: FakeHypervisor, store: Store, seconds: float, reaped: bool
) -> None:
    """And half an hour longer: the machines' clocks may differ."""
    marked_elsewhere(hypervisor, time.time() + seconds)
    assert bool(leftovers(hypervisor, store)) is reaped
    reap(hypervisor, store)
    assert bool(hypervisor.networks) is not reaped


def test_what_another_machine_drives_for_ever_is_not_ours_to_end(
    hypervisor: FakeHypervisor, store: Store
) -> None:
    marked_elsewhere(hypervisor, 0)
    assert leftovers(hypervisor, store) == ()


# -- on a Xen host ----------------------------------------------------------------------------


@pytest.fixture
def xen(
    hypervisor: FakeHypervisor, store: Store, monkeypatch: pytest.MonkeyPatch
) -> FakeHypervisor:
    lists = store.folder("x").clone.parent.parent / "host-clones"
    monkeypatch.setattr(host_disks, "FOLDER", PurePosixPath(lists))
    monkeypatch.setattr(lvm, "marked", lambda *_: ())  # the machine's own
    hypervisor.kind = "xen"
    return hypervisor


def copies_of(folder: RunFolder, images: Path, owner: str = DEAD) -> Path:
    """The folder of a run's disks beside the image that they are copies of."""
    place = images / host_disks.PLACE / folder.id
    mark = Mark(folder.id, owner, 0, str(folder.clone))
    HostDisks(LocalHost())._make_folders([PurePosixPath(place)], mark, soon())
    (place / "xvda.raw").touch()
    return place


def test_a_xen_hosts_disks_go_last(xen: FakeHypervisor, store: Store, tmp_path: Path) -> None:
    folder = store.create()
    clone_of(xen, folder)
    place = copies_of(folder, tmp_path)
    done = remove_run(xen, folder)
    assert done.failed == ()
    assert done.removed[-3:] == (
        f"folder {place}",
        f"folder {host_disks.FOLDER / folder.id}",
        f"folder {folder.clone}",
    )
    assert list(tmp_path.iterdir()) == []


def test_disks_of_a_domain_that_could_not_be_destroyed_are_left(
    xen: FakeHypervisor, store: Store, tmp_path: Path
) -> None:
    folder = store.create()
    clone_of(xen, folder)
    place = copies_of(folder, tmp_path)
    xen.fail("destroy", HostError("no"))
    assert remove_run(xen, folder).failed == ("no",)
    assert place.exists()
    assert folder.clone.exists()
    assert remove_run(xen, folder).failed == ()
    assert not place.exists()


def test_disks_that_cannot_be_removed_keep_the_run_known(
    xen: FakeHypervisor, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = store.create()
    clone_of(xen, folder)
    with monkeypatch.context() as patch:
        patch.setattr(lvm, "remove", raising(HostError("still in use")))
        assert remove_run(xen, folder).failed == ("still in use",)
    assert folder.facts()["owner"] == DEAD
    assert leftovers(xen, store) == (folder.id,)
    assert remove_run(xen, folder).failed == ()


def raising(problem: Exception) -> Callable[..., NoReturn]:
    def refuse(*_: object) -> NoReturn:
        raise problem

    return refuse


def test_disks_whose_run_nobody_remembers_are_reaped(
    xen: FakeHypervisor, store: Store, tmp_path: Path
) -> None:
    gone, living = store.create(), store.create()
    places = [copies_of(gone, tmp_path), copies_of(living, tmp_path, this_process())]
    gone.remove_clone()
    assert [done.run for done in reap(xen, store)] == [gone.id]
    assert [place.exists() for place in places] == [False, True]


def test_a_run_that_is_being_made_is_not_reaped(hypervisor: FakeHypervisor, store: Store) -> None:
    folder = store.create()
    (folder.clone / "facts.json").unlink()
    assert leftovers(hypervisor, store) == ()
    an_hour_ago = time.time() - 3600
    os.utime(folder.clone, (an_hour_ago, an_hour_ago))
    assert leftovers(hypervisor, store) == (folder.id,)
