"""The apt upgrader with real apt and dpkg: whose fault it is when something goes wrong."""

from __future__ import annotations

import fcntl
import re
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from sandbox.core.errors import DeadlineExceeded, GuestRestarted, GuestUnreachable, RequestError
from sandbox.core.records import UpgradeStatus
from sandbox.managers import UpgradeRequest, apt
from tests.support.fakes.apt_world import Rehearsal

# --- what goes wrong ------------------------------------------------------------------------


@pytest.mark.usefixtures("updates")
@pytest.mark.parametrize(
    ("package", "error"),
    [
        ("nonesuch", "Unable to locate package nonesuch"),
        ("web=9", "Version '9' for 'web' was not found"),
        ("pinned", "Held packages were changed"),
    ],
)
def test_impossible(rehearsal: Rehearsal, package: str, error: str) -> None:
    log = rehearsal.run(UpgradeRequest("packages", packages=(package,)))
    assert log.status == UpgradeStatus.IMPOSSIBLE
    assert error in log.error


@pytest.mark.parametrize("name", ["-o", "web-", "a b", "$(x)", "../x", "web=", "*"])
def test_names_that_are_options_or_worse(rehearsal: Rehearsal, name: str) -> None:
    with pytest.raises(RequestError, match="not a package name"):
        rehearsal.simulate(UpgradeRequest("packages", packages=(name,)))
    assert rehearsal.shell.scripts == []


def test_local_packages_that_are_none(rehearsal: Rehearsal, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"not a \.deb file"):
        rehearsal.simulate(UpgradeRequest("packages", files=(tmp_path / "none.deb",)))
    with pytest.raises(RequestError, match="no packages named"):
        rehearsal.simulate(UpgradeRequest("packages"))
    fake = tmp_path / "fake.deb"
    fake.write_text("not a package")
    log = rehearsal.run(UpgradeRequest("packages", files=(fake,)))
    assert log.status == UpgradeStatus.FAILED
    assert log.error


def test_a_maintainer_script_fails(rehearsal: Rehearsal) -> None:
    debian = rehearsal.world
    debian.install(debian.build("web", "1.0"), debian.build("app", "1.0", depends="web"))
    postinst = "echo preparing\necho 'web: [emerg] unknown directive \"x\"' >&2\nexit 3\n"
    debian.offer(
        debian.main,
        debian.build("web", "2.0", postinst=postinst),
        debian.build("app", "2.0", depends="web (>= 2.0)"),
    )
    log = rehearsal.run(UpgradeRequest("all"))
    assert (log.status, log.failed_package) == (UpgradeStatus.FAILED, "web")
    assert log.error == (
        "web: installed web package post-installation script subprocess returned error exit "
        'status 3: web: [emerg] unknown directive "x"'
    )
    assert log.not_configured == ("app:all", "web:all")
    assert log.exit_status == 100
    assert "web" in log.log.splitlines()[-1] or "The following packages" in log.log


@pytest.mark.usefixtures("updates")
def test_a_dpkg_that_was_interrupted_before(rehearsal: Rehearsal) -> None:
    """As on a guest that is cloned while its own dpkg is at work."""
    debian = rehearsal.world
    entry = "Package: web\nStatus: install ok unpacked\nVersion: 1.0\nArchitecture: all\n"
    (debian.root / "var/lib/dpkg/updates/0001").write_text(
        f"{entry}Maintainer: T <t@example.org>\nDescription: test\n"
    )
    log = rehearsal.run(UpgradeRequest("all"))
    assert log.status == UpgradeStatus.UNFIT
    assert log.error.startswith("dpkg was interrupted, you must manually run 'dpkg --configure")
    assert debian.version("web") == "1.0"


@pytest.mark.parametrize("also", [False, True])
def test_a_package_that_was_broken_before(rehearsal: Rehearsal, also: bool) -> None:
    """apt fails over it whatever is upgraded; what is upgraded may fail as well."""
    debian = rehearsal.world
    old = debian.build("old", "1.0", postinst="echo 'error: no licence' >&2\nexit 1\n")
    subprocess.run(["dpkg", "-i", old], env=debian.env, check=False, capture_output=True)
    debian.install(debian.build("web", "1.0"))
    debian.offer(debian.main, debian.build("web", "2.0", postinst="exit 1\n" if also else ""))
    log = rehearsal.run(UpgradeRequest("all"))
    assert log.status == UpgradeStatus.FAILED
    if not also:  # dpkg takes two in whatever order
        assert log.failed_package == "old"
        assert log.error.endswith("error: no licence")
    assert log.not_configured == (("old:all", "web:all") if also else ("old:all",))
    assert [change.name for change in log.changes] == ["web"]


