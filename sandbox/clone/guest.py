"""The clone from inside: entered over SSH, rebooted, and known again by its boot id."""

from __future__ import annotations

import contextlib
import re
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from sandbox.clone import discovery
from sandbox.clone.jobs import (
    COLLECT,
    JOBS,
    RECEIVE,
    STATUS,
    WATCH,
    Lines,
    as_program,
    begin_script,
)
from sandbox.clone.ssh import LOST, GuestLogin, SshConnection
from sandbox.core.deadline import Deadline
from sandbox.core.errors import (
    CommandFailed,
    ConnectionLost,
    DeadlineExceeded,
    GuestRestarted,
    GuestUnreachable,
    HostError,
)
from sandbox.core.process import Completed
from sandbox.core.records import Reboot
from sandbox.hosts.drivers import Hypervisor

# What a console says when the guest will never answer; worth a short wait, not the whole deadline.
_DEAD_ENDS = (
    ("Kernel panic - not syncing", "the kernel panicked"),
    ("(initramfs)", "it stopped in the initramfs shell: the root disk was not found"),
    ("grub rescue>", "it stopped in GRUB's rescue shell"),
    # pvgrub, of a kernel that is packed or built in a way that it does not know.
    ("not xen image", "its boot loader cannot load its kernel"),
    ("You are in emergency mode", "it stopped in emergency mode"),
    ("No bootable device", "the firmware found nothing to boot"),
    ("not a bootable disk", "the firmware found nothing to boot"),
)
# initramfs-tools says so once a second while the root disk is missing; slow disks need a few.
_WAITING, _WAITING_LINES = "/scripts/local-block", 8
_RESTART_PATIENCE = 300.0  # seconds for a host to start a guest again that reboots
_RESTART_LEAST = 30.0  # when time is up: any shorter, and the guest may restart again and again
_PATIENCE = 15.0  # seconds between a dead end on the console and giving up
_PAUSE, _REMOTE_PAUSE = 0.5, 2.0  # seconds between two rounds of looking; afar each costs more
_HOST_PATIENCE = 30.0  # seconds for a round of looking for the guest; a host needs less
_NO_ANSWER = "nothing answers on its SSH port"
_SILENCE = 45.0  # seconds; one that works asks for a router or a lease when it starts
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[^\x20-\x7e\n]")


@dataclass(frozen=True)
class Entrance:
    """Where the clone can be found."""

    domain: str
    macs: tuple[str, ...]
    bridge: str
    network: str
    console_log: Path


