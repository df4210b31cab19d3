"""A run in the making: collects facts phase by phase and keeps ``run.json`` current."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Iterator
from typing import Any

from sandbox import __version__
from sandbox.clone.create import Clone, CloneLease
from sandbox.clone.reaper import remove_run
from sandbox.clone.ssh import ssh_command
from sandbox.core.deadline import Deadline
from sandbox.core.errors import (
    ConnectionLost,
    DeadlineExceeded,
    GuestBusy,
    GuestRestarted,
    GuestUnreachable,
    HostError,
    NoRoom,
    NotFetched,
    RequestError,
    SandboxError,
)
from sandbox.core.progress import Progress
from sandbox.core.records import (
    Artifact,
    Facts,
    Phase,
    PhaseTime,
    RunRecord,
    Trouble,
    Verdict,
)
from sandbox.core.store import RunFolder
from sandbox.hosts.drivers import Hypervisor
from sandbox.network import egress
from sandbox.scenario import Scenario
from sandbox.verdict.decide import decide

MORE_SPACE = "free some space and try again"
_AFTER_UPGRADE = (Phase.UPGRADE, Phase.REBOOT, Phase.VERIFY)


class Run:
    """Mutable while it runs; what it knows is written down after every phase."""

    def __init__(self, folder: RunFolder, progress: Progress, scenario: Scenario) -> None:
        guest = _name_of(scenario)
        self.folder = folder
        self.has_clone = False
        self.given_up = ""  # why, where the clone had to go before the end
        self._untouched: tuple[str, ...] = ()
        self._heard_before: int | None = None  # of what the clone tried to reach
        self.changing = False  # the clone is not what the source is any more
        self.progress = progress
        self.record = RunRecord(
            id=folder.id,
            tool_version=__version__,
            scenario=scenario.name,
            scenario_path=str(scenario.path),
            guest=guest,
            started=time.time(),
        )
        self._note = ""
        self.save()
        progress.run_started(folder.id, guest, scenario.name)

    def save(self) -> None:
        try:
            self.folder.save(self.record)
        except OSError as problem:
            raise HostError(
                f"the record of run {self.folder.id} cannot be written: {problem}",
                "free some space and try again",
            ) from problem

    def learn(self, **facts: Any) -> None:
        """Add to the facts of the run."""
        self._update(facts=self.record.facts.model_copy(update=facts))

    @property
    def facts(self) -> Facts:
        return self.record.facts

    def describe_clone(self, clone: Clone) -> None:
        """The clone stands; from here on there is something to collect evidence of."""
        self.has_clone = True
        self._update(source=clone.facts)
        self.note(f"{clone.facts.method}, {clone.allocated >> 10} KiB allocated")

    def upgrade_begins(self) -> None:
        """What the clone tries to reach from now on, it tries after the upgrade."""
        self._heard_before = egress.position(self.folder)

    def read_ledger(self) -> None:
        self.learn(ledger=egress.read(self.folder, self._heard_before))

    def prove_untouched(self, proofs: tuple[str, ...]) -> None:
        """What was compared on the source and had not changed."""
        if self.record.source is not None:
            self._update(source=self.record.source.model_copy(update={"untouched": proofs}))

    def give_up(self, hypervisor: Hypervisor, why: str) -> None:
        """End the clone from another thread, to protect the source or since it is broken; the
        recipe then fails."""
        self.given_up = why
        self.has_clone = False  # nothing is left to look at, or to keep
        remove_run(hypervisor, self.folder)

    def add_artifact(self, name: str, title: str) -> None:
        if all(artifact.name != name for artifact in self.record.artifacts):
            self._update(artifacts=(*self.record.artifacts, Artifact(name=name, title=title)))

    def note(self, text: str) -> None:
        """One human line about the phase: shown when it ends."""
        self._note = text

    def _update(self, **values: Any) -> None:
        self.record = self.record.model_copy(update=values)

    @contextlib.contextmanager
    def phase(self, phase: Phase, seconds: float) -> Iterator[Deadline]:
        """Time a phase; its end is recorded however it ends."""
        self._note = ""
        self._update(phase=phase)
        with contextlib.suppress(HostError):  # a full disk must not keep the clean-up from its work
            self.save()
        self.progress.phase_started(phase, seconds)
        started, clock, ok = time.time(), time.monotonic(), False
        try:
            yield Deadline(seconds, phase.value)
            ok = True
        finally:
            done = PhaseTime(
                phase=phase,
                started=started,
                seconds=round(time.monotonic() - clock, 3),
                ok=ok,
                note=self._note,
            )
            self._update(phases=(*self.record.phases, done))
            self.save()
            self.progress.phase_ended(done)

    def blame(self, problem: BaseException) -> None:
        """Write down why the recipe ended early. The first trouble counts."""
        if self.facts.trouble is not None:
            return
        blame = blame_for(problem, self.record.phase, self.changing)
        if self.given_up:
            blame, message, hint = Verdict.ERROR, self.given_up, MORE_SPACE
        elif isinstance(problem, SandboxError):
            message, hint = problem.message, problem.hint
        elif isinstance(problem, OSError):
            message, hint = f"the host failed: {problem}", "see `sandbox doctor`"
        elif isinstance(problem, KeyboardInterrupt):
            message, hint = "interrupted", "run it again"
        else:
            message = f"a fault of ours: {type(problem).__name__}: {problem}"
            hint = "please report it, with traceback.txt of this run"
            text = "".join(traceback.format_exception(problem))
            (self.folder.artifacts / "traceback.txt").write_text(text)
            self.add_artifact("traceback.txt", "traceback")
        trouble = Trouble(
            blame=blame,
            phase=self.record.phase,
            message=message,
            hint=hint,
            no_room=isinstance(problem, NoRoom),
            restarted=isinstance(problem, GuestRestarted),
            gone=_is_gone(problem) and self.facts.booted,
        )
        self.learn(trouble=trouble)

    def void(self, message: str, hint: str) -> None:
        """What was found says nothing of the upgrade, be it good or bad: the clone was no clone."""
        if self.facts.trouble is None or self.facts.trouble.blame is not Verdict.ERROR:
            trouble = Trouble(blame=Verdict.ERROR, phase=Phase.CLONE, message=message, hint=hint)
            self.learn(trouble=trouble)

    def end(self, lease: CloneLease) -> RunRecord:
        """Decide, and close the record."""
        self._update(
            decision=decide(self.facts),
            finished=time.time(),
            state="kept" if lease.kept else "finished",
            ssh_command=ssh_command(self.folder.clone) if lease.kept else "",
            left_behind=lease.reaped.failed if lease.reaped else (),
        )
        self.save()
        return self.record


def _name_of(scenario: Scenario) -> str:
    source = scenario.source
    if source is None:
        return ""
    return source.guest or (str(source.image.path) if source.image else "")


def _is_gone(problem: BaseException) -> bool:
    return isinstance(problem, GuestUnreachable) and not isinstance(problem, GuestRestarted)


def blame_for(problem: BaseException, phase: Phase, changing: bool) -> Verdict:
    """Whose fault an early end is: the verdict that it alone would give. ``changing``: packages
    are being changed, or have been; before that it cannot be the upgrade's."""
    if isinstance(problem, RequestError):
        return Verdict.REJECTED
    if isinstance(problem, GuestUnreachable):
        if changing and phase in _AFTER_UPGRADE:
            return Verdict.FAIL
        return Verdict.REJECTED if problem.refused else Verdict.INCONCLUSIVE
    if isinstance(problem, ConnectionLost):
        return Verdict.ERROR
    if isinstance(problem, GuestBusy):
        return Verdict.INCONCLUSIVE
    if isinstance(problem, NotFetched):
        return Verdict.ERROR
    if isinstance(problem, DeadlineExceeded) and changing and phase is Phase.UPGRADE:
        return Verdict.FAIL  # e.g. a maintainer script that waits for ever
    return Verdict.ERROR
