"""The scripts for a Xen host, run for real by three shells: production runs on, whatever happens.

The host's programs are in xen_host.py; tests/contract/test_host_volumes.py has real images.
"""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

from sandbox.core.errors import CommandFailed, HostError, RequestError
from sandbox.core.process import kill_group
from sandbox.core.records import Disk
from sandbox.hosts.drivers.clone_devices import CloneDisk
from sandbox.hosts.transport import Host, HostLost, LocalHost
from sandbox.hosts.volumes import MadeDisks, host_disks
from sandbox.hosts.volumes.host_disks import HostDisks
from tests.support.fakes.host_way import way_to
from tests.support.fakes.lvm_world import MARK, RUN, pool_row, report, row
from tests.support.fakes.xen_host import GUEST, SHELLS, XenHost
from tests.support.machine.sshd import running_sshd
from tests.support.waiting import holds_soon, soon

SIZE = 1 << 20
LONG = 600  # seconds of a watchdog that has no part in a test


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short: sockets are made beneath it."""
    with tempfile.TemporaryDirectory(prefix="sbtest-") as made:
        yield Path(made)


@pytest.fixture(params=SHELLS)
def xen(
    request: pytest.FixtureRequest, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[XenHost]:
    made = XenHost(folder, request.param)
    monkeypatch.setenv("PATH", f"{made.programs}:{os.environ['PATH']}")
    monkeypatch.setattr(host_disks, "FOLDER", PurePosixPath(folder / "host-clones"))
    yield made
    made.release()  # whatever still waits ends by itself
    assert holds_soon(lambda: not made.script_processes())


def volumes(*names: str) -> list[Disk]:
    return [
        Disk(target=f"xvd{'abc'[n]}", format="raw", path=f"/dev/vg0/{name}", size=SIZE, store="lvm")
        for n, name in enumerate(names)
    ]


def make(
    disks: list[Disk],
    *,
    name: str = GUEST,
    running: bool = True,
    patience: int = LONG,
    host: Host | None = None,
) -> MadeDisks:
    maker = HostDisks(host or LocalHost(), patience=patience, room=0)
    return maker.make(name, running, disks, MARK, soon())


# -- one instant ------------------------------------------------------------------------------


def test_all_disks_are_taken_while_the_guest_is_paused_and_it_runs_on(xen: XenHost) -> None:
    made = make(volumes("root", "data"))
    assert xen.calls == ["pause", "lvcreate paused=1 root", "lvcreate paused=1 data", "unpause"]
    assert xen.pauses == 0
    assert made.disks == (
        CloneDisk("xvda", Path("/dev/vg0/sbabcdef-xvda"), "block"),
        CloneDisk("xvdb", Path("/dev/vg0/sbabcdef-xvdb"), "block"),
    )
    assert (made.method, made.consistency) == ("thin snapshot", "crash-consistent")
    assert made.paused_ms > 0
    assert made.allocated == 0
    assert xen.watchdogs() == [], "it would undo a pause that somebody orders later"


@pytest.mark.parametrize(("running", "names"), [(True, ["root"]), (False, ["root", "data"])])
def test_a_pause_that_is_not_needed_is_not_made(
    xen: XenHost, running: bool, names: list[str]
) -> None:
    """LVM takes one volume at one instant by itself; a guest that is off writes nothing."""
    made = make(volumes(*names), running=running)
    assert xen.calls == [f"lvcreate paused=0 {name}" for name in names]
    assert made.paused_ms == 0
    assert made.consistency == ("crash-consistent" if running else "clean")


def test_a_guest_that_its_administrator_paused_stays_paused(xen: XenHost) -> None:
    xen.put(paused="1")
    make(volumes("root", "data"))
    assert xen.pauses == 1
    (xen.folder / "lvcreate-fails").touch()
    with pytest.raises(CommandFailed):
        make(volumes("root", "data"))
    assert xen.pauses == 1


@pytest.mark.parametrize("name", ["42", "a b", "a'b\"c", "$(reboot)", "ä", "*"])
def test_a_guest_may_have_any_name(xen: XenHost, name: str) -> None:
    """To `xl pause` a name of digits is the id of another guest: xl is asked for the id first."""
    xen.put(name=name)
    make(volumes("root", "data"), name=name)
    assert xen.calls[0] == "pause"
    assert xen.calls[-1] == "unpause"


def test_a_guest_that_is_gone_is_not_copied(xen: XenHost) -> None:
    with pytest.raises(CommandFailed):
        make(volumes("root", "data"), name="gone")
    assert xen.calls == []


# -- production runs on -----------------------------------------------------------------------


def test_a_guest_runs_on_when_a_copy_fails(xen: XenHost) -> None:
    (xen.folder / "lvcreate-fails").touch()
    with pytest.raises(CommandFailed, match="no space"):
        make(volumes("root", "data"))
    assert xen.calls == ["pause", "lvcreate paused=1 root", "unpause"]
    assert xen.watchdogs() == []


def test_a_guest_that_cannot_be_paused_is_neither_copied_nor_unpaused(xen: XenHost) -> None:
    (xen.folder / "pause-fails").touch()
    xen.put(paused="1")  # by its administrator
    with pytest.raises(CommandFailed):
        make(volumes("root", "data"))
    assert xen.calls == []
    assert xen.pauses == 1
    assert xen.watchdogs() == []


def in_background(
    host: Host | None = None, patience: int = LONG
) -> tuple[threading.Thread, list[BaseException]]:
    problems: list[BaseException] = []

    def attempt() -> None:
        try:
            make(volumes("root", "data"), host=host, patience=patience)
        except BaseException as problem:
            problems.append(problem)

    thread = threading.Thread(target=attempt)
    thread.start()
    return thread, problems


SIGNALS = [signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE]


@pytest.fixture
def heard() -> Iterator[None]:
    """What is ignored where the tests were started (by nohup, or in the background of a shell)
    their children would ignore, too, and a shell cannot trap it."""
    before = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("number", SIGNALS)
def test_a_guest_runs_on_when_the_script_is_ended(xen: XenHost, number: signal.Signals) -> None:
    xen.hang()
    thread, problems = in_background()
    assert xen.hanging()
    assert xen.pauses == 1
    for pid in xen.script_processes():
        os.kill(pid, number)
    xen.release()  # a shell minds a signal when its command has ended
    thread.join()
    assert isinstance(problems[0], CommandFailed)
    assert holds_soon(lambda: xen.pauses == 0)
    assert xen.calls == ["pause", "lvcreate paused=1 root", "unpause"]
    assert holds_soon(lambda: xen.watchdogs() == [])


def test_a_guest_runs_on_when_the_script_is_killed(xen: XenHost) -> None:
    xen.hang()
    thread, problems = in_background(patience=2)
    assert xen.hanging()
    for pid in xen.script_processes():
        os.kill(pid, signal.SIGKILL)
    assert holds_soon(lambda: xen.pauses == 0, 120), "the watchdog did not unpause it"
    assert holds_soon(lambda: xen.watchdogs() == [])
    xen.release()
    thread.join()
    assert isinstance(problems[0], CommandFailed)


def test_copies_that_take_too_long_are_of_no_instant(xen: XenHost) -> None:
    """The guest ran on between the first disk and the second: nobody may rehearse on that."""
    xen.hang()
    thread, problems = in_background(patience=1)
    assert xen.hanging()
    assert holds_soon(lambda: xen.pauses == 0, 30)
    xen.release()
    thread.join()
    assert isinstance(problems[0], CommandFailed)
    assert "the guest ran on meanwhile" in problems[0].tail
    assert xen.pauses == 0


def test_a_guest_runs_on_when_we_give_up(xen: XenHost) -> None:
    """Ctrl-C and a deadline kill what we started, not the script: it ends in its own time."""
    xen.hang()
    thread, problems = in_background()
    assert xen.hanging()
    for pid in xen.what_we_started():
        kill_group(pid)
    assert xen.pauses == 1
    xen.release()
    thread.join()
    assert isinstance(problems[0], CommandFailed)
    assert holds_soon(lambda: xen.calls[-1:] == ["unpause"], 20)
    assert xen.pauses == 0
    assert holds_soon(lambda: xen.watchdogs() == [])


def test_a_guest_runs_on_when_the_connection_is_cut(xen: XenHost, tmp_path: Path) -> None:
    search = f"{xen.programs}:/usr/sbin:/usr/bin:/sbin:/bin"
    with running_sshd(tmp_path, search=search) as sshd, way_to(sshd) as way:
        xen.hang()
        thread, problems = in_background(way.host())
        assert xen.hanging()
        assert xen.pauses == 1
        sshd.drop_sessions()
        thread.join()
        assert isinstance(problems[0], HostLost)
        xen.release()
        assert holds_soon(lambda: xen.calls[-1:] == ["unpause"], 20)
        assert xen.pauses == 0
        assert holds_soon(lambda: xen.watchdogs() == [])


def test_a_pool_that_is_nearly_full_is_left_alone(xen: XenHost) -> None:
    xen.put(**{"lvs.json": report(pool_row(metadata="90.00"), row("root"))})
    with pytest.raises(HostError, match="the metadata of the thin pool vg0/thin is 90 % full"):
        make(volumes("root"))
    assert xen.calls == []


def test_a_thick_volume_costs_production_and_says_so(xen: XenHost) -> None:
    xen.put(**{"lvs.json": report(row("root", pool_lv="", segtype="linear"))})
    made = make(volumes("root"))
    assert made.method == "thick snapshot"
    assert "production writes every changed block twice" in made.warnings[0]


def test_a_volume_that_is_gone_is_the_hosts_fault(xen: XenHost) -> None:
    with pytest.raises(HostError, match="is no logical volume any more"):
        make(volumes("other"))


# -- files ------------------------------------------------------------------------------------

ODD_NAMES = ("plain", "a b", "it's", 'say "x"', "$(id)`id`", "back\\slash", "ä*?[1]", "-rf")


@pytest.fixture
def reflinks(xen: XenHost) -> XenHost:
    """A `cp` that shares blocks, as far as anybody can see."""
    words = 'for word; do shift; [ "$word" = --reflink=always ] || set -- "$@" "$word"; done'
    path = xen.programs / "cp"
    path.write_text(f'#!/bin/dash\n{words}\nexec /bin/cp "$@"\n')
    path.chmod(0o755)
    return xen


def image(place: Path, name: str = "web01.raw") -> Disk:
    place.mkdir(parents=True, exist_ok=True)
    path = place / name
    path.write_bytes(b"production".ljust(SIZE, b"\0"))
    return Disk(target="xvda", format="raw", path=str(path), size=SIZE, store="file")


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_running_guests_file_is_copied_while_it_is_paused(
    reflinks: XenHost, folder: Path, name: str
) -> None:
    disk = image(folder / name, f"{name}.raw")
    made = make([disk])
    copy = Path(made.disks[0].overlay)
    assert made.disks == (CloneDisk("xvda", copy, "raw"),)
    assert copy.read_bytes() == Path(disk.path).read_bytes()
    assert copy.parent.stat().st_mode & 0o777 == 0o700, "a clone's disk holds production's data"
    assert reflinks.calls == ["pause", "unpause"]
    assert made.method == "reflink copy"
    removed = host_disks.remove(LocalHost(), RUN, soon())
    assert f"folder {copy.parent}" in removed
    assert sorted(path.name for path in (folder / name).iterdir()) == [f"{name}.raw"]


def test_volumes_and_files_are_taken_at_the_same_instant(reflinks: XenHost, folder: Path) -> None:
    made = make([image(folder / "images"), *volumes("root")])
    assert reflinks.calls == ["pause", "lvcreate paused=1 root", "unpause"]
    assert made.method == "reflink copy and thin snapshot"


def test_a_running_guests_file_is_not_copied_without_reflinks(xen: XenHost, folder: Path) -> None:
    (xen.programs / "cp").symlink_to("/bin/false")
    with pytest.raises(RequestError, match="without reflinks") as caught:
        make([image(folder / "images")])
    assert "a stopped guest can be rehearsed from any" in caught.value.hint
    assert xen.calls == [], "production was not paused for nothing"
    host_disks.remove(LocalHost(), RUN, soon())
    assert sorted(path.name for path in (folder / "images").iterdir()) == ["web01.raw"]
    assert not Path(host_disks.FOLDER / RUN).exists()
