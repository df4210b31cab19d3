"""A Xen guest's console, read from a terminal that is another one after every reboot."""

from __future__ import annotations

import os
import shutil
import tempfile
import tty
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sandbox.clone.reaper import remove_run
from sandbox.core.settings import Settings
from sandbox.core.store import RunFolder, Store
from sandbox.hosts.drivers import xen_console
from sandbox.hosts.drivers.fake import FakeHypervisor
from sandbox.hosts.transport import LocalHost
from tests.support.fakes.xen_host import SHELLS
from tests.support.machine.processes import is_running
from tests.support.waiting import holds_soon

DOMAIN = "sandbox-20260102-030405-abcdef"


@dataclass
class XenConsole:
    """`xl domid` and `xenstore-read` on PATH; terminals whose other ends are ours."""

    folder: Path
    run: RunFolder
    ends: list[int] = field(default_factory=list)

    @property
    def log(self) -> Path:
        return self.run.artifacts / "console.log"

    def program(self, name: str, script: str) -> None:
        (self.folder / name).write_text(f"#!/bin/dash\ncd {self.folder} || exit 9\n{script}\n")
        (self.folder / name).chmod(0o755)

    def boot(self, domid: int, kind: str = "console") -> int:
        """A domain with a new terminal: what is written to the descriptor is what it says."""
        ours, theirs = os.openpty()
        tty.setraw(theirs)
        place = self.folder / f"local/domain/{domid}/{kind}"
        place.mkdir(parents=True)
        (place / "tty").write_text(os.ttyname(theirs) + "\n")
        os.close(theirs)
        (self.folder / "domid").write_text(f"{domid}\n")
        self.ends.append(ours)
        return ours

    def end(self, terminal: int) -> None:
        (self.folder / "domid").unlink()
        os.close(terminal)
        self.ends.remove(terminal)

    def follow(self) -> int:
        xen_console.follow_console(LocalHost(), DOMAIN, self.log, self.run)
        (program,) = self.run.processes()
        assert program.role == "console"
        return program.pid

    def says(self, terminal: int, text: str) -> bool:
        """Say something; whether it got into the log."""
        os.write(terminal, text.encode())
        return holds_soon(lambda: text in self.log.read_text(), 20)


@pytest.fixture(params=SHELLS)
def xen(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[XenConsole]:
    with tempfile.TemporaryDirectory(prefix="sbtest-") as made:
        programs = Path(made) / "programs"
        programs.mkdir()
        found = shutil.which(request.param)
        run = Store(Settings(state=Path(made) / "state")).create()
        world = XenConsole(programs, run)
        world.program("xl", f'[ "$*" = "domid {DOMAIN}" ] && cat domid')
        world.program("xenstore-read", 'cat "${1#/}"')
        world.program("sh", f'exec {found} {"sh" if request.param == "busybox" else ""} "$@"')
        monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
        yield world
        remove_run(FakeHypervisor(), run)
        for end in world.ends:
            os.close(end)


@pytest.mark.parametrize("kind", ["console", "serial/0"])
def test_what_the_guest_says_is_in_the_log_across_a_reboot(xen: XenConsole, kind: str) -> None:
    first = xen.boot(7, kind)
    xen.follow()
    assert xen.says(first, "Linux version 6.1\n")
    xen.end(first)
    second = xen.boot(8, kind)
    assert xen.says(second, "Linux version 6.12\n")
    assert xen.log.read_text().startswith("Linux version 6.1\n"), "the first boot's is kept"
    assert xen.log.stat().st_mode & 0o777 == 0o600, "it may hold the guest's secrets"


def test_it_is_there_before_the_guest_is(xen: XenConsole) -> None:
    xen.follow()
    assert xen.says(xen.boot(7), "late\n")


def test_it_ends_with_its_run(xen: XenConsole) -> None:
    terminal = xen.boot(7)
    pid = xen.follow()
    assert xen.says(terminal, "x\n")
    removed = remove_run(FakeHypervisor(), xen.run).removed
    assert f"console process {pid}" in removed
    assert holds_soon(lambda: not is_running(pid))


def test_it_ends_by_itself_when_the_domain_does_not_come_back(
    xen: XenConsole, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a remote host nobody ends it when the connection broke."""
    limit = f"-le {xen_console._LONGEST_PAUSE} ]"
    assert limit in xen_console._FOLLOW
    monkeypatch.setattr(xen_console, "_FOLLOW", xen_console._FOLLOW.replace(limit, "-le 1 ]"))
    terminal = xen.boot(7)
    pid = xen.follow()
    assert xen.says(terminal, "x\n")
    xen.end(terminal)
    assert holds_soon(lambda: not is_running(pid), 20)
