"""Getting into the clone, and back in after a reboot.

For reboots the guest's PATH has nothing but a folder of ours: nothing can restart this machine.
"""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sandbox.clone import guest as guest_module
from sandbox.clone.guest import Guest
from sandbox.core.deadline import Deadline
from sandbox.core.errors import DeadlineExceeded, GuestUnreachable, HostError
from sandbox.hosts.drivers.fake import FakeHypervisor
from tests.support.fakes.guest_world import (
    DOMAIN,
    Commands,
    console,
    login_of,
    make_guest,
)
from tests.support.machine.sshd import Sshd
from tests.support.waiting import soon

# -- getting in -------------------------------------------------------------------------------


def test_the_boot_id_is_what_entering_gives(guest: Guest) -> None:
    here = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert guest.enter(soon()) == here


def test_a_guest_that_never_answers_is_described(
    sshd: Sshd, hypervisor: FakeHypervisor, tmp_path: Path, found: list[str | None]
) -> None:
    found[:] = [None]
    guest = make_guest(sshd, hypervisor, tmp_path)
    console(guest, "\x1b[1mDebian GNU/Linux\x1b[0m\r\n\nweb01 login: \n")
    with pytest.raises(GuestUnreachable, match="no SSH within 1 s") as caught:
        guest.enter(Deadline(1, "boot"))
    assert "nothing answers on its SSH port" in caught.value.message
    assert "'web01 login:'" in caught.value.message
    assert not caught.value.refused


@pytest.mark.parametrize(("silence", "told"), [(97.4, True), (20.0, False)])
def test_a_card_that_sends_nothing_is_told_of(
    sshd: Sshd,
    hypervisor: FakeHypervisor,
    tmp_path: Path,
    found: list[str | None],
    monkeypatch: pytest.MonkeyPatch,
    silence: float,
    told: bool,
) -> None:
    found[:] = [None]
    monkeypatch.setattr(guest_module.discovery.Sending, "silence", lambda _self: silence)
    with pytest.raises(GuestUnreachable) as caught:
        make_guest(sshd, hypervisor, tmp_path).enter(Deadline(1, "boot"))
    said = "on its SSH port and its network card has sent nothing for 97 s"
    assert (said in caught.value.message) is told


def test_a_refused_key_ends_the_waiting(
    sshd: Sshd, hypervisor: FakeHypervisor, tmp_path: Path
) -> None:
    guest = make_guest(sshd, hypervisor, tmp_path)
    stranger = tmp_path / "stranger"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", stranger], check=True)
    guest.connection.login = replace(login_of(sshd), key=stranger)
    started = time.monotonic()
    with pytest.raises(GuestUnreachable) as caught:
        guest.enter(soon())
    assert caught.value.refused
    assert time.monotonic() - started < 10


def test_a_server_that_stalls_is_unreachable_and_no_fault_of_the_hosts(
    sshd: Sshd, hypervisor: FakeHypervisor, tmp_path: Path
) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        make_guest(sshd, hypervisor, tmp_path) as guest,
    ):
        guest.connection.login = replace(login_of(sshd), port=silent.getsockname()[1])
        with pytest.raises(GuestUnreachable, match="no SSH within 1 s"):
            guest.enter(Deadline(1, "boot"))


