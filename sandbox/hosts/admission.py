"""Who may take a host's memory: asked and noted down under a lock, so that two runs that begin
together do not both count on the same.

A run is admitted before anything is made, and its memory is kept for it until its domain is up;
right before the domain is started it is asked once more, since others start guests, too. Both are
exclusive on this machine, whatever the state folder. Another machine that drives the same host is
not seen before its domains are up: then the second question answers, at worst libvirt.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from sandbox.core.deadline import Deadline
from sandbox.core.errors import DeadlineExceeded, HostError, NoRoom
from sandbox.core.store import is_alive, this_process
from sandbox.hosts.drivers import Hypervisor

PLACE = Path("/run/upgrade-sandbox/admission")
_SPARE = 128 << 20  # bytes: of the hypervisor itself, whatever the guest's size
_PAGING = 128  # an HVM or PVH domain's page tables take 8 MiB for each GiB
_POLL = 0.1  # seconds
_LEAVING_SECONDS = 30.0


@dataclass(frozen=True)
class Want:
    """What a run asks for; bytes."""

    run: str
    memory: int
    keep_free: int = 0  # that no clone may take
    owner: str = ""
    until: float = 0.0  # Unix time at which its domain is up or given up


def overhead(memory: int) -> int:
    """What a domain takes of the host beside its own memory, in bytes."""
    return _SPARE + memory // _PAGING


def require_memory(want: Want, free: int, promised: tuple[Want, ...] = ()) -> None:
    """Raise :class:`NoRoom` with what is free and what is needed; pure.

    ``promised``: what other runs were admitted with, whose domains are not up yet.
    """
    beside = overhead(want.memory)
    taken = sum(other.memory + overhead(other.memory) for other in promised)
    if want.memory + beside + taken + want.keep_free <= free:
        return
    words = [f"the host has {free >> 20} MiB free"]
    if promised:
        runs = ", ".join(other.run for other in promised)
        words.append(f"{taken >> 20} MiB of it are for runs that start just now ({runs})")
    if want.keep_free:
        words.append(f"{want.keep_free >> 20} MiB have to stay free")
    lower = ", or lower `keep_free` of the host in hosts.yaml" if want.keep_free else ""
    raise NoRoom(
        f"the clone needs {want.memory >> 20} MiB of memory and {beside >> 20} MiB beside it: "
        + ", ".join(words),
        f"wait for other runs to end, or state a smaller `memory:` in the scenario{lower}",
    )


class Admission:
    """Memory that is kept for one run from its admission until its domain is up."""

    def __init__(self, hypervisor: Hypervisor, want: Want, deadline: Deadline) -> None:
        self._hypervisor = hypervisor
        self._want = want
        self._deadline = deadline
        self._ledger = PLACE / f"{_key(hypervisor.uri)}.json"

    def __enter__(self) -> Admission:
        with _locked(self._ledger, self._deadline) as ledger:
            others = tuple(entry for entry in ledger.read() if entry.run != self._want.run)
            require_memory(self._want, self._hypervisor.free_memory(), others)
            ledger.write((*others, self._want))
        return self

    def start(self, start: Callable[[], None]) -> None:
        """Call what starts the domain, alone on this machine, if its memory is there."""
        with _locked(self._ledger, self._deadline) as ledger:
            # Not what others were promised: theirs was counted with ours in it.
            require_memory(self._want, self._hypervisor.free_memory())
            start()
            ledger.drop(self._want.run)

    def __exit__(self, *_exc: object) -> None:
        # Where another start takes its time, the promise ends by itself.
        with (
            contextlib.suppress(DeadlineExceeded),
            _locked(self._ledger, Deadline(_LEAVING_SECONDS, "leaving")) as ledger,
        ):
            ledger.drop(self._want.run)


def admitted(
    hypervisor: Hypervisor, run: str, memory: int, keep_free: int, deadline: Deadline
) -> Admission:
    """The right to start one domain; raises :class:`HostError` when the host has no room."""
    until = time.time() + deadline.remaining()
    return Admission(hypervisor, Want(run, memory, keep_free, this_process(), until), deadline)


class _Ledger:
    """The runs that were admitted, in an open file that is locked."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read(self) -> tuple[Want, ...]:
        """Without those whose owner died or whose time is up."""
        text = os.pread(self._descriptor, os.fstat(self._descriptor).st_size, 0)
        now = time.time()
        # A ledger cut short by a full disk or a kill counts as empty: start() checks again.
        with contextlib.suppress(ValueError, TypeError):
            found = [Want(**entry) for entry in json.loads(text)]
            return tuple(entry for entry in found if entry.until > now and is_alive(entry.owner))
        return ()

    def write(self, entries: tuple[Want, ...]) -> None:
        text = json.dumps([vars(entry) for entry in entries]).encode()
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, text, 0)

    def drop(self, run: str) -> None:
        entries = self.read()
        if any(entry.run == run for entry in entries):
            self.write(tuple(entry for entry in entries if entry.run != run))


@contextlib.contextmanager
def _locked(path: Path, deadline: Deadline) -> Iterator[_Ledger]:
    """Also against our own threads: a lock belongs to the open file, not to the process. It ends
    with its holder, however that ends."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as problem:
        raise HostError(f"cannot open {path}: {problem.strerror}", "run as root") from problem
    try:
        while True:
            with contextlib.suppress(BlockingIOError):  # another run is being let in, or starts
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            deadline.sleep(_POLL)
        yield _Ledger(descriptor)
    finally:
        os.close(descriptor)


def _key(uri: str) -> str:
    """One for each host, however and by whomever it is reached."""
    parts = urlsplit(uri)
    where = f"{parts.scheme.partition('+')[0]} {parts.hostname or ''} {parts.port or ''}"
    return hashlib.sha256(where.encode()).hexdigest()[:12]
