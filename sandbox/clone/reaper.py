"""Remove what a run left behind: by mark and name, idempotent, and never anything else.

The same function ends a run normally, removes a kept clone, and cleans up after a killed one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from sandbox.core.deadline import Deadline
from sandbox.core.errors import DeadlineExceeded, SandboxError
from sandbox.core.store import OurProcess, RunFolder, Store, is_alive, is_elsewhere, start_time
from sandbox.hosts.drivers import Hypervisor
from sandbox.hosts.transport import HostLost
from sandbox.hosts.volumes.storage import storage_of
from sandbox.network import isolation
from sandbox.network.egress import LISTENER
from sandbox.network.stand_ins import SERVER

_PROGRAMS = ("qemu-nbd", "qemu-img", "ssh", "unshare", "virt-customize")
DISK_WATCH = "sandbox.rehearsal.disk_watch"  # the module that runs as a process beside a clone
_EARLIER = "sandbox.disk_watch"  # the same, of clones that an earlier version kept
_MODULES = {word.encode() for word in (DISK_WATCH, _EARLIER, LISTENER, SERVER)}  # of a command line
_RETRY_PAUSE = 2.0  # seconds
_GRACE = 60.0  # seconds
_GRACE_ELSEWHERE = 1800.0  # seconds beyond the deadline; clocks may differ


Step = Callable[[], list[str]]


@dataclass(frozen=True)
class Reaped:
    """What was removed of a run, and what could not be."""

    run: str
    removed: tuple[str, ...]
    failed: tuple[str, ...]
    danger: str = ""  # why a clone that was kept on purpose had to go


def domain_name(run_id: str, *, control: bool = False) -> str:
    return f"sandbox-{run_id}-control" if control else f"sandbox-{run_id}"


def remove_run(
    hypervisor: Hypervisor, folder: RunFolder, deadline: Deadline | None = None
) -> Reaped:
    """Remove a run's domains, processes, export, network and disks, in that order.

    One step that fails does not keep the others from being tried. Until the ``deadline``, if there
    is one, a step that failed since the host could not be reached is tried again.
    """
    removed: list[str] = []
    failed: dict[Step, str] = {}
    storage = storage_of(hypervisor)
    source = folder.facts().get("source", "")

    def domains() -> list[str]:
        clones = (domain_name(folder.id), domain_name(folder.id, control=True))
        return [f"domain {name}" for name in clones if hypervisor.destroy(name, folder.id)]

    def processes() -> list[str]:
        ended = [p for p in folder.processes() if _end(p)]
        ended += [p for p in _unregistered(folder) if _end(p)]
        return [f"{p.role} process {p.pid}" for p in ended]

    def export() -> list[str]:
        ended = bool(source) and storage.end_export(source, folder.clone)
        return [f"export of {source}"] if ended else []

    def bridges() -> list[str]:
        return list(isolation.remove(hypervisor, folder.id))

    def disks() -> list[str]:
        if not failed:
            removed.extend(storage.remove(folder.id, Deadline(120, "removal")))
        if failed or not folder.clone.exists():
            return []  # with a disk still in use, its folder is what a later reap needs
        folder.remove_clone()
        return [f"folder {folder.clone}"]

    steps: tuple[Step, ...] = (domains, processes, export, bridges, disks)
    waiting = steps
    while True:
        lost = set()
        for step in waiting:
            failed.pop(step, None)
            try:
                removed.extend(step())
            except (SandboxError, OSError) as problem:
                failed[step] = str(problem)
                # A program that took too long hung on the way there, as often as not.
                if isinstance(problem, HostLost | DeadlineExceeded):
                    lost.add(step)
        if not lost or deadline is None or deadline.remaining() < 2 * _RETRY_PAUSE:
            return Reaped(folder.id, tuple(removed), tuple(failed.values()))
        deadline.sleep(_RETRY_PAUSE)
        waiting = tuple(step for step in steps if step in lost or step is disks)


def _unregistered(folder: RunFolder) -> Iterator[OurProcess]:
    """Programs of ours that work on the clone's files and are not noted down, as stand-ins never
    are, and others when a run was killed: the path on their command line is the mark, since it
    holds the run's id."""
    mark = f"{folder.clone}/".encode()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            argv = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # it ended meanwhile
        program = Path(os.fsdecode(argv[0])).name
        is_ours = program in _PROGRAMS or _MODULES & {*argv}
        if is_ours and any(mark in word for word in argv):
            pid = int(entry.name)
            yield OurProcess(pid, start_time(pid), program)