def test_an_attempt_that_stalls_is_followed_by_another(
    guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guest that is busy for the time of one attempt is still within the phase's."""
    opened = guest.connection.open
    attempts: list[str] = []

    def stall_once(address: str, deadline: Deadline) -> None:
        attempts.append(address)
        if len(attempts) == 1:
            raise DeadlineExceeded("boot", 60)
        opened(address, deadline)

    monkeypatch.setattr(guest.connection, "open", stall_once)
    assert guest.enter(soon())
    assert len(attempts) == 2


@pytest.mark.parametrize(("patience", "blamed"), [(30, GuestUnreachable), (0, DeadlineExceeded)])
def test_time_that_ends_while_the_host_looks_was_the_guests_unless_the_host_hangs(
    guest: Guest, monkeypatch: pytest.MonkeyPatch, patience: float, blamed: type[Exception]
) -> None:
    def look(*args: object) -> str | None:
        deadline = next(arg for arg in args if isinstance(arg, Deadline))
        while True:
            deadline.sleep(0.1)

    monkeypatch.setattr(guest_module.discovery, "find", look)
    monkeypatch.setattr(guest_module, "_HOST_PATIENCE", patience)
    with pytest.raises(blamed):
        guest.enter(Deadline(0.5, "boot"))


@pytest.mark.parametrize("state", ["off", "crashed", "paused"])
def test_a_clone_that_does_not_run_is_not_waited_for(
    sshd: Sshd, hypervisor: FakeHypervisor, tmp_path: Path, state: str
) -> None:
    hypervisor.domains[DOMAIN].state = state
    started = time.monotonic()
    with pytest.raises(GuestUnreachable, match=state):
        make_guest(sshd, hypervisor, tmp_path).enter(soon())
    assert time.monotonic() - started < 15


@pytest.mark.parametrize(
    ("patience", "least", "blamed"),
    [
        (0.2, 60, HostError),  # for long enough
        (60, 0.2, HostError),  # and then time was up
        (60, 60, GuestUnreachable),  # just then: the guest may restart again and again
    ],
)
def test_a_clone_that_its_host_does_not_start_again_is_the_hosts_fault(
    sshd: Sshd,
    hypervisor: FakeHypervisor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    patience: float,
    least: float,
    blamed: type[Exception],
) -> None:
    """As Xen does whose scripts take too long: the upgrade has nothing to do with it."""
    monkeypatch.setattr(guest_module, "_RESTART_PATIENCE", patience)
    monkeypatch.setattr(guest_module, "_RESTART_LEAST", least)
    monkeypatch.setattr(guest_module.discovery, "find", lambda *_: None)
    hypervisor.domains[DOMAIN].state = "restarting"
    with pytest.raises(blamed) as caught:
        make_guest(sshd, hypervisor, tmp_path).enter(Deadline(2, "reboot"))
    assert type(caught.value) is blamed


@pytest.mark.parametrize(
    ("said", "meaning"),
    [
        ("[    1.2] Kernel panic - not syncing: VFS: Unable to mount root fs", "panicked"),
        ("ALERT! UUID=… does not exist.  Dropping to a shell!\n(initramfs) ", "initramfs"),
        ("error: no such device\ngrub rescue> ", "GRUB"),
        ("error: not xen image.\n\nPress any key to continue...", "cannot load its kernel"),
        ("You are in emergency mode. After logging in", "emergency"),
        ("Boot failed: not a bootable disk\n", "nothing to boot"),
    ],
)
def test_a_dead_end_on_the_console_costs_only_some_patience(
    sshd: Sshd,
    hypervisor: FakeHypervisor,
    tmp_path: Path,
    found: list[str | None],
    monkeypatch: pytest.MonkeyPatch,
    said: str,
    meaning: str,
) -> None:
    monkeypatch.setattr(guest_module, "_PATIENCE", 1.0)
    found[:] = [None]
    guest = make_guest(sshd, hypervisor, tmp_path)
    console(guest, said)
    started = time.monotonic()
    with pytest.raises(GuestUnreachable, match=meaning):
        guest.enter(soon())
    assert 1 <= time.monotonic() - started < 15


def test_the_consoles_tail_is_clean(guest: Guest) -> None:
    console(guest, "first\r\n\x1b[2J\x1b[0;32m  OK  \x1b[0m started\x07\n\n\xff\xfe last\n")
    assert guest.console_tail(2) == ("  OK   started", " last")
    assert guest.console_tail(99)[0] == "first"


def test_a_huge_console_is_read_from_its_end(guest: Guest) -> None:
    console(guest, "x" * 200 + "\n")
    with guest._entrance.console_log.open("ab") as log:
        log.write(b"spam spam\n" * 200_000)
        log.write(b"the last line\n")
    assert guest.console_tail(1) == ("the last line",)


# -- a guest whose commands are ours ----------------------------------------------------------


def later(seconds: float, *actions: Callable[[], object]) -> threading.Timer:
    timer = threading.Timer(seconds, lambda: [action() for action in actions])
    timer.start()
    return timer


def test_a_reboot_is_proved_by_the_boot_id(
    closed_guest: tuple[Guest, Sshd], commands: Commands
) -> None:
    guest, sshd = closed_guest
    asked = commands.folder.parent / "asked"
    commands.add("systemctl", f'echo "$@" >{asked}')
    timer = later(2.5, lambda: commands.write_boot_id("second"), sshd.drop_sessions)
    reboot = guest.reboot(soon())
    timer.join()
    assert reboot.happened
    assert (reboot.boot_id_before, reboot.boot_id_after) == ("first-boot", "second-boot")
    assert 2 < reboot.seconds < 20
    assert asked.read_text() == "reboot\n"
    assert guest.run("echo back", soon()).stdout == "back\n"


def test_a_guest_without_systemd_reboots_too(
    closed_guest: tuple[Guest, Sshd], commands: Commands
) -> None:
    guest, sshd = closed_guest
    asked = commands.folder.parent / "asked"
    (commands.folder / "systemctl").unlink()
    commands.add("reboot", f"echo reboot >{asked}")
    timer = later(2.0, lambda: commands.write_boot_id("second"), sshd.drop_sessions)
    assert guest.reboot(soon()).happened
    timer.join()
    assert asked.exists()


def test_a_guest_that_only_drops_the_connection_has_not_rebooted(
    closed_guest: tuple[Guest, Sshd],
) -> None:
    guest, sshd = closed_guest
    timer = later(1.5, sshd.drop_sessions)
    reboot = guest.reboot(Deadline(6, "reboot"))
    timer.join()
    assert not reboot.happened
    assert reboot.boot_id_before == "first-boot"
    assert reboot.message


@pytest.mark.parametrize(
    ("before", "since", "stuck"),
    [
        ("web01 login: \n", "INFO: task kworker blocked for more than 120 seconds\n", True),
        ("web01 login: \n", "", True),
        ("web01 login: \n", "reboot: Restarting system\n", False),
        ("web01 login: \n", "Linux version 6.1.0\n", False),
        ("", "", False),  # it has no console
    ],
)
def test_a_guest_that_does_not_even_shut_down(
    closed_guest: tuple[Guest, Sshd], commands: Commands, before: str, since: str, stuck: bool
) -> None:
    guest, sshd = closed_guest
    if before:
        console(guest, before)
    commands.add("systemctl", "exit 0")

    def tell() -> None:
        if since:
            with guest._entrance.console_log.open("a") as log:
                log.write(since)

    timer = later(0.3, tell, sshd.drop_sessions)
    reboot = guest.reboot(Deadline(3, "reboot"))
    timer.join()
    assert not reboot.happened
    assert reboot.message.startswith("it did not finish shutting down; ") is stuck


def test_a_guest_that_panics_after_the_upgrade_has_not_come_back(
    closed_guest: tuple[Guest, Sshd],
    commands: Commands,
    found: list[str | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    guest, sshd = closed_guest
    monkeypatch.setattr(guest_module, "_PATIENCE", 0.5)
    commands.add("systemctl", "exit 0")

    def panic() -> None:
        found[:] = [None]
        console(guest, "Kernel panic - not syncing: No working init found.\n")

    timer = later(1.0, panic, sshd.drop_sessions)
    reboot = guest.reboot(soon())
    timer.join()
    assert not reboot.happened
    assert "panicked" in reboot.message


def test_what_the_console_said_before_the_reboot_does_not_count(
    closed_guest: tuple[Guest, Sshd],
    commands: Commands,
    found: list[str | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    guest, sshd = closed_guest
    monkeypatch.setattr(guest_module, "_PATIENCE", 0.5)
    console(guest, "Kernel panic - not syncing: an old story that a test wrote\n")
    commands.add("systemctl", "exit 0")

    def restart() -> None:
        found[:] = [None] * 5 + ["127.0.0.1"]  # longer than the patience
        commands.write_boot_id("second")

    timer = later(1.0, restart, sshd.drop_sessions)
    assert guest.reboot(soon()).happened
    timer.join()


def test_a_clone_that_powers_off_instead_has_not_come_back(
    closed_guest: tuple[Guest, Sshd], hypervisor: FakeHypervisor
) -> None:
    guest, sshd = closed_guest

    def power_off() -> None:
        hypervisor.domains[DOMAIN].state = "off"

    timer = later(1.0, power_off, sshd.drop_sessions)
    reboot = guest.reboot(soon())
    timer.join()
    assert not reboot.happened
    assert "off" in reboot.message


def test_a_guest_that_is_still_starting_is_waited_for(
    closed_guest: tuple[Guest, Sshd], commands: Commands
) -> None:
    guest, _sshd = closed_guest
    commands.add("systemctl", '[ "$*" = "is-system-running --wait" ] && sleep 1.5')
    started = time.monotonic()
    guest.wait_until_up(soon())
    assert time.monotonic() - started > 1.4
    commands.add("systemctl", "sleep 60")
    guest.wait_until_up(Deadline(1, "boot"))  # up or not, the checks will say
    (commands.folder / "systemctl").unlink()
    guest.wait_until_up(soon())


def as_user(guest: Guest) -> None:
    """Log in as before, and believe that it is an ordinary user."""
    guest._login = replace(guest._login, user="admin")


def test_another_user_works_through_sudo(
    closed_guest: tuple[Guest, Sshd], commands: Commands, tmp_path: Path
) -> None:
    guest, _sshd = closed_guest
    commands.add("sudo", '[ "$1" = -n ] || exit 99\nshift\nSUDO=yes exec "$@"')
    as_user(guest)
    assert guest.run("echo ${SUDO-no} $1", soon(), args=("x",)).stdout == "yes x\n"
    lines: list[str] = []
    assert guest.follow("echo ${SUDO-no}", soon(), lines.append) == 0
    assert lines == ["yes"]
    (tmp_path / "local").write_text("content")
    guest.put(tmp_path / "local", str(tmp_path / "remote"), soon())
    assert (tmp_path / "remote").read_text() == "content"


def test_a_user_without_root_is_told_so(
    closed_guest: tuple[Guest, Sshd], commands: Commands
) -> None:
    guest, _sshd = closed_guest
    commands.add("sudo", "echo 'sudo: a password is required' >&2; exit 1")
    as_user(guest)
    with pytest.raises(GuestUnreachable, match="a password is required") as caught:
        guest.enter(soon())
    assert caught.value.refused
    assert "sudo -n" in caught.value.hint


def test_the_proxys_address_is_the_guests_own_loopback(guest: Guest) -> None:
    assert guest.proxy_url() == f"http://127.0.0.1:{guest.connection.forwarded_port}"
