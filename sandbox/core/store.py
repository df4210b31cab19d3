"""The runs on disk: one folder a run, its record in ``run.json``, its clone's files apart.

``runs/<id>``    record and artifacts, mode 0700: they may hold the guest's secrets
``clones/<id>``  overlays, sockets and the list of our processes, gone when the run ends
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from sandbox.core.errors import HostError, RequestError
from sandbox.core.records import RunRecord
from sandbox.core.settings import Settings

_FACTS = "facts.json"  # in the clone's folder


@dataclass(frozen=True)
class OurProcess:
    """A process that must not outlive its run; the start time tells a recycled pid."""

    pid: int
    started: str
    role: str


@dataclass(frozen=True)
class RunFolder:
    """The places of one run."""

    id: str
    artifacts: Path
    clone: Path

    def register(self, pid: int, role: str) -> None:
        """Note a process before it can be forgotten; appended, so a kill loses nothing."""
        with (self.clone / "processes").open("a") as file:
            file.write(f"{pid} {start_time(pid)} {role}\n")

    def processes(self) -> tuple[OurProcess, ...]:
        path = self.clone / "processes"
        if not path.exists():
            return ()
        rows = (line.split(" ", 2) for line in path.read_text(errors="replace").splitlines())
        whole = (row for row in rows if len(row) == 3 and row[0].isdigit())
        return tuple(OurProcess(int(pid), started, role) for pid, started, role in whole)

    def note(self, **facts: str) -> None:
        """Facts that a reaper needs: owner, uri, source, kept."""
        path = self.clone / _FACTS
        _write(path, json.dumps(self.facts() | facts))

    def facts(self) -> dict[str, str]:
        path = self.clone / _FACTS
        if not path.exists():
            return {}
        with contextlib.suppress(ValueError, AttributeError):  # damaged: no JSON, or no mapping
            return {str(k): str(v) for k, v in json.loads(path.read_text()).items()}
        return {}

    def neighbours(self) -> Iterator[RunFolder]:
        """The other runs of the same state folder that have a clone, or are making one."""
        for place in sorted(self.clone.parent.iterdir()):
            if place.is_dir() and place != self.clone:
                yield RunFolder(place.name, self.artifacts.parent / place.name, place)

    def clone_age(self) -> float:
        """Seconds since something was made in or removed from the clone's folder; 0: no folder."""
        try:
            return time.time() - self.clone.stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def remove_clone(self) -> None:
        """Remove the clone's files; the facts go last: a later attempt needs them."""
        for path in self.clone.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != _FACTS:
                path.unlink(missing_ok=True)
        shutil.rmtree(self.clone)

    def save(self, record: RunRecord) -> None:
        _write(self.artifacts / "run.json", record.model_dump_json(indent=1))


class Store:
    """All runs of one state folder."""

    def __init__(self, settings: Settings) -> None:
        self._runs = settings.runs
        self._clones = settings.clones

    def create(self, uri: str = "") -> RunFolder:
        """A new run with an id that sorts by time; raises :class:`HostError` on a full disk.

        ``uri``: of the host that its clone will be on; the clone's removal needs it.
        """
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
        run = self.folder(f"{stamp}-{secrets.token_hex(3)}")
        try:
            for path, mode in (
                (self._runs.parent, 0o711),
                (self._runs, 0o700),
                (run.artifacts, 0o700),
                (self._clones, 0o711),
                (run.clone, 0o711),  # the hypervisor's user reaches its files by name only
            ):
                path.mkdir(parents=True, exist_ok=True)
                path.chmod(mode)
            run.note(owner=this_process(), **({"uri": uri} if uri else {}))
        except OSError as problem:
            raise HostError(
                f"cannot make a folder for the run: {problem}",
                "run as root, or point SANDBOX_STATE to a folder that you may write",
            ) from problem
        return run

    def folder(self, run_id: str) -> RunFolder:
        return RunFolder(run_id, self._runs / run_id, self._clones / run_id)

    def ids(self) -> tuple[str, ...]:
        """Runs with a record, oldest first."""
        if not self._runs.is_dir():
            return ()
        return tuple(sorted(p.parent.name for p in self._runs.glob("*/run.json")))

    def clone_ids(self) -> tuple[str, ...]:
        """Runs that still have a clone folder."""
        if not self._clones.is_dir():
            return ()
        return tuple(sorted(p.name for p in self._clones.iterdir() if p.is_dir()))

    def find(self, text: str) -> RunFolder:
        """A run by id, unique beginning or end of it, or ``latest``."""
        ids = self.ids()
        if text == "latest" and ids:
            return self.folder(ids[-1])
        if text in ids:
            return self.folder(text)
        matches = [i for i in ids if text and (i.startswith(text) or i.endswith(text))]
        if len(matches) == 1:
            return self.folder(matches[0])
        if matches:
            raise RequestError(
                f"{text!r} fits {len(matches)} runs", f"say more of it: {', '.join(matches[-3:])}"
            )
        raise RequestError(
            f"no run {text!r}", f"`sandbox list` shows the {len(ids)} there are; `latest` works too"
        )

    def load(self, folder: RunFolder) -> RunRecord:
        path = folder.artifacts / "run.json"
        try:
            return RunRecord.model_validate_json(path.read_text())
        except (OSError, ValidationError) as problem:
            raise RequestError(
                f"the record {path} cannot be read: {str(problem).splitlines()[0]}",
                "it was written by another version, or damaged; `sandbox rm` removes the run",
            ) from problem

    def records(self) -> Iterator[RunRecord]:
        for run_id in self.ids():
            with contextlib.suppress(RequestError):  # a damaged one does not hide the others
                yield self.load(self.folder(run_id))


def _write(path: Path, text: str) -> None:
    """Replace a file as a whole: a reader sees the old or the new one, never half."""
    fresh = path.with_name(path.name + ".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def start_time(pid: int) -> str:
    """When a process started, in clock ticks since boot; "" when there is none.

    A process that has ended counts as none, even while its parent has not reaped it.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""
    fields = stat.rpartition(")")[2].split()  # from field 3 of proc(5) on
    return "" if fields[0] in "ZX" else fields[19]


def this_process() -> str:
    """Our identity, so that another process can tell whether we still live."""
    return f"{os.getpid()}:{start_time(os.getpid())}:{_boot_id()}:{_machine_id()}"


def is_alive(owner: str) -> bool:
    """Whether the process behind an owner mark still runs on this machine, this boot."""
    pid, _, rest = owner.partition(":")
    started, _, place = rest.partition(":")
    boot = place.partition(":")[0]
    return (
        boot == _boot_id() and pid.isdigit() and bool(started) and start_time(int(pid)) == started
    )


def is_elsewhere(owner: str) -> bool:
    """Whether an owner mark is of another machine, whose processes cannot be seen here."""
    machine = owner.split(":")[3:]
    return bool(machine and machine[0] and machine[0] != _machine_id())


def _machine_id() -> str:
    path = Path("/etc/machine-id")
    return path.read_text().strip()[:12] if path.exists() else ""


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
