"""Counts everything of ours on this machine, so that a test can show that nothing is left."""

from __future__ import annotations

import subprocess
from collections import Counter
from pathlib import Path


def _words(*argv: str) -> list[str]:
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout.split()


def _commands() -> list[str]:
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return lines


def count(state: Path) -> Counter[str]:
    """What there is of a state folder's runs, and of runs at all, by kind."""
    virsh = ("virsh", "-q", "-c", "qemu:///system")
    commands = [line for line in _commands() if str(state) in line]
    found = Counter(
        domains=sum(n.startswith("sandbox-2") for n in _words(*virsh, "list", "--all", "--name")),
        networks=sum(n.startswith("sandbox-2") for n in _words(*virsh, "net-list", "--name")),
        bridges=sum(p.name.startswith("sb") for p in Path("/sys/class/net").iterdir()),
        gates=sum(n.startswith("sandbox_") for n in _words("nft", "list", "tables")),
        loops=len(_words("losetup", "-n", "-O", "NAME")),
        exports=sum("qemu-nbd" in line for line in commands),
        masters=sum(line.startswith("ssh ") for line in commands),
        checks=sum("sandbox.checks.worker" in line for line in commands),
        folders=sum(1 for _ in (state / "clones").glob("*")),
    )
    return +found


def backup_jobs(guests: list[str]) -> int:
    """Backup jobs still open on these sources."""
    virsh = ("virsh", "-q", "-c", "qemu:///system", "domjobinfo")
    return sum("None" not in _words(*virsh, guest) for guest in guests)
