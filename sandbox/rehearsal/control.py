"""The control at work: a clone of the same instant that is not upgraded, in its own thread.

It boots beside the clone, is looked at and checked, checked again while the clone is upgraded,
rebooted when the clone is, and checked once more. What differs there is not the upgrade's doing.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType

from sandbox.checks.runner import share_of_checks
from sandbox.clone.create import Clone, control_place, create_control, remove_control
from sandbox.clone.guest import Guest
from sandbox.core.deadline import Deadline
from sandbox.core.errors import (
    ConnectionLost,
    DeadlineExceeded,
    GuestUnreachable,
    HostError,
    NoRoom,
    SandboxError,
)
from sandbox.core.records import CheckEnd, CheckSession, Control, Phase, Watch
from sandbox.core.store import RunFolder
from sandbox.hosts.drivers import Hypervisor
from sandbox.observe.wide import Aside
from sandbox.rehearsal.plan import Plan
from sandbox.rehearsal.trial import Checkpoint, Moment, Trial

LATER = 60.0  # seconds that a control may be behind its clone
ROUNDS = 3  # of checks, at most, before the reboot and after it
_TRIES = 2 * ROUNDS  # with those in which the connection broke
CONTROL_CHECKS = "control"  # folder of what its checks write


class Cut(Deadline):
    """A deadline that another thread can bring forward to now."""

    def __init__(self, seconds: float, phase: str, stop: threading.Event) -> None:
        super().__init__(seconds, phase)
        self._stop = stop

    def remaining(self) -> float:
        return 0.0 if self._stop.is_set() else super().remaining()

    def sleep(self, seconds: float) -> None:
        self.check()
        self._stop.wait(min(seconds, self.remaining()))

    def within(self, seconds: float) -> Deadline:
        return Cut(min(seconds, self.remaining()), self.phase, self._stop)


class ControlTrial:
    """A context manager: leaving it ends the control, whatever it does."""

    def __init__(
        self,
        plan: Plan,
        hypervisor: Hypervisor,
        folder: RunFolder,
        enter: Callable[[Cut], Guest] | None,
        missing: str = "",
    ) -> None:
        self._plan = plan
        self._hypervisor = hypervisor
        self._folder = folder
        self._enter = enter
        self._told = threading.Event()  # how it goes on after the upgrade
        self._wanted = threading.Event()  # the recipe waits for its result
        self._known = threading.Event()  # for how long the clone was watched
        self._watched = plan.watch
        self._stop = threading.Event()
        self._goes_on = self._reboot = False
        self._restarts_at_first: dict[str, int] | None = None  # as of the clone that is watched
        self._found = Control(missing=missing)
        self._thread = threading.Thread(target=self._work, name="control", daemon=True)

    def __enter__(self) -> ControlTrial:
        if self._enter is not None:
            self._thread.start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _problem: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        for event in (self._stop, self._told, self._known):
            event.set()
        if self._enter is not None:
            self._thread.join()
            with contextlib.suppress(SandboxError):  # the run's own clean-up tries it again
                remove_control(self._hypervisor, self._folder)

    def go_on(self, *, reboot: bool) -> None:
        """The clone is upgraded: the control does what the clone does from here on."""
        self._goes_on, self._reboot = True, reboot
        self._told.set()

    @property
    def absent(self) -> Control | None:
        """Why there is none; None where there is one, and where none was wanted."""
        return self._found if self._enter is None and self._found.missing else None

    def does_so_too(self) -> Control | None:
        """What it found, once it had the time to restart by itself, or to go away, as the clone
        did."""
        if not self._goes_on:
            self.go_on(reboot=False)
        late = LATER + 2 * self._plan.seconds[Phase.VERIFY]
        return self.found(Deadline(late, "waiting for the control"), by_itself=True)

    def found(
        self, deadline: Deadline, *, watched: Watch | None = None, by_itself: bool = False
    ) -> Control | None:
        """What it found, waited for until the deadline; None where no control was wanted.
        Without :meth:`go_on` that ends with the checks before the upgrade. ``watched``:
        where the clone was, what the control was like at first does not matter. ``by_itself``:
        the clone restarted, or went away."""
        if self._enter is None:
            return self.absent
        self._watched = watched.seconds if watched else 0.0
        if by_itself:  # would it have done so a little later?
            self._watched += LATER
        self._known.set()
        self._wanted.set()
        self._told.set()
        while self._thread.is_alive() and not deadline.expired():
            self._thread.join(min(0.5, deadline.remaining()))
        if self._thread.is_alive():
            return self._found.model_copy(update={"missing": "it took too long"})
        return self._found

    # -- in its thread ------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            self._rehearse()
        except SandboxError as problem:
            gone = isinstance(problem, GuestUnreachable) and self._found.before is not None
            why = "it cannot be entered any more" if gone else problem.message
            self._learn(missing=why, gone=gone)
        except Exception as problem:
            self._learn(missing=f"a fault of ours: {type(problem).__name__}: {problem}")

    def _rehearse(self) -> None:
        seconds, enter = self._plan.seconds, self._enter
        assert enter is not None, "there is a thread only where there is a control"
        with ExitStack() as undo:
            boot = self._cut(seconds[Phase.BOOT], "boot of the control")
            guest = undo.enter_context(enter(boot))
            trial = Trial(self._plan, guest, self._folder.artifacts / CONTROL_CHECKS)
            trial.boot(boot)
            self._rounds(trial, "before", seconds[Phase.BASELINE], self._told)
            self._wait(self._told, sum(seconds.values()))
            if self._stop.is_set() or not self._reboot_or_not(trial):
                return
            began = time.monotonic()
            self._rounds(trial, "after", share_of_checks(seconds[Phase.VERIFY]), self._wanted)
            self._known.wait(max(0.0, began + self._watched - time.monotonic()))
            if self._watched:  # only what is left when the clone was looked at last counts
                self._stop.wait(max(0.0, began + self._watched - time.monotonic()))
                first = self._found.after
                self._restarts_at_first = first.restarts if first else None
                self._rounds(trial, "after", seconds[Phase.VERIFY], self._wanted)

    def _reboot_or_not(self, trial: Trial) -> bool:
        """False where there is nothing more to look at."""
        if not self._reboot:
            return self._goes_on
        reboot = trial.reboot(self._cut(self._plan.seconds[Phase.REBOOT], "reboot of the control"))
        self._learn(reboot=reboot)
        if reboot.happened:
            start = self._cut(self._plan.seconds[Phase.VERIFY], "start of the control")
            trial.guest.wait_until_up(start)
        return reboot.happened

    def _rounds(
        self, trial: Trial, moment: Moment, seconds: float, enough: threading.Event
    ) -> None:
        """Observe and check, once for sure; then again until the recipe needs the result."""
        sessions: list[CheckSession] = []
        aside: Aside | None = None
        for _try in range(_TRIES):
            if len(sessions) == ROUNDS or (sessions and enough.is_set()):
                break
            deadline = self._cut(seconds, f"checks of the control {moment} the upgrade")
            try:
                now = trial.observe(deadline)
                if trial.start != now.boot_id:
                    self._learn(restarted=True)
                    trial.start = now.boot_id
                if not sessions:
                    self._learn(**{moment: now})
                    aside = Aside(trial.guest, deadline)
                baseline = self._found.before if moment == "after" else None
                at = Checkpoint(moment, now, baseline, self._restarts_at_first)
                session = trial.check(at, deadline, f"checks-{moment}-{len(sessions) + 1}")
            except ConnectionLost:
                session = CheckSession(results=(), end=CheckEnd.CONNECTION_LOST)
            if session.end is CheckEnd.CONNECTION_LOST:
                trial.guest.enter(deadline)  # the way there broke: it says nothing of the guest
                continue
            sessions.append(session)
            self._learn(**{f"checks_{moment}": tuple(sessions)})
            if session.end is not CheckEnd.COMPLETE:
                break
        seen = self._found.before if moment == "before" else self._found.after
        if aside is not None and seen is not None:
            self._learn(**{moment: aside.added_to(seen)})

    def _cut(self, seconds: float, what: str) -> Cut:
        return Cut(seconds, what, self._stop)

    def _wait(self, event: threading.Event, seconds: float) -> None:
        if not event.wait(seconds):
            raise DeadlineExceeded("waiting for the upgrade", seconds)

    def _learn(self, **facts: object) -> None:
        self._found = self._found.model_copy(update=facts)


def make_control_trial(
    plan: Plan, hypervisor: Hypervisor, clone: Clone, folder: RunFolder, deadline: Deadline
) -> ControlTrial:
    """The control of a clone that has just been started.

    Raises :class:`HostError` where one is insisted on and the host has no memory for it, or fails.
    """
    order = plan.order
    if not order.control:
        return ControlTrial(plan, hypervisor, folder, None)
    if not clone.controls:
        why = f"{clone.facts.method}: production would pay for a second copy"
        if plan.control == "always":
            raise NoRoom(f"there cannot be a control: {why}", "state control: auto, or never")
        return ControlTrial(plan, hypervisor, folder, None, why)
    try:
        entrance = create_control(hypervisor, order, folder, clone, deadline)
    except HostError as problem:
        if plan.control == "always":
            raise
        with contextlib.suppress(SandboxError):  # the run's own clean-up tries it again
            remove_control(hypervisor, folder)
        return ControlTrial(plan, hypervisor, folder, None, problem.message)

    def enter(_deadline: Deadline) -> Guest:
        return Guest(hypervisor, entrance, order.login, control_place(folder), folder.register)

    return ControlTrial(plan, hypervisor, folder, enter)
