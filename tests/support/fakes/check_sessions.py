"""Sessions of checks against a real sshd, for the tests of `sandbox.checks.runner`."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from sandbox.checks import CheckSettings
from sandbox.checks.runner import run_checks
from sandbox.core.deadline import Deadline
from sandbox.core.records import CheckResult, CheckSession, Observation
from tests.support.machine.processes import is_running
from tests.support.machine.sshd import Sshd

OBSERVED = Observation(boot_id="b0", kernel="6.1.0-31-amd64", state="running")


def write(folder: Path, files: dict[str, str]) -> list[Path]:
    """Lay out a scenario's folder; the paths of its checks."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(textwrap.dedent(text))
    return [folder / name for name in files if Path(name).name.startswith("test_")]


class Rehearsal:
    """Runs checks given as text; ``folder`` is the test's own, sessions share its run folder."""

    def __init__(self, server: Sshd, folder: Path) -> None:
        self.server = server
        self.folder = folder

    def __call__(
        self,
        files: dict[str, str],
        *,
        server: Sshd | None = None,
        seconds: float = 60.0,
        phase: Literal["before", "after"] = "before",
        settings: CheckSettings | None = None,
        on_result: Callable[[CheckResult], None] = lambda result: None,
    ) -> CheckSession:
        return run_checks(
            files=write(self.folder / "scenario", files),
            shared=[],
            ssh_config=(server or self.server).ssh_config,
            host="clone",
            phase=phase,
            baseline=None if phase == "before" else OBSERVED,
            current=OBSERVED,
            settings=settings or CheckSettings(),
            work_dir=self.folder / "run",
            deadline=Deadline(seconds, "checks"),
            on_result=on_result,
        )

    def long_enough(self) -> float:
        """Seconds in which checks are begun on this machine, whatever else it has to do: several
        times what a session of next to nothing takes."""
        return 2 + 4 * self({"test_quick.py": "def test_quick(): ..."}).seconds


def by_name(session: CheckSession) -> dict[str, CheckResult]:
    return {result.name: result for result in session.results}


def gone(pid: str) -> bool:
    return not is_running(int(pid))
