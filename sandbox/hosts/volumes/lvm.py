"""Logical volumes on the host: what a disk is, snapshots of it, and their removal by tag.

libvirt's own pools know thick snapshots only and hide thin pools, so this is LVM's own command.
Every volume of ours carries the run's mark as tags from the moment it exists.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass

from sandbox.core.deadline import Deadline
from sandbox.core.errors import CommandFailed, HostError, NoRoom, ToolMissing
from sandbox.hosts.drivers import Mark
from sandbox.hosts.transport import Host

TAG = "upgrade-sandbox"
# Beyond these a thin pool may soon stop its guests' writes, production's too.
POOL_LIMIT = 90.0  # percent, of data or of metadata
POOL_DANGER = 95.0
_TAG_UNSAFE = re.compile(rb"[^A-Za-z0-9_+.\-/=!:&]")  # "#" is allowed as well, and our escape
_TAG_ESCAPE = re.compile(rb"#([0-9a-f]{2})")
_FIELDS = (
    "vg_name,lv_name,lv_path,lv_dm_path,lv_size,pool_lv,segtype,data_percent,metadata_percent,"
    "lv_health_status,lv_check_needed,lv_permissions,lv_snapshot_invalid,vg_free,lv_tags"
)
# What is the matter with a thin pool, in LVM's words and in ours.
_HEALTH = {
    "failed": "has failed",
    "out_of_data": "is out of space for data",
    "metadata_read_only": "has metadata that can only be read: it needs a repair",
}
_REPAIR = "see `lvs -a -o+lv_health_status,lv_check_needed`; then lvconvert --repair, or extend it"
_NO_SUCH_COMMAND = 127
_GONE = "Failed to find logical volume"
_BUSY_SECONDS = 60.0  # a backend lets go of a destroyed domain's disk in its own time


@dataclass(frozen=True)
class Volume:
    """A logical volume; sizes in bytes, fills in percent."""

    group: str
    name: str
    size: int
    pool: str  # "" for a thick one
    group_free: int
    tags: tuple[str, ...] = ()
    overflowed: bool = False  # a thick snapshot that could not keep what its origin overwrote

    @property
    def path(self) -> str:
        return f"/dev/{self.group}/{self.name}"


@dataclass(frozen=True)
class Pool:
    """A thin pool and how full it is, in percent."""

    group: str
    name: str
    size: int
    data: float
    metadata: float
    trouble: str = ""  # what is the matter with it
    active: bool = True  # else its fill is unknown

    def problem(self, limit: float, metadata_limit: float | None = None) -> str:
        """Why nothing more may be made in it; "" when it may."""
        if not self.trouble and not self.active:
            name = f"{self.group}/{self.name}"
            return f"the thin pool {name} is not active: how full it is cannot be known"
        return self.danger(limit, metadata_limit)

    def danger(self, limit: float, metadata_limit: float | None = None) -> str:
        """Why its guests cannot write, or soon could not; "" when all is well."""
        if self.trouble:
            return f"the thin pool {self.group}/{self.name} {self.trouble}"
        for what, fill, most in (
            ("data", self.data, limit),
            ("metadata", self.metadata, limit if metadata_limit is None else metadata_limit),
        ):
            if fill >= most:
                return (
                    f"the {what} of the thin pool {self.group}/{self.name} is {fill:.0f} % full "
                    f"(limit {most:.0f} %): at 100 % production's guests could not write either"
                )
        return ""

    @property
    def hint(self) -> str:
        """What to do where it has a problem."""
        if self.trouble:
            return _REPAIR
        if not self.active:
            return f"activate it: lvchange --activate y {self.group}/{self.name}"
        return f"extend it (lvextend), or remove volumes that are not needed: lvs {self.group}"


@dataclass(frozen=True)
class Survey:
    """All logical volumes of a host, as one call of ``lvs`` shows them."""

    by_path: dict[str, Volume]  # under each name that a device has
    pools: tuple[Pool, ...]

    def pool_of(self, volume: Volume) -> Pool:
        """The thin pool of a thin volume."""
        return next(p for p in self.pools if (p.group, p.name) == (volume.group, volume.pool))

    def danger(self, run: str) -> str:
        """Why a run's volumes must go before their pool stops production; "" when all is well."""
        for one in self.by_path.values():
            mark = read_tags(one.tags)
            if mark is not None and mark.run == run and one.pool:
                problem = self.pool_of(one).danger(POOL_DANGER)
                if problem:
                    return problem
        return ""

    def overflow(self, run: str) -> str:
        """Why a run's clone is no copy of its source any more; "" when it is."""
        for one in self.by_path.values():
            mark = read_tags(one.tags)
            if mark is not None and mark.run == run and not one.pool and one.overflowed:
                return (
                    f"the thick snapshot {one.group}/{one.name} overflowed: production overwrote "
                    "more than it has room for"
                )
        return ""


def survey(host: Host, deadline: Deadline) -> Survey:
    """Look at all volumes of a host; one without LVM has none."""
    return parse_survey(_report(host, (), deadline))


def parse_survey(rows: list[dict[str, str]]) -> Survey:
    """Rows of ``lvs``; pure."""
    by_path = {}
    for row in rows:
        for name in (row["lv_path"], row["lv_dm_path"]):
            if name:
                by_path[name] = _volume(row)
    return Survey(by_path, tuple(parse_pool(r) for r in rows if r["segtype"] == "thin-pool"))


def parse_pool(row: dict[str, str]) -> Pool:
    """One row of ``lvs``."""
    return Pool(
        row["vg_name"],
        row["lv_name"],
        int(row["lv_size"] or 0),
        float(row["data_percent"] or 0),
        float(row["metadata_percent"] or 0),
        _trouble(row),
        active=row["data_percent"] != "",
    )


