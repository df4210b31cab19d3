"""Counts what there is of a state folder's runs, so that a test can show that nothing is left.

Only what belongs to these runs: other rehearsals may come and go on this machine meanwhile.
"""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from sandbox.clone.reaper import domain_name
from sandbox.network import isolation

VIRSH = ("virsh", "-q", "-c", "qemu:///system")


def run_ids(state: Path) -> set[str]:
    """Every run that has, or had, a record or a clone beneath the state folder."""
    return {path.name for kind in ("runs", "clones") for path in (state / kind).glob("*")}


def count(state: Path, runs: Iterable[str] = ()) -> Counter[str]:
    """What exists of the runs of a state folder by kind; empty when nothing is left.

    ``runs``: further ids, of runs whose records were removed.
    """
    ids = run_ids(state) | set(runs)
    which = [(run_id, control) for run_id in ids for control in (False, True)]
    nets = [isolation.names(run_id, control=control) for run_id, control in which]
    domains = {domain_name(run_id, control=control) for run_id, control in which}
    bridges = {net.bridge for net in nets}
    tables = {net.table for net in nets}
    commands = [line for line in _commands() if str(state) in line]
    found = Counter(
        domains=_among(domains, _words(*VIRSH, "list", "--all", "--name")),
        networks=_among({net.name for net in nets}, _words(*VIRSH, "net-list", "--all", "--name")),
        bridges=_among(bridges, (path.name for path in Path("/sys/class/net").iterdir())),
        taps=sum(line.rpartition("/")[2] in bridges for line in _masters()),
        gates=_among(tables, _words("nft", "list", "tables")),
        dhcp=sum("dnsmasq" in line for line in _commands() if any(i in line for i in ids)),
        loops=sum(str(state) in name for name in _words("losetup", "-n", "-O", "BACK-FILE")),
        exports=sum("qemu-nbd" in line for line in commands),
        masters=sum(line.startswith("ssh ") for line in commands),
        watches=sum("sandbox.rehearsal.disk_watch" in line for line in commands),
        listeners=sum("sandbox-listener" in line for line in commands),
        checks=sum("sandbox.checks.worker" in line for line in commands),
        # Whatever else works on a file of ours: qemu-img, virt-customize, QEMU itself.
        processes=len(commands),
        folders=sum(1 for _ in (state / "clones").glob("*")),
        proxies=sum(str(state) in line for line in _unix_sockets()),
    )
    return +found


def backup_jobs(guests: Iterable[str]) -> int:
    """Backup jobs still open on these sources."""
    return sum("None" not in _words(*VIRSH, "domjobinfo", guest) for guest in guests)


def _among(ours: set[str], there: Iterable[str]) -> int:
    return sum(name in ours for name in there)


def _words(*argv: str) -> list[str]:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()


def _masters() -> list[str]:
    """Where each network interface of this host is plugged in."""
    links = json.loads("".join(_words("ip", "-json", "link", "show")))
    return [str(link.get("master", "")) for link in links]


def _commands() -> list[str]:
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return lines


def _unix_sockets() -> list[str]:
    return Path("/proc/net/unix").read_text(errors="replace").splitlines()
