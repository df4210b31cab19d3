"""What `lvs` says of volumes, and a host that says it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from sandbox.core.deadline import Deadline
from sandbox.core.errors import CommandFailed
from sandbox.core.process import Completed
from sandbox.hosts.drivers import Mark
from sandbox.hosts.volumes import lvm

RUN = "20260102-030405-abcdef"
MARK = Mark(RUN, "17:42:0a1b-2c:machine", 1800000000, f"/var/lib/upgrade-sandbox/clones/{RUN}")
MIB, GIB = 1 << 20, 1 << 30


def row(name: str, **facts: str) -> dict[str, str]:
    """One volume as `lvs` reports it: all values are text, what does not apply is empty."""
    usual = {
        "vg_name": "vg0",
        "lv_name": name,
        "lv_path": f"/dev/vg0/{name}",
        "lv_dm_path": f"/dev/mapper/vg0-{name.replace('-', '--')}",
        "lv_size": str(2 * GIB),
        "pool_lv": "thin",
        "segtype": "thin",
        "data_percent": "51.20",
        "metadata_percent": "",
        "lv_health_status": "",
        "lv_check_needed": "unknown",  # LVM's word where it does not apply
        "lv_permissions": "writeable",
        "lv_snapshot_invalid": "",
        "vg_free": str(GIB),
        "lv_tags": "",
    }
    return usual | facts


def pool_row(data: str = "51.20", metadata: str = "12.34") -> dict[str, str]:
    return row(
        "thin",
        pool_lv="",
        segtype="thin-pool",
        lv_path="",
        data_percent=data,
        metadata_percent=metadata,
    )


def report(*rows: dict[str, str]) -> str:
    return json.dumps({"report": [{"lv": list(rows)}], "log": []})


@dataclass
class Scripted:
    """A host whose `lvs` shows these rows; what else is run is written down."""

    rows: list[dict[str, str]] = field(default_factory=list)
    problem: Exception | None = None  # of lvs
    busy: list[str] = field(default_factory=list)  # what lvremove says, one a call
    ran: list[tuple[str, ...]] = field(default_factory=list)
    name: str = "scripted"
    proxy_command: str = ""

    def run(self, argv: Sequence[str | Path], deadline: Deadline, **_: object) -> Completed:
        deadline.check()
        words = tuple(str(word) for word in argv)
        if words[0] == "lvs":
            if self.problem:
                raise self.problem
            wanted = [w.removeprefix("@") for w in words if w.startswith("@")]
            rows = [r for r in self.rows if not wanted or wanted[0] in r["lv_tags"].split(",")]
            return Completed(words, 0, report(*rows), "")
        self.ran.append(words)
        if self.busy:
            raise CommandFailed(words, 5, self.busy.pop(0))
        return Completed(words, 0, "", "")

    def command(self, argv: Sequence[str]) -> list[str]:
        raise NotImplementedError

    def answers_ssh(self, address: str, port: int, seconds: float) -> bool:
        raise NotImplementedError


def ours(name: str, run: str = RUN) -> dict[str, str]:
    return row(name, lv_tags=",".join(lvm.tags(replace(MARK, run=run))))
