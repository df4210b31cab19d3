"""A check that broke is asked again before it counts; what broke in a much slower start is asked
after another start, too."""

from __future__ import annotations

from sandbox.checks.compare import slower_start
from sandbox.core.deadline import Deadline
from sandbox.core.errors import ConnectionLost, DeadlineExceeded, GuestUnreachable
from sandbox.core.records import CheckEnd, CheckSession, Facts, SecondStart
from sandbox.rehearsal.run import Run
from sandbox.rehearsal.steps import units_to_explain
from sandbox.rehearsal.trial import SETTLE, Checkpoint, Trial
from sandbox.verdict.flakiness import broken, excuse, not_held

AGAIN = 2  # how often a check that broke is asked again


def confirm(run: Run, trial: Trial, deadline: Deadline) -> tuple[CheckSession, ...]:
    """Ask the checks that broke again: one that holds then is no proof of harm.

    Not where one hung: it would hang again, for as long as it may.
    """
    facts, sessions = run.facts, list[CheckSession]()
    names, session, seen = broken(facts), facts.checks_after, facts.after
    if session is None or seen is None or session.end is CheckEnd.TIMEOUT:
        return ()
    while names and len(sessions) < AGAIN:
        run.progress.detail("asking the checks that broke once more")
        log = f"checks-again-{len(sessions) + 1}"
        sessions.append(_asked_again(run, trial, seen.boot_id, deadline, log, names, SETTLE))
        names = not_held(names, sessions[-1])
    return tuple(sessions)


def _asked_again(
    run: Run,
    trial: Trial,
    boot_id: str,
    deadline: Deadline,
    log: str,
    names: tuple[str, ...],
    settle: float | None,
) -> CheckSession:
    """In the start of that ``boot_id``. A session that was impossible has no results, and says
    why."""
    watched = run.facts.watched
    for _attempt in range(2):
        try:
            at = Checkpoint(
                "after",
                trial.observe(deadline),
                run.facts.before,
                watched.restarts if watched else None,
            )
            session = trial.check(at, deadline, log, only=names, settle=settle)
            run.add_artifact(f"{log}.log", "output of the checks that broke, asked again")
        except ConnectionLost as lost:
            session = CheckSession(results=(), end=CheckEnd.CONNECTION_LOST, message=lost.message)
        except DeadlineExceeded as late:
            return CheckSession(results=(), end=CheckEnd.TIMEOUT, message=late.message)
        if session.end is not CheckEnd.CONNECTION_LOST:
            break
        trial.require_start(boot_id, "while it was checked after the upgrade", deadline)
    return session


def worth_another_start(facts: Facts) -> bool:
    """Whether it may have been the host that made a start slow, and units miss their time in it.

    It was not when the control, which started beside the clone, was quick.
    """
    before, after, there = facts.before, facts.after, facts.control
    if before is None or after is None or not (facts.reboot and facts.reboot.happened):
        return False
    control_was_quick = (
        there is not None
        and there.before is not None
        and there.after is not None
        and not slower_start(there.before, there.after)
    )
    return (
        not control_was_quick
        and facts.watched is None  # what dies late lives again after a start
        and bool(slower_start(before, after))
        and any(not excuse(facts, name) for name in broken(facts))
    )


def start_again(run: Run, trial: Trial, deadline: Deadline) -> None:
    """Reboot once more; raises :class:`GuestUnreachable` when the guest does not come back."""
    run.progress.detail("its start was slow: starting it once more")
    again = trial.reboot(deadline)
    if not again.happened:
        raise GuestUnreachable(
            f"the guest did not come back from its second start after the upgrade: {again.message}",
            "its first one took much longer than the one before; see its console for the reason",
        )


def confirm_start(run: Run, trial: Trial, deadline: Deadline) -> None:
    """Ask what broke in a slow start after another one, and forget what runs since."""
    slow, so_far = run.facts.after, run.facts.checks_again
    assert slow is not None, "only a start that was looked at is known to be slow"
    now = trial.observe(deadline)
    run.learn(
        second_start=SecondStart(
            first=slow.boot_seconds or slow.uptime, second=now.boot_seconds or now.uptime
        )
    )
    names = broken(run.facts)
    log = f"checks-again-{len(so_far) + 1}"
    # Things come up late once more: the checks wait as long as after any start.
    session = _asked_again(run, trial, now.boot_id, deadline, log, names, None)
    still = not_held(names, session)
    run.note(f"{len(names) - len(still)} of {len(names)} checks that broke hold now")
    run.learn(checks_again=(*so_far, session))
    if autopsy := run.facts.autopsy:
        down = units_to_explain(trial, run.facts, now)
        kept = tuple(trace for trace in autopsy.units if trace.unit in down)
        run.learn(autopsy=autopsy.model_copy(update={"units": kept}))
