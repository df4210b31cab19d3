"""A queued run, seen to its end: whatever happens to the connection, and however this ends."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TypeVar

from sandbox.core.deadline import Deadline
from sandbox.core.errors import DeadlineExceeded, SandboxError
from sandbox.core.records import Verdict
from sandbox.core.wording import duration
from workers.database.states import ENDED, RunState
from workers.gate.progress import ProgressLine
from workers.gate.values import CANCELLED, TIMEOUT, Away, Ending, GateRun, Queue

LONGEST_PAUSE = 15.0  # seconds between two tries
TURNS = 5  # how often we ask anew when others cancel what we wait for, too
CANCELLING = 5.0  # seconds: GitHub kills a cancelled step after ten
_ANSWER = 3.0  # of these, for one answer
REPORTING = 30.0  # seconds that a report may take to be where it is read
_LOOK = 0.3
_FORMATS = ("junit", "markdown")
_T = TypeVar("_T")


def gate(queue: Queue, seconds: float, tell: ProgressLine, *, leave: bool) -> Ending:
    """Ask for a rehearsal and wait for its verdict. Signals raise KeyboardInterrupt."""
    visit = _Visit(queue, Deadline(seconds, "waiting for the verdict"), tell)
    try:
        return visit.ended(visit.follow())
    except DeadlineExceeded:
        return visit.too_late(leave=leave)
    except KeyboardInterrupt:
        return visit.interrupted()
    except SandboxError as problem:
        return visit.named(Ending.of_problem(problem))


def take_back(queue: Queue, tell: ProgressLine) -> bool:
    """Cancel the run of a job that cannot do it itself any more; whether that went through."""
    queue.hurry(_ANSWER)
    visit = _Visit(queue, Deadline(CANCELLING, "cancelling"), tell)
    try:
        visit.find()
    except DeadlineExceeded:
        tell.say("the run could not be cancelled: the service does not answer")
        return False
    return visit.cancel()


class _Pause:
    """Between tries: longer each time, and not the same for all who wait."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._seconds = 0.5

    def next(self, after: float = 0.0) -> float:
        pause = self._seconds * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
        self._seconds = min(LONGEST_PAUSE, 2 * self._seconds)
        return max(pause, after)