def _trouble(row: dict[str, str]) -> str:
    status = row["lv_health_status"]
    if status:
        return _HEALTH.get(status, f"is not well: {status}")
    if row["lv_check_needed"] == "check needed":
        return "needs a check of its metadata"
    if row["lv_permissions"].startswith("read-only"):
        return "can only be read"
    return ""


def snapshot_command(origin: Volume, name: str, mark: Mark) -> list[str]:
    """LVM's arguments for a snapshot: thin takes no space of its own; thick is given a part of
    the origin's size to keep what production overwrites meanwhile."""
    argv = ["lvcreate", "--quiet", "--snapshot", "--name", name]
    for tag in tags(mark):
        argv += ["--addtag", tag]
    if origin.pool:
        argv += ["--setactivationskip", "n"]
    else:
        argv += ["--size", f"{thick_size(origin)}b"]
    return [*argv, f"{origin.group}/{origin.name}"]


def thick_size(origin: Volume) -> int:
    """A third of the origin and no less than 1 GiB, in whole 4 MiB extents; what is free decides.

    Raises :class:`HostError` when the group has no room for it.
    """
    extent = 4 << 20
    wanted = min(max(1 << 30, origin.size // 3), origin.size + extent)
    size = -(-wanted // extent) * extent
    if origin.group_free < size:
        raise NoRoom(
            f"the volume group {origin.group} has {origin.group_free >> 20} MiB free, "
            f"a thick snapshot of {origin.name} needs {size >> 20} MiB",
            "free some, or move the guest to a thin pool, where snapshots take no space",
        )
    return size


def tags(mark: Mark) -> tuple[str, ...]:
    """The mark as LVM tags; what LVM does not allow in a tag is escaped."""
    facts = {
        "run": mark.run,
        "owner": mark.owner,
        "deadline": str(mark.deadline),
        "folder": mark.folder,
    }
    return (TAG, *(f"{TAG}.{key}={_escaped(value)}" for key, value in facts.items()))


def _escaped(value: str) -> str:
    safe = _TAG_UNSAFE.sub(lambda found: b"#%02x" % found.group()[0], os.fsencode(value))
    return safe.decode()


def _unescaped(value: str) -> str:
    plain = _TAG_ESCAPE.sub(lambda found: bytes.fromhex(found.group(1).decode()), value.encode())
    return os.fsdecode(plain)


def read_tags(found: tuple[str, ...]) -> Mark | None:
    """The mark in a volume's tags; None when it is not ours."""
    ours = (tag.removeprefix(f"{TAG}.") for tag in found if tag.startswith(f"{TAG}."))
    facts = {key: _unescaped(value) for key, _, value in (tag.partition("=") for tag in ours)}
    if TAG not in found or not facts.get("run"):
        return None
    deadline = facts.get("deadline", "")
    return Mark(
        facts["run"],
        facts.get("owner", ""),
        int(deadline) if deadline.isdecimal() else 0,
        facts.get("folder", ""),
    )


def marked(host: Host, deadline: Deadline) -> tuple[tuple[Volume, Mark], ...]:
    """All volumes that carry our mark."""
    found = {}
    for row in _report(host, (f"@{TAG}",), deadline):
        one = _volume(row)
        mark = read_tags(one.tags)
        if mark is not None:
            found[one.path] = (one, mark)  # a volume in several pieces has several rows
    return tuple(found.values())


def remove(host: Host, run: str, deadline: Deadline) -> tuple[str, ...]:
    """Remove a run's volumes; names them. One that is still in use is waited for."""
    removed = []
    for one, mark in marked(host, deadline):
        if mark.run == run:
            _remove(host, one, deadline.within(_BUSY_SECONDS))
            removed.append(f"volume {one.group}/{one.name}")
    return tuple(removed)


def _remove(host: Host, one: Volume, deadline: Deadline) -> None:
    while True:
        try:
            host.run(["lvremove", "--quiet", "--yes", f"{one.group}/{one.name}"], deadline)
            return
        except CommandFailed as problem:
            if _GONE in problem.tail:
                return
            if "in use" not in problem.tail and "used by" not in problem.tail:
                raise
            if deadline.remaining() < 2:
                raise HostError(
                    f"the volume {one.group}/{one.name} is still in use: {problem.tail}",
                    f"see who has it open: lsof {one.path}",
                ) from problem
            deadline.sleep(1)


def _report(host: Host, names: tuple[str, ...], deadline: Deadline) -> list[dict[str, str]]:
    argv = ["lvs", "--reportformat", "json", "--units", "b", "--nosuffix", "-o", _FIELDS, *names]
    try:
        shown = host.run(argv, deadline)
    except ToolMissing:
        return []
    except CommandFailed as problem:
        if problem.status == _NO_SUCH_COMMAND:  # without LVM there are no volumes
            return []
        raise
    return parse_report(shown.stdout)


def parse_report(text: str) -> list[dict[str, str]]:
    """The rows of ``lvs --reportformat json``."""
    (report,) = json.loads(text)["report"]
    return [dict(row) for row in report["lv"]]


def _volume(row: dict[str, str]) -> Volume:
    return Volume(
        row["vg_name"],
        row["lv_name"],
        int(row["lv_size"] or 0),
        row["pool_lv"] if row["segtype"] == "thin" else "",  # caches have pools, too
        int(row["vg_free"] or 0),
        tuple(row["lv_tags"].split(",")) if row["lv_tags"] else (),
        # Full is as good as invalid: the next write of production's finds no room.
        overflowed=bool(row["lv_snapshot_invalid"]) or float(row["data_percent"] or 0) >= 100,
    )
