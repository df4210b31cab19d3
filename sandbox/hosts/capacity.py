"""How much of a host clones may take, and where its guests' disks have to be.

Decided on from ``hosts.yaml``, held to before anything is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from sandbox.core.deadline import Deadline
from sandbox.core.errors import NoRoom, RequestError
from sandbox.core.records import Disk
from sandbox.core.store import RunFolder, is_alive
from sandbox.core.wording import count
from sandbox.hosts.admission import Want, require_memory
from sandbox.hosts.drivers import Hypervisor, Mark
from sandbox.hosts.drivers.clone_xml import memory_of
from sandbox.hosts.source import Source
from sandbox.hosts.volumes import lvm

VolumeStore = Literal["auto", "lvm-thin", "reflink"]


@dataclass(frozen=True)
class Limits:
    """Of one host; the defaults are those of a host that hosts.yaml does not describe."""

    parallel: int | None = None  # clones at once, kept ones included
    keep_free: int = 0  # bytes of memory that no clone may take
    pool_data: float = lvm.POOL_LIMIT  # percent of a thin pool beyond which nothing is made in it
    pool_metadata: float = lvm.POOL_LIMIT
    store: VolumeStore = "auto"
    place: str = ""  # of the store: "group/pool", or a folder; "" for any


NO_LIMITS = Limits()


def require_room(
    limits: Limits,
    hypervisor: Hypervisor,
    source: Source,
    memory: int | None,
    folder: RunFolder,
    deadline: Deadline,
) -> None:
    """Raises :class:`NoRoom` when the host may not take one more clone now, and
    :class:`RequestError` for a guest whose disks are not where they have to be.

    ``memory``: of the clone, where it is not the source's.
    """
    if limits.parallel is not None:
        others = runs_there(hypervisor.marked_domains(), hypervisor.uri, folder)
        _require_fewer(limits.parallel, others, hypervisor)
    if limits.keep_free:
        needed = memory_of(source.xml) if memory is None else memory
        # Asked once more, and with what other runs take just now, when the clone is made.
        require_memory(Want(folder.id, needed, limits.keep_free), hypervisor.free_memory())
    if hypervisor.kind == "xen" and _asks_for_a_store(limits):
        volumes = lvm.survey(hypervisor.host, deadline)
        problem = disk_problem(limits, source.disks, volumes)
        if problem:
            raise RequestError(
                problem,
                "`sandbox guests` shows where disks are, `store` and `place` of the host in "
                "hosts.yaml say where they have to be",
            )
        for pool in _pools(source.disks, volumes):
            full = pool_fill(limits, pool)
            if full:
                raise NoRoom(full, pool.hint)


def runs_there(domains: Iterable[tuple[str, Mark]], uri: str, folder: RunFolder) -> tuple[str, ...]:
    """Other runs that take a host's room: those with a domain there, of any owner, and the
    living ones of this machine that began before us and are about to start theirs."""
    runs = {mark.run for _name, mark in domains}
    for other in folder.neighbours():
        # Of two that begin at once one has to win: the older id.
        facts = other.facts() if other.id < folder.id else {}
        if facts.get("uri") == uri and is_alive(facts.get("owner", "")):
            runs.add(other.id)
    return tuple(sorted(runs - {folder.id}))


def _require_fewer(most: int, others: Sequence[str], hypervisor: Hypervisor) -> None:
    if len(others) >= most:
        raise NoRoom(
            f"{_shown(hypervisor)} has {count(len(others), 'clone')}, and may have {most}: "
            + ", ".join(others),
            "wait for a run to end, remove a kept clone (`sandbox list`, `sandbox rm RUN`), or "
            "raise `parallel` of the host in hosts.yaml",
        )


def _shown(hypervisor: Hypervisor) -> str:
    return hypervisor.uri.partition("?")[0]  # the connection's options do not help here


def _asks_for_a_store(limits: Limits) -> bool:
    return limits.store != "auto" or min(limits.pool_data, limits.pool_metadata) < lvm.POOL_LIMIT


def disk_problem(limits: Limits, disks: Iterable[Disk], volumes: lvm.Survey) -> str:
    """Why a disk is not in the store of its host; "" when all are. Pure."""
    for disk in disks:
        where = f"disk {disk.target} ({disk.path})"
        volume = volumes.by_path.get(disk.path)
        if limits.store == "lvm-thin":
            if volume is None or not volume.pool:
                return f"{where} is in no thin pool"
            pool = f"{volume.group}/{volume.pool}"
            if limits.place not in ("", pool):
                return f"{where} is in the thin pool {pool}, not in {limits.place}"
        elif limits.store == "reflink":
            if disk.store != "file":
                return f"{where} is no file"
            inside = PurePosixPath(disk.path).is_relative_to(limits.place or "/")
            if not inside or ".." in PurePosixPath(disk.path).parts:
                return f"{where} is not beneath {limits.place or '/'}"
    return ""


def pool_problem(limits: Limits, disks: Iterable[Disk], volumes: lvm.Survey) -> str:
    """Why nothing may be made in the disks' thin pools; "" when it may. Pure."""
    return next(filter(None, (pool_fill(limits, p) for p in _pools(disks, volumes))), "")


def _pools(disks: Iterable[Disk], volumes: lvm.Survey) -> list[lvm.Pool]:
    found = (volumes.by_path.get(disk.path) for disk in disks)
    return [volumes.pool_of(volume) for volume in found if volume is not None and volume.pool]


def pool_fill(limits: Limits, pool: lvm.Pool) -> str:
    """Why a host's limits keep clones out of a thin pool; "" when they do not. Pure."""
    return pool.problem(limits.pool_data, limits.pool_metadata)
