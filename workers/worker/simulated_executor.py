"""An executor that only pretends, for tests of everything around it: kills, leases, scale.

Its "clones" are files that name their owner, so that a test can count what is left, and see two
rehearsals of one guest at once. The guest's name says how its rehearsal ends: ``…-fail``,
``…-error`` (each attempt), ``…-flaky`` (an error at first), ``…-full`` (no room at first); all
others pass. ``slow-…`` takes five times as long,
``long-…`` fifty.

For tests that kill there is a pause ``around`` it all, before the clone is made and after it is
gone; ``at/RUN-FENCE`` then names the attempt's process and the stage that it is in.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs

from sandbox.core.errors import HostError, RequestError
from sandbox.core.records import Phase, Verdict
from sandbox.core.store import is_alive, this_process
from workers.queue.values import Claim, NotNow, Outcome
from workers.worker.executor import Teller

STEP = 0.02  # seconds; the longest time that an interruption waits
BEFORE, AFTER = "before", "after"  # the stages around the phases
STAGES = (BEFORE, *(phase.value for phase in Phase), AFTER)


@dataclass(frozen=True)
class SimulatedExecutor:
    """Implements :class:`workers.worker.executor.Executor`. ``seconds``: of each phase."""

    folder: Path
    seconds: float = 0.05
    undo_seconds: float = 0.0  # that the clean-up takes
    around: float = 0.0  # seconds before the clone is made, and after it is gone
    left: bool = False

    @classmethod
    def from_text(cls, text: str) -> SimulatedExecutor:
        """``simulated:FOLDER?seconds=0.1&undo=1``."""
        place, _, options = text.partition(":")[2].partition("?")
        given = {name: values[-1] for name, values in parse_qs(options).items()}
        if not place.startswith("/"):
            raise RequestError(f"{text!r} names no folder", "simulated:/FOLDER?seconds=0.1")
        return cls(
            Path(place),
            seconds=float(given.get("seconds", 0.05)),
            undo_seconds=float(given.get("undo", 0)),
            around=float(given.get("around", 0)),
        )

    def run(self, claim: Claim, tell: Teller, folder: Callable[[str], None]) -> Outcome:
        try:
            return self._run(claim, tell, folder)
        except OSError as problem:
            raise HostError(
                f"the pretended host's disk: {problem.strerror}", "make room on it"
            ) from problem
        finally:
            self._at(claim).unlink(missing_ok=True)

    def _run(self, claim: Claim, tell: Teller, folder: Callable[[str], None]) -> Outcome:
        (self.folder / "clones").mkdir(parents=True, exist_ok=True)
        if claim.guest.endswith("-full") and self._first(claim):
            raise NotNow("the pretended host has no room")
        clone = self.folder / "clones" / f"{claim.run_id}-{claim.fence}"
        folder(clone.name)
        times = {"slow": 5, "long": 50}.get(claim.guest.partition("-")[0], 1)
        self._enter(claim, BEFORE, self.around * times)
        self._see_neighbours(claim)
        try:
            self._make(clone, claim)
            for phase in Phase:
                tell("phase", phase.value)
                self._enter(claim, phase.value, self.seconds * times)
            if not clone.exists():
                self._violated(f"{clone.name} was removed beneath its owner")
        finally:
            try:
                time.sleep(self.undo_seconds)
            finally:
                clone.unlink(missing_ok=True)
        self._enter(claim, AFTER, self.around * times)
        if claim.guest.endswith("-error") or (
            claim.guest.endswith("-flaky") and self._first(claim)
        ):
            return Outcome(Verdict.ERROR, "the pretended mirror did not answer")
        if claim.guest.endswith("-fail"):
            return Outcome(Verdict.FAIL, "the pretended service does not start")
        return Outcome(Verdict.PASS, "all pretended checks hold", {"fence": claim.fence})

    def _make(self, clone: Path, claim: Claim) -> None:
        """Create it atomically: a half-written clone would not name its owner."""
        mark = {"owner": this_process(), "guest": claim.guest, "host": claim.host}
        half = self.folder / f"{clone.name}.new"
        try:
            half.write_text(json.dumps(mark))
            half.rename(clone)
        finally:
            half.unlink(missing_ok=True)

    def _enter(self, claim: Claim, stage: str, seconds: float) -> None:
        """Be in a stage for so long."""
        if self.around:
            (self.folder / "at").mkdir(exist_ok=True)
            self._at(claim).write_text(f"{os.getpid()} {stage}")
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(STEP, left))

    def _at(self, claim: Claim) -> Path:
        return self.folder / "at" / f"{claim.run_id}-{claim.fence}"

    def _violated(self, what: str) -> None:
        with (self.folder / "violations").open("a") as file:
            file.write(f"{what}\n")

    def reap(self, host: str) -> tuple[str, ...]:
        return tuple(path.name for path in self.clones(host) if self._take_if_dead(path))

    def clones(self, host: str | None = None) -> list[Path]:
        """The clones there are, of a host or of all."""
        found = []
        for path in (self.folder / "clones").glob("*"):
            if host is None or self._mark(path).get("host") in (host, None):
                found.append(path)
        return found

    def _see_neighbours(self, claim: Claim) -> None:
        """Two rehearsals of one guest at once: written down for the test to find."""
        for path in self.clones(claim.host):
            mark = self._mark(path)
            if mark.get("guest") == claim.guest and not self._take_if_dead(path):
                self._violated(f"{claim.run_id}-{claim.fence} beside {path.name}")

    def _take_if_dead(self, path: Path) -> bool:
        owner = self._mark(path).get("owner")
        if owner is None or is_alive(owner):
            return False
        path.unlink(missing_ok=True)
        return True

    @staticmethod
    def _mark(path: Path) -> dict[str, str]:
        with contextlib.suppress(FileNotFoundError, ValueError):  # gone, or not yet written
            mark: dict[str, str] = json.loads(path.read_text())
            return mark
        return {}

    def _first(self, claim: Claim) -> bool:
        """Whether this is asked for the first time about the run."""
        asked = self.folder / "asked"
        asked.mkdir(exist_ok=True)
        try:
            (asked / claim.run_id).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True