def test_a_mirror_that_is_down(rehearsal: Rehearsal) -> None:
    rehearsal.world.close()
    log = rehearsal.run(UpgradeRequest("all"))
    assert log.status == UpgradeStatus.UNAVAILABLE
    assert "Could not connect to 127.0.0.1" in log.error


@pytest.mark.usefixtures("updates")
def test_a_package_that_vanished_from_the_mirror(rehearsal: Rehearsal) -> None:
    request = UpgradeRequest("all")
    simulation = rehearsal.simulate(request)
    (rehearsal.world.main.folder / "web_2.0_all.deb").unlink()
    log = rehearsal.upgrader.apply(rehearsal.shell, request, simulation, rehearsal.deadline())
    assert log.status == UpgradeStatus.UNAVAILABLE
    assert log.error.startswith("Failed to fetch")
    assert rehearsal.world.version("lib") == "1.0"  # nothing was installed


@pytest.mark.usefixtures("updates")
def test_a_package_that_is_not_what_was_promised(rehearsal: Rehearsal) -> None:
    deb = rehearsal.world.main.folder / "web_2.0_all.deb"
    deb.write_bytes(b"x" * deb.stat().st_size)
    log = rehearsal.run(UpgradeRequest("all"))
    assert (log.status, "Hash Sum mismatch" in log.error) == (UpgradeStatus.UNAVAILABLE, True)


def test_a_hanging_maintainer_script_is_named(rehearsal: Rehearsal) -> None:
    debian = rehearsal.world
    debian.install(debian.build("web", "1.0"))
    debian.offer(debian.main, debian.build("web", "2.0", postinst="echo hello; sleep 60\n"))
    request = UpgradeRequest("all")
    simulation = rehearsal.simulate(request)
    with pytest.raises(DeadlineExceeded, match=r"last words: hello \(at web\)"):
        rehearsal.upgrader.apply(rehearsal.shell, request, simulation, rehearsal.deadline(10))


@pytest.mark.parametrize(
    ("problem", "told"),
    [
        (GuestUnreachable("it is off", "see"), "it is off; apt's last words: Setting up web (2.0)"),
        (GuestRestarted(), "restarted by itself; apt's last words: Setting up web (2.0)"),
    ],
)
def test_a_guest_that_goes_away_says_how_far_it_came(
    rehearsal: Rehearsal,
    monkeypatch: pytest.MonkeyPatch,
    problem: GuestUnreachable,
    told: str,
) -> None:
    debian, request, follow = rehearsal.world, UpgradeRequest("all"), rehearsal.shell.follow
    debian.install(debian.build("web", "1.0"))
    debian.offer(debian.main, debian.build("web", "2.0"))
    simulation = rehearsal.simulate(request)

    def ends(*words: Any, **more: Any) -> int:
        follow(*words, **more)
        raise problem

    monkeypatch.setattr(rehearsal.shell, "follow", ends)
    with pytest.raises(type(problem), match=re.escape(told)) as caught:
        rehearsal.upgrader.apply(rehearsal.shell, request, simulation, rehearsal.deadline())
    assert caught.value.hint == problem.hint


def test_a_question_gets_no_answer_and_the_script_is_not_eaten(rehearsal: Rehearsal) -> None:
    debian = rehearsal.world
    debian.install(debian.build("web", "1.0"))
    postinst = "if read answer; then echo 'somebody answered'; exit 1; fi\n"
    debian.offer(debian.main, debian.build("web", "2.0", postinst=postinst))
    assert rehearsal.run(UpgradeRequest("all")).status == UpgradeStatus.APPLIED


def test_a_daemon_that_a_script_starts_does_not_hold_us(rehearsal: Rehearsal) -> None:
    debian = rehearsal.world
    debian.install(debian.build("web", "1.0"))
    daemon = "sleep 20 >/dev/null 2>&1 </dev/null &\n"
    debian.offer(debian.main, debian.build("web", "2.0", postinst=daemon))
    started = time.monotonic()
    assert rehearsal.run(UpgradeRequest("all")).status == UpgradeStatus.APPLIED
    assert time.monotonic() - started < 10


@pytest.mark.usefixtures("updates")
def test_the_guests_own_apt_is_waited_for(
    rehearsal: Rehearsal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apt, "LOCK_PAUSE", 0.2)
    lock = (rehearsal.world.root / "var/lib/apt/lists/lock").open("w")
    fcntl.lockf(lock, fcntl.LOCK_EX)
    threading.Timer(1.0, lock.close).start()
    assert rehearsal.run(UpgradeRequest("all")).status == UpgradeStatus.APPLIED
    assert any("Could not get lock" in line for line in rehearsal.lines)
