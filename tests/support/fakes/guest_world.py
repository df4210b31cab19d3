"""A guest that is an sshd on loopback, with the hypervisor in memory beside it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from sandbox.clone.guest import Entrance, Guest
from sandbox.clone.ssh import GuestLogin
from sandbox.hosts.drivers.fake import FakeHypervisor
from tests.support.machine.sshd import Sshd

DOMAIN = "sandbox-sbtest-000000"
XML = f"<domain type='qemu'><name>{DOMAIN}</name><devices/></domain>"
INTERPRETERS = [("dash",), ("bash", "--posix"), ("busybox", "sh")]
TOOLS = ("sh", "bash", "cat", "mkdir", "sleep", "rm", "tail", "mv", "kill", "chmod", "printf", "id")


class Commands:
    """The only folder in the guest's PATH; tests put commands into it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.boot_id = folder.parent / "boot_id"
        folder.mkdir()
        for tool in TOOLS:
            (folder / tool).symlink_to(shutil.which(tool) or f"/usr/bin/{tool}")
        self.write_boot_id("first")
        (folder / "cat").unlink()
        self.add(
            "cat",
            f'[ "$1" != /proc/sys/kernel/random/boot_id ] || exec /bin/cat {self.boot_id}\n'
            'exec /bin/cat "$@"',
        )
        for name in ("systemctl", "reboot"):
            self.add(name, "exit 1")

    def add(self, name: str, script: str) -> None:
        (self.folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.folder / name).chmod(0o755)

    def write_boot_id(self, name: str) -> None:
        self.boot_id.write_text(f"{name}-boot\n")


def port_of(sshd: Sshd) -> int:
    found = re.search(r"Port (\d+)", sshd.ssh_config.read_text())
    assert found
    return int(found.group(1))


def login_of(sshd: Sshd, key: Path | None = None) -> GuestLogin:
    return GuestLogin("root", key or sshd.folder / "user_key", port_of(sshd))


def make_guest(sshd: Sshd, hypervisor: FakeHypervisor, folder: Path) -> Guest:
    entrance = Entrance(DOMAIN, (), "sb000000", "net", folder / "console.log")
    return Guest(hypervisor, entrance, login_of(sshd), folder, lambda *_: None)


def master_of(guest: Guest) -> int:
    master = guest.connection._master
    assert master is not None
    return master.pid


def console(guest: Guest, text: str) -> None:
    with guest._entrance.console_log.open("a") as log:
        log.write(text)