class Guest:
    """Implements :class:`sandbox.core.guest_shell.Shell`. A context manager: it closes SSH."""

    def __init__(
        self,
        hypervisor: Hypervisor,
        entrance: Entrance,
        login: GuestLogin,
        folder: Path,
        register: Callable[[int, str], None],
    ) -> None:
        self._hypervisor = hypervisor
        self._entrance = entrance
        self._login = login
        self.connection = SshConnection(folder, login, register, hypervisor.host.proxy_command)
        self._console_start = 0
        self._boot_id = ""
        self._made = time.monotonic()
        self.first_login = 0.0  # seconds from then, when it was started, until it let us in
        self._sending = discovery.Sending(hypervisor.host, entrance.bridge)
        self._restarting: float | None = None  # since when the host is to start it again

    def __enter__(self) -> Guest:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.connection.close()

    # -- getting in -------------------------------------------------------------------------

    def enter(self, deadline: Deadline) -> str:
        """Wait until the guest lets us in; returns its boot id.

        Raises :class:`GuestUnreachable` when it does not boot, has no sshd or refuses the key.
        """
        rounds = 0
        dead_since: float | None = None
        refusal = ""  # what the last attempt to log in ended with
        self._sending = discovery.Sending(self._hypervisor.host, self._entrance.bridge)
        while True:
            self._require_running()
            address = self._find(deadline, rounds, refusal)
            rounds += 1
            if address is not None:
                try:
                    self.connection.open(address, deadline.within(60))
                    self._boot_id = self._read_boot_id(deadline)
                    self.first_login = self.first_login or time.monotonic() - self._made
                    return self._boot_id
                except ConnectionLost as lost:
                    refusal = lost.message
                except DeadlineExceeded as slow:
                    if deadline.expired():
                        self._give_up(deadline, slow.message, slow)
                    refusal = slow.message  # of this attempt; a busy guest is asked again
            reason = self._dead_end()
            dead_since = (dead_since or time.monotonic()) if reason else None
            if dead_since is not None and time.monotonic() - dead_since > _PATIENCE:
                raise GuestUnreachable(f"the guest did not boot: {reason}", "see its console")
            self._wait_or_give_up(deadline, refusal)

    def _find(self, deadline: Deadline, round: int, refusal: str) -> str | None:
        """One round of looking for it. Time that runs out meanwhile was the guest's, unless it
        is the host that did not answer for long."""
        began = time.monotonic()
        try:
            self._sending.look(deadline)
            return discovery.find(
                self._hypervisor.host,
                self._entrance.macs,
                self._entrance.bridge,
                self._login.port,
                lambda: self._hypervisor.leases(self._entrance.network),
                deadline,
                round,
            )
        except DeadlineExceeded as late:
            if time.monotonic() - began > _HOST_PATIENCE:
                raise
            self._give_up(deadline, refusal or self._no_answer(), late)

    def _wait_or_give_up(self, deadline: Deadline, refusal: str) -> None:
        try:
            deadline.sleep(_REMOTE_PAUSE if self._hypervisor.host.proxy_command else _PAUSE)
        except DeadlineExceeded as late:
            self._give_up(deadline, refusal or self._no_answer(), late)

    def _no_answer(self) -> str:
        silence = self._sending.silence()
        return _NO_ANSWER + (
            f" and its network card has sent nothing for {silence:.0f} s"
            if silence >= _SILENCE
            else ""
        )

    def _give_up(self, deadline: Deadline, what: str, cause: DeadlineExceeded) -> NoReturn:
        self._require_host(_RESTART_LEAST)
        said = self.console_tail(1)
        raise GuestUnreachable(
            f"no SSH within {deadline.seconds:.0f} s: {what}"
            + (f"; its console says {said[0]!r}" if said else ""),
            f"it needs a running sshd on port {self._login.port} and a network card with IPv6 "
            "link-local or DHCP; see its console and screen",
        ) from cause

    def _require_running(self) -> None:
        state = self._hypervisor.state(self._entrance.domain)
        if state not in ("running", "restarting"):
            raise GuestUnreachable(
                f"the clone is not running any more: it is {state}",
                "see its console for the reason",
            )
        again = (self._restarting or time.monotonic()) if state == "restarting" else None
        self._restarting = again
        self._require_host(_RESTART_PATIENCE)

    def _require_host(self, patience: float) -> None:
        """A guest that its host does not start again says nothing about its upgrade."""
        if self._restarting is not None and time.monotonic() - self._restarting > patience:
            raise HostError(
                "the host did not start the clone again when it rebooted",
                "what libvirtd says of it is in the host's journal; is the host overloaded?",
            )

    def wait_until_up(self, deadline: Deadline) -> None:
        """Wait for the guest's start-up to end; a guest without systemd is up when SSH is."""
        script = "command -v systemctl >/dev/null && systemctl is-system-running --wait || :"
        with contextlib.suppress(DeadlineExceeded):
            self.run(script, deadline.within(max(30.0, deadline.remaining() - 5)))

    # -- Shell ------------------------------------------------------------------------------

    def run(self, script: str, deadline: Deadline, *, args: Sequence[str] = ()) -> Completed:
        return self.connection.execute(
            self._shell(args), deadline, input=as_program(script).encode()
        )

    def follow(
        self,
        script: str,
        deadline: Deadline,
        on_line: Callable[[str], None],
        *,
        args: Sequence[str] = (),
    ) -> int:
        job = f"{JOBS}/{uuid.uuid4().hex}"
        self._begin(job, script, args, deadline)
        lines = Lines(on_line)
        while True:
            with contextlib.suppress(ConnectionLost):
                status = self.connection.stream(
                    self._shell((job, str(lines.count + 1))),
                    deadline,
                    lines.feed,
                    input=as_program(WATCH).encode(),
                )
                if status != LOST:
                    return self._end(job, lines, deadline)
            self._reconnect(deadline)

    def _begin(self, job: str, script: str, args: Sequence[str], deadline: Deadline) -> None:
        begun = self.connection.execute(
            self._shell((job, *args)), deadline, input=as_program(begin_script(script)).encode()
        )
        if not begun.ok:
            raise CommandFailed(begun.argv, begun.status, begun.stderr, "is /run writable?")

    def _end(self, job: str, lines: Lines, deadline: Deadline) -> int:
        left = self.run(COLLECT, deadline, args=(job, str(lines.count + 1)))
        body, _, status = left.stdout.rpartition(STATUS)
        lines.feed(body.encode())
        lines.finish()
        if not status.strip().isdigit():
            raise GuestRestarted
        # Only now: an answer that was lost with the connection can be asked for again.
        with contextlib.suppress(ConnectionLost):
            self.run('rm -rf "$1"', deadline, args=(job,))
        return int(status)

    def _reconnect(self, deadline: Deadline) -> None:
        """Back in after a broken connection; :class:`GuestRestarted` when it was not only that."""
        before = self._boot_id
        if self.enter(deadline.within(180)) != before:
            raise GuestRestarted

    def put(self, local: Path, remote: str, deadline: Deadline) -> None:
        argv = [*self._sudo(), "sh", "-c", RECEIVE, "sh", remote]
        done = self.connection.execute(argv, deadline, input=local.read_bytes())
        if not done.ok:
            raise CommandFailed(done.argv, done.status, done.stderr, f"copying to {remote}")

    def proxy_url(self) -> str:
        return f"http://127.0.0.1:{self.connection.forwarded_port}"

    def _sudo(self) -> tuple[str, ...]:
        return () if self._login.user == "root" else ("sudo", "-n")

    def _shell(self, args: Sequence[str]) -> tuple[str, ...]:
        return (*self._sudo(), "sh", "-s", "--", *args)

    # -- reboot -----------------------------------------------------------------------------

    def reboot(self, deadline: Deadline) -> Reboot:
        """Restart the guest by its own means; proved by a changed boot id."""
        started = time.monotonic()
        before = self._boot_id
        self._console_start = self._console_size()
        # A clone is rebooted soon after its start: unlike on a machine that has run for days, a
        # busy udev may still load drivers, which a kernel that shuts down may wait for for ever.
        settle = "udevadm settle --timeout=30"
        script = f"( {settle}; sleep 1; systemctl reboot || reboot ) >/dev/null 2>&1 &"
        with contextlib.suppress(ConnectionLost):
            self.run(script, deadline)
        self._wait_for_shutdown(deadline)
        away = time.monotonic()
        try:
            while self.enter(deadline) == before:
                deadline.sleep(2)
        except (GuestUnreachable, DeadlineExceeded) as problem:
            return Reboot(
                happened=False,
                boot_id_before=before,
                seconds=time.monotonic() - started,
                message=self._stuck() + problem.message,
            )
        return Reboot(
            happened=True,
            boot_id_before=before,
            boot_id_after=self._boot_id,
            seconds=time.monotonic() - started,
            away=time.monotonic() - away,
        )

    def _wait_for_shutdown(self, deadline: Deadline) -> None:
        """Until the old system has closed our connection; slow shutdowns are asked again later."""
        patience = deadline.within(120)
        while self.connection.alive() and not patience.expired():
            patience.sleep(0.5)
            if self._console_rebooted():
                break
        self.connection.close()

    def _stuck(self) -> str:
        """Where a console that told of its start says nothing of a restart since."""
        said = self._console_text()
        restarts = any(words in said for words in ("reboot: ", "Linux version "))
        told = self._console_start > 0 and not restarts and not self._dead_end()
        return "it did not finish shutting down; " if told else ""

    def _console_rebooted(self) -> bool:
        return "reboot: Restarting system" in self._console_text()

    def _read_boot_id(self, deadline: Deadline) -> str:
        read = self.run("cat /proc/sys/kernel/random/boot_id", deadline.within(60))
        if not read.ok:
            self._explain_sudo(read)
        return read.stdout.strip()

    def _explain_sudo(self, failed: Completed) -> None:
        raise GuestUnreachable(
            f"{self._login.user!r} gets no root in the guest: {failed.stderr.strip()[:200]}",
            "log in as root, or let the user run `sudo -n sh` without a password",
            refused=True,
        )

    # -- console ----------------------------------------------------------------------------

    def _console_size(self) -> int:
        log = self._entrance.console_log
        return log.stat().st_size if log.exists() else 0

    def _console_text(self) -> str:
        """What the console said since the last (re)start, without control sequences."""
        log = self._entrance.console_log
        if not log.exists():
            return ""
        with log.open("rb") as file:
            file.seek(max(self._console_start, log.stat().st_size - 65536))
            return _CONTROL.sub("", file.read().decode(errors="replace").replace("\r", "\n"))

    def _dead_end(self) -> str:
        return dead_end(self._console_text()[-4096:])

    def console_tail(self, lines: int) -> tuple[str, ...]:
        """The console's last non-empty lines."""
        said = [line.rstrip() for line in self._console_text().splitlines() if line.strip()]
        return tuple(said[-lines:])


def dead_end(console: str) -> str:
    """Why a guest whose console ends like this will never answer; "" while it may."""
    lines = [line for line in console.splitlines() if line.strip()][-_WAITING_LINES:]
    if len(lines) == _WAITING_LINES and all(_WAITING in line for line in lines):
        return "its initramfs waits for a root disk that does not appear"
    return next((meaning for words, meaning in _DEAD_ENDS if words in console), "")