class _Visit:
    def __init__(self, queue: Queue, deadline: Deadline, tell: ProgressLine) -> None:
        self._queue = queue
        self._deadline = deadline
        self._tell = tell
        self._asked = False
        self._turn = 0
        self._run_id = ""
        self._joined = False
        self._seen: GateRun | None = None
        self._trouble = ""  # why the last request got no answer

    # -- the way to the verdict ---------------------------------------------------------------

    def submit(self) -> None:
        self._asked = True
        self._ask(self._deadline)
        self._tell.submitted(self._run_id, joined=self._joined)

    def _ask(self, deadline: Deadline) -> None:
        # From here on there may be one that we do not know yet.
        self._run_id, self._seen = "", None
        ask = partial(self._queue.submit, self._turn)
        self._run_id, self._joined = self._patiently(ask, deadline)

    def follow(self) -> GateRun:
        """The run when it has ended; not one that its other askers took away from us."""
        self.submit()
        while True:
            seen = self._to_its_end()
            if not self._was_taken_away(seen):
                return seen
            self._tell.say("others who asked for it cancelled it: asking anew")
            self._turn += 1
            self.submit()

    def find(self) -> None:
        """The run that this job asked for, without waiting for its end."""
        self.submit()
        while self._was_taken_away(self._look(self._deadline)):
            self._turn += 1
            self.submit()

    def _look(self, deadline: Deadline) -> GateRun:
        self._seen = self._patiently(partial(self._queue.look, self._run_id), deadline)
        return self._seen

    def _was_taken_away(self, seen: GateRun) -> bool:
        return seen.state is RunState.CANCELLED and self._joined and self._turn < TURNS

    def _to_its_end(self) -> GateRun:
        last, pause = 0, _Pause()
        lost: Away | None
        while True:
            lost, held_back = None, True
            try:
                left = self._deadline.remaining()
                for heard in self._queue.follow(self._run_id, last, left):
                    if heard is not None:
                        last, held_back = heard.id, False
                    pause.reset()
                    self._tell.heard(heard)
                    self._deadline.check()
            except Away as problem:
                lost = problem
            # Also when the stream failed: a proxy may hold it back, and let this through.
            try:
                self._seen = self._queue.look(self._run_id)
            except Away as problem:
                self._tell.away(problem)
                self._deadline.sleep(pause.next(problem.after))
                continue
            self._tell.back()
            if self._seen.state in ENDED:
                return self._seen
            if held_back:
                self._tell.seen(self._seen)
            self._deadline.sleep(pause.next(lost.after if lost else 0.0))

    def _patiently(self, ask: Callable[[], _T], deadline: Deadline) -> _T:
        pause = _Pause()
        while True:
            try:
                answer = ask()
            except Away as problem:
                self._trouble = problem.message
                self._tell.away(problem)
                deadline.sleep(pause.next(problem.after))
            else:
                self._tell.back()
                return answer

    # -- its ends -----------------------------------------------------------------------------

    def ended(self, seen: GateRun) -> Ending:
        """With its reports, where there are any."""
        if seen.verdict is None:
            said = "the run was cancelled by another user"
            return self.named(Ending("cancelled", CANCELLED, said))
        ending = Ending.of(seen.verdict, seen.reason)
        reports, missing = self._reports()
        if missing and seen.verdict is not Verdict.REJECTED:
            self._tell.say(f"without the whole report: {missing}")
            ending = replace(ending, note=f"without the whole report: {missing}")
        return replace(self.named(ending), reports=reports)

    def _reports(self) -> tuple[dict[str, str], str]:
        deadline, found = Deadline(REPORTING, "fetching the report"), {}
        for format in _FORMATS:
            try:
                ask = partial(self._queue.report, self._run_id, format)
                found[format] = self._patiently(ask, deadline)
            except SandboxError as problem:
                return {}, problem.message
        return found, ""

    def too_late(self, *, leave: bool) -> Ending:
        waited = duration(self._deadline.seconds)
        ending = Ending("timeout", TIMEOUT, f"there was no verdict within {waited}")
        if not self._run_id:
            note = self._trouble or "the service did not answer"
            self._take_back_unheard()
            return self.named(replace(ending, note=note))
        if leave:
            note = f"the run goes on: {self._queue.link(self._run_id)}"
            return self.named(replace(ending, note=note))
        self.cancel()
        seen = self._seen
        if seen is not None and seen.verdict is not None:  # in the last moment
            return self.ended(seen)
        return self.named(replace(ending, note=self._what_became()))

    def interrupted(self) -> Ending:
        ending = Ending("cancelled", CANCELLED, "the CI job was cancelled")
        if not self._run_id:
            self._take_back_unheard()
        else:
            self.cancel()
        return self.named(replace(ending, note=self._what_became()))

    def _take_back_unheard(self) -> None:
        """It may have been queued although the answer did not reach us."""
        if not (self._asked and self._queue.repeatable):
            return
        self._tell.say("cancelling what may have been queued")
        self._queue.hurry(_ANSWER)
        try:
            self._ask(Deadline(CANCELLING, "cancelling"))
        except SandboxError as problem:
            self._tell.say(f"nothing was queued, as far as can be seen: {problem.message}")
            return
        self.cancel()

    def cancel(self) -> bool:
        """Take the run back and wait a moment for the confirmation; whether it was heard."""
        if self._joined:
            self._tell.say(f"run {self._run_id} was asked for by others, too: it goes on")
            return True
        self._tell.say(f"cancelling run {self._run_id}")
        self._queue.hurry(_ANSWER)
        deadline = Deadline(CANCELLING, "cancelling")
        try:
            self._patiently(lambda: self._queue.cancel(self._run_id), deadline)
            while self._look(deadline).state not in ENDED:
                deadline.sleep(_LOOK)
        except SandboxError as problem:
            if self._seen is None or self._seen.state is not RunState.CANCELLING:
                said = f"run {self._run_id} could not be cancelled: {problem.message}"
                self._tell.say(f"{said}; {self._queue.link(self._run_id)}")
                return False
        self._tell.say(self._what_became())
        return True

    def _what_became(self) -> str:
        if self._joined:
            return "the run goes on for the others that asked for it"
        match self._seen.state if self._seen else None:
            case RunState.CANCELLED:
                return "the run is cancelled and its clone removed"
            case RunState.CANCELLING:
                return "the run is being cancelled: its worker removes the clone"
            case RunState.FINISHED:
                return "the run had ended already"
            case None:
                return "nothing was rehearsed, as far as can be seen"
        return "the run could not be cancelled"

    def named(self, ending: Ending) -> Ending:
        """With what is known of the run."""
        seen = self._seen
        return replace(
            ending,
            run_id=self._run_id,
            link=self._queue.link(self._run_id) if self._run_id else "",
            guest=seen.guest if seen else "",
            started=seen.submitted if seen else 0.0,
            ended=(seen.ended if seen else None) or time.time(),
        )
