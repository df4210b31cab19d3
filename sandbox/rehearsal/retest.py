"""A check that broke is asked again before it counts; what broke in a much slower start is asked
after another start, too."""

from __future__ import annotations

from sandbox.checks.compare import slower_start
from sandbox.clone.guest import Guest
from sandbox.core.deadline import Deadline
from sandbox.core.errors import ConnectionLost, DeadlineExceeded, GuestUnreachable
from sandbox.core.records import CheckEnd, CheckSession, Facts, Observation, SecondStart
from sandbox.observe.observation import observe
from sandbox.rehearsal.plan import Plan
from sandbox.rehearsal.run import Run
from sandbox.rehearsal.steps import checked, require_the_same_start, units_to_explain
from sandbox.verdict.flakiness import broken, excuse, not_held

AGAIN = 2  # how often a check that broke is asked again


def confirm(plan: Plan, run: Run, guest: Guest, deadline: Deadline) -> tuple[CheckSession, ...]:
    """Ask the checks that broke again: one that holds then is no proof of harm.

    Not where one hung: it would hang again, for as long as it may.
    """
    names, after, seen = broken(run.facts), run.facts.checks_after, run.facts.after
    sessions: list[CheckSession] = []
    if after is None or seen is None or after.end is CheckEnd.TIMEOUT:
        return ()
    while names and len(sessions) < AGAIN:
        run.progress.detail("asking the checks that broke once more")
        log = f"checks-again-{len(sessions) + 1}"
        sessions.append(_asked_again(plan, run, guest, seen, deadline, log, names))
        names = not_held(names, sessions[-1])
    return tuple(sessions)


def _asked_again(
    plan: Plan,
    run: Run,
    guest: Guest,
    seen: Observation,
    deadline: Deadline,
    log: str,
    names: tuple[str, ...],
) -> CheckSession:
    """In the start that was ``seen``. One that could not be asked has no results, and says why."""
    for _attempt in range(2):
        try:
            session = checked(plan, run, guest, deadline, log, only=names)
            run.add_artifact(f"{log}.log", "output of the checks that broke, asked again")
        except ConnectionLost as lost:
            session = CheckSession(results=(), end=CheckEnd.CONNECTION_LOST, message=lost.message)
        except DeadlineExceeded as late:
            return CheckSession(results=(), end=CheckEnd.TIMEOUT, message=late.message)
        if session.end is not CheckEnd.CONNECTION_LOST:
            break
        when = "while it was checked after the upgrade"
        require_the_same_start(guest, seen.boot_id, when, deadline)
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


def start_again(run: Run, guest: Guest, deadline: Deadline) -> None:
    """Reboot once more; raises :class:`GuestUnreachable` when the guest does not come back."""
    run.progress.detail("its start was slow: starting it once more")
    again = guest.reboot(deadline)
    if not again.happened:
        raise GuestUnreachable(
            f"the guest did not come back from its second start after the upgrade: {again.message}",
            "its first one took much longer than the one before; see its console for the reason",
        )


def confirm_start(plan: Plan, run: Run, guest: Guest, deadline: Deadline) -> None:
    """Ask what broke in a slow start after another one, and forget what runs since."""
    slow, so_far = run.facts.after, run.facts.checks_again
    assert slow is not None, "only a start that was looked at is known to be slow"
    now = observe(guest, deadline)
    run.learn(
        second_start=SecondStart(
            first=slow.boot_seconds or slow.uptime, second=now.boot_seconds or now.uptime
        )
    )
    names = broken(run.facts)
    log = f"checks-again-{len(so_far) + 1}"
    session = _asked_again(plan, run, guest, now, deadline, log, names)
    still = not_held(names, session)
    run.note(f"{len(names) - len(still)} of {len(names)} checks that broke hold now")
    run.learn(checks_again=(*so_far, session))
    if autopsy := run.facts.autopsy:
        down = units_to_explain(plan, run.facts, now)
        kept = tuple(trace for trace in autopsy.units if trace.unit in down)
        run.learn(autopsy=autopsy.model_copy(update={"units": kept}))
