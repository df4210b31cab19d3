"""What a running source is: all of it must be the same after a rehearsal."""

from __future__ import annotations

import subprocess

from sandbox.demo.guest import Production
from tests.support.guests import leftovers


def alive(production: Production) -> dict[str, str]:
    """What must be the same afterwards."""
    return {
        "xml": virsh("dumpxml", production.name),
        "disks": virsh("domblklist", production.name, "--details"),
        "id": virsh("domid", production.name),
        "boot": inside(production, "cat /proc/sys/kernel/random/boot_id"),
        "files": inside(production, "ls /etc"),
        "cards": virsh("domiflist", production.name),
    }


def uptime(production: Production) -> float:
    return float(inside(production, "cat /proc/uptime").split()[0])


def inside(production: Production, command: str, input: str = "") -> str:
    """Run a shell command in the guest; what it said."""
    done = subprocess.run(
        production.ssh(command), input=input, capture_output=True, text=True, check=True
    )
    return done.stdout


def virsh(*command: object) -> str:
    argv = [*leftovers.VIRSH, *map(str, command)]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout
