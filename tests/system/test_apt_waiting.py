"""The apt upgrader with real apt: who it waits for when its time runs out."""

from __future__ import annotations

import fcntl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sandbox.core.errors import DeadlineExceeded, GuestBusy, NotFetched
from sandbox.core.records import UpgradeStatus
from sandbox.managers import UpgradeRequest, apt
from sandbox.managers.apt_parse import package_at_work, still_fetches, waits_for_lock
from tests.support.fakes.apt_world import QuietHandler, Rehearsal

ALL = UpgradeRequest("all")
PATIENCE = 8.0  # seconds that each of these gets: apt has to begin in them, on a busy machine too


@contextmanager
def held(lock: Path) -> Iterator[None]:
    with lock.open("w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        yield


@pytest.mark.usefixtures("updates")
def test_lists_whose_lock_another_apt_keeps(
    rehearsal: Rehearsal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apt, "LOCK_PAUSE", 0.2)
    upgrader, shell = rehearsal.upgrader, rehearsal.shell
    with (
        held(rehearsal.world.root / "var/lib/apt/lists/lock"),
        pytest.raises(GuestBusy, match=r"is at work in the guest: Could not get lock .*process"),
    ):
        upgrader.simulate(shell, ALL, rehearsal.deadline(PATIENCE))


@pytest.mark.usefixtures("updates")
def test_packages_whose_lock_another_apt_keeps(rehearsal: Rehearsal) -> None:
    """apt waits for this one by itself, and says so."""
    simulation = rehearsal.simulate(ALL)
    with (
        held(rehearsal.world.root / "var/lib/dpkg/lock-frontend"),
        pytest.raises(GuestBusy, match=r"at work in the guest: Waiting for cache lock: .*process"),
    ):
        rehearsal.upgrader.apply(rehearsal.shell, ALL, simulation, rehearsal.deadline(PATIENCE))
    assert rehearsal.world.version("web") == "1.0"


def test_a_script_that_wants_the_lock_fails_at_once(rehearsal: Rehearsal) -> None:
    """apt has the lock then, and will have it for ever: trying again cannot help."""
    debian = rehearsal.world
    debian.install(debian.build("web", "1.0"))
    wants = "echo 'E: Could not get lock /var/lib/dpkg/lock-frontend' >&2; exit 100\n"
    debian.offer(debian.main, debian.build("web", "2.0", postinst=wants))
    log = rehearsal.run(ALL)
    assert (log.status, log.failed_package) == (UpgradeStatus.FAILED, "web")
    assert "Could not get lock" in log.error


@pytest.mark.usefixtures("updates")
def test_packages_that_never_come_are_not_the_upgrades_fault(
    rehearsal: Rehearsal, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulation = rehearsal.simulate(ALL)
    end = threading.Event()
    serve = QuietHandler.do_GET

    def stall(handler: QuietHandler) -> None:
        if handler.path.endswith(".deb"):
            end.wait(30)
        serve(handler)

    monkeypatch.setattr(QuietHandler, "do_GET", stall)
    try:
        with pytest.raises(NotFetched, match=r"the packages were not fetched yet; apt's last"):
            rehearsal.upgrader.apply(rehearsal.shell, ALL, simulation, rehearsal.deadline(PATIENCE))
    finally:
        end.set()
    assert rehearsal.world.version("web") == "1.0"


@pytest.mark.usefixtures("updates")
def test_a_hook_that_hangs_once_all_is_fetched_is(rehearsal: Rehearsal) -> None:
    simulation = rehearsal.simulate(ALL)
    with (rehearsal.world.folder / "apt.conf").open("a") as conf:
        conf.write('DPkg::Pre-Install-Pkgs { "sleep 30"; };\n')
    with pytest.raises(DeadlineExceeded, match="apt's last words: Get:") as caught:
        rehearsal.upgrader.apply(rehearsal.shell, ALL, simulation, rehearsal.deadline(PATIENCE))
    assert type(caught.value) is DeadlineExceeded, "that is a failed upgrade"


GET, GOT = "dlstatus:1:20.5:Retrieving file 1 of 2", "dlstatus:2:100.0:Retrieving file 2 of 2"
UNPACKS = "pmstatus:web:20:Unpacking web"


@pytest.mark.parametrize(
    ("statuses", "fetches"),
    [
        ([GET], True),
        ([GET, "nonsense"], True),
        ([GET, GOT], False),  # a hook of apt's hangs
        ([GET, GOT, UNPACKS], False),
        ([GET, GOT, UNPACKS, GET], False),  # the second of two steps: the first changed something
        (["nonsense"], False),
        ([], False),
    ],
)
def test_whether_it_still_fetches(statuses: list[str], fetches: bool) -> None:
    assert still_fetches(statuses) is fetches


def test_the_package_at_work() -> None:
    first = "pmstatus:dpkg-exec:0:Running dpkg"
    assert package_at_work([]) == package_at_work([GET, first, "nonsense"]) == ""
    assert package_at_work([GET, first, UNPACKS, "pmstatus:libc6:amd64:30:Unpacking"]) == "libc6"


@pytest.mark.parametrize(
    ("words", "waits"),
    [
        ("Waiting for cache lock: Could not get lock /var/lib/dpkg/lock-frontend. It is", True),
        ("Waiting for nginx to come up", False),
        ("Setting up web: Waiting for cache lock: no", False),
        ("", False),
    ],
)
def test_whether_it_waits(words: str, waits: bool) -> None:
    assert waits_for_lock(words) is waits
