"""What the checks' process is asked to do; written to a file that only its owner reads."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from sandbox.checks import CheckSettings
from sandbox.checks.connection import CheckConnection
from sandbox.core.records import Observation, Record

PhaseName = Literal["before", "after"]
TEMPORARY = "check-tmp"  # folder for temporary files of the checks, removed after them


class Job(Record):
    """One session of checks. Paths are absolute; ``seconds`` is the time left at its start."""

    token: str
    phase: PhaseName
    root: str  # the folder of the scenario's own checks
    own: tuple[str, ...]
    shared: tuple[str, ...]
    work_dir: str
    ssh_config: str
    host: str
    master_pid: int
    baseline: Observation
    current: Observation
    settings: CheckSettings
    seconds: float
    log: str  # the name of its log, without a suffix
    only: tuple[str, ...] = ()  # checks by name; empty: all of them

    @property
    def connection(self) -> CheckConnection:
        return CheckConnection(Path(self.ssh_config), self.host, self.master_pid)

    @property
    def facts_path(self) -> Path:
        """Where checks keep what they need again in the other phase."""
        return Path(self.work_dir) / "check-facts.json"

    def name_of(self, path: Path) -> str:
        """A file's name in reports, the same in both phases and on every machine."""
        if str(path) in self.shared:
            return f"shared/{path.name}"
        try:
            return path.relative_to(self.root).as_posix()
        except ValueError:
            return path.name