def _end(process: OurProcess) -> bool:
    """Kill one of our processes with its group; false when it is gone or is another's now."""
    if not process.started or start_time(process.pid) != process.started:
        return False
    if process.pid == os.getpid():
        return False  # the disk's watch gives the clone up: it ends with the clone's folder
    if process.pid <= 1:
        return False  # never ours; and killpg(1) is kill(-1), which ends every process there is
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        with contextlib.suppress(ProcessLookupError):  # with the group of another of ours
            os.kill(process.pid, signal.SIGKILL)
    for _ in range(100):
        if _state(process.pid) in ("", "Z"):
            break
        time.sleep(0.02)
    return True


def _state(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def leftovers(hypervisor: Hypervisor, store: Store) -> tuple[str, ...]:
    """Ids of runs whose owner is dead and that were not kept on purpose.

    What belongs to a state folder other than the store's is left to a reaper of that folder,
    which alone knows what was kept.
    """
    return tuple(sorted(_abandoned(hypervisor, store)))


def _abandoned(hypervisor: Hypervisor, store: Store) -> dict[str, RunFolder]:
    ours = [folder for folder in map(store.folder, store.clone_ids()) if is_on(folder, hypervisor)]
    abandoned = {folder.id: folder for folder in ours if _is_abandoned(folder)}
    marks = [*hypervisor.marked_domains(), *hypervisor.marked_networks()]
    marks += storage_of(hypervisor).marked()
    for _name, mark in marks:
        if is_elsewhere(mark.owner):
            # Another machine drives it: what cannot be asked may live until its time is up.
            if 0 < mark.deadline < time.time() - _GRACE_ELSEWHERE:
                abandoned.setdefault(mark.run, store.folder(mark.run))
            continue
        folder = store.folder(mark.run)
        if mark.folder and Path(mark.folder).name == mark.run:
            # Its home may have been another one: processes are known by that path.
            folder = replace(folder, clone=Path(mark.folder))
        if not folder.clone.exists() and not is_alive(mark.owner):
            abandoned.setdefault(mark.run, folder)
    return abandoned


def is_on(folder: RunFolder, hypervisor: Hypervisor) -> bool:
    """Whether a run's clone is on this host: another one's connection cannot remove it."""
    return folder.facts().get("uri", hypervisor.uri) == hypervisor.uri


def _is_abandoned(folder: RunFolder) -> bool:
    facts = folder.facts()
    if "owner" not in facts:
        # Being made or being removed at this moment; or its owner was killed doing so.
        return folder.clone_age() > _GRACE
    # In this order: a run that is kept says so before it ends.
    return not is_alive(facts["owner"]) and folder.facts().get("kept") != "yes"


def reap(hypervisor: Hypervisor, store: Store) -> tuple[Reaped, ...]:
    """Remove what dead runs left. Live ones are not touched, and kept ones only where their
    writes are about to stop production's: nothing else watches them."""
    found = _abandoned(hypervisor, store)
    done = [remove_run(hypervisor, found[run_id]) for run_id in sorted(found)]
    # One after the other, the oldest first: the next one may stay when there is room again.
    for folder in map(store.folder, store.clone_ids()):
        if is_on(folder, hypervisor) and folder.facts().get("kept") == "yes":
            deadline = Deadline(60, "looking at a kept clone's storage")
            seen = storage_of(hypervisor).danger(folder, deadline)
            if seen.to_production:
                removed = remove_run(hypervisor, folder)
                done.append(replace(removed, danger=seen.to_production))
    return tuple(done)
