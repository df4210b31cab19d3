"""The steps of the recipe that happen inside the clone, and when they are worth taking."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from sandbox.checks.compare import ignored, lost_units, started_again
from sandbox.checks.runner import ignore_result, run_checks, share_of_checks
from sandbox.clone.guest import Guest
from sandbox.clone.ssh import HOST
from sandbox.core.deadline import Deadline
from sandbox.core.errors import ConnectionLost, DeadlineExceeded, GuestRestarted, GuestUnreachable
from sandbox.core.records import (
    Autopsy,
    CheckEnd,
    CheckResult,
    CheckSession,
    Facts,
    Observation,
    Outcome,
    Phase,
    UpgradeLog,
    UpgradeStatus,
    Watch,
)
from sandbox.managers import choose
from sandbox.network.proxy.package_proxy import PackageProxy
from sandbox.observe.diagnosis import examine
from sandbox.observe.observation import is_reboot_due, observe, observe_units
from sandbox.observe.wide import Aside
from sandbox.rehearsal.plan import Plan
from sandbox.rehearsal.run import Run
from sandbox.verdict.causes import suspects
from sandbox.verdict.flakiness import broken, known_start

T = TypeVar("T")
UPGRADE_LOG = "upgrade.log"
STOPPING = "stopping"  # systemd's word for a system that shuts down
_SETTLE = 5.0  # seconds that one waits then: what comes up late was waited for already
_BACK = 180.0  # seconds for the way to a guest to be there again
_PAUSE = 1.0  # seconds between two tries to get into one that shuts down
_LOOK = 60.0  # seconds for a look and all checks, at least
_GLANCE = 10.0  # seconds from one glance at a watched guest to the next


def learn_wide(run: Run, aside: Aside) -> None:
    """Add what was looked at meanwhile to the last observation."""
    if run.facts.after is not None:
        run.learn(after=aside.added_to(run.facts.after))
    elif run.facts.before is not None:
        run.learn(before=aside.added_to(run.facts.before))


def check(plan: Plan, run: Run, guest: Guest, deadline: Deadline) -> CheckSession:
    """Run the scenario's checks; before the upgrade, or after it when that was observed."""
    phase = "after" if run.facts.after is not None else "before"
    watched = run.facts.watched
    log, when = f"checks-{phase}", f"{phase} the upgrade"
    if watched:
        log, when = f"{log}-watch", f"{when}, once it was watched"
    if phase == "after":
        deadline = deadline.within(share_of_checks(deadline.remaining()))
    session = checked(plan, run, guest, deadline, log)
    seen = run.facts.after or run.facts.before
    if session.end is CheckEnd.CONNECTION_LOST and seen is not None:
        require_the_same_start(guest, seen.boot_id, f"while it was checked {when}", deadline)
    run.add_artifact(f"{log}.log", f"output of the checks {when}")
    passed = sum(result.outcome is Outcome.PASSED for result in session.results)
    note = f"{passed} of {len(session.results)} checks hold"
    run.note(f"{note}, watched for {watched.seconds:.0f} s" if watched else note)
    return session


def require_the_same_start(guest: Guest, boot_id: str, when: str, deadline: Deadline) -> None:
    """The connection broke: raises :class:`GuestRestarted` where that was since the guest
    restarted."""
    if not is_back(guest, boot_id, deadline):
        raise GuestRestarted(when)


@contextlib.contextmanager
def restarts_told(guest: Guest, boot_id: str, when: str, deadline: Deadline) -> Iterator[None]:
    """Where the guest restarts by itself meanwhile, that is :class:`GuestRestarted`, and not the
    connection that broke."""
    try:
        yield
    except GuestRestarted as problem:
        raise GuestRestarted(when, doing=problem.doing) from problem
    except ConnectionLost:
        require_the_same_start(guest, boot_id, when, deadline)
        raise


def worth_watching(plan: Plan, facts: Facts) -> bool:
    """Whether time can still bring something out: what broke at once is known already."""
    watched = facts.watched or Watch(seconds=0.0)
    return (
        watched.seconds < plan.watch
        and not watched.restarted
        and facts.upgrade is not None
        and facts.upgrade.status is UpgradeStatus.APPLIED
        and facts.checks_after is not None
        and facts.checks_after.end is CheckEnd.COMPLETE
        and not broken(facts)
    )


def watch(plan: Plan, run: Run, guest: Guest, deadline: Deadline) -> Watch:
    """Wait for what dies a while after its start, with a glance now and then: until a unit that
    ran before the upgrade has ended, or was started again. That it may do once: where no check
    minds, the rest of the time is waited for."""
    first, before, so_far = run.facts.after, run.facts.before, run.facts.watched
    assert first is not None, "only what was looked at is watched"
    watched = so_far or Watch(seconds=0.0, restarts=first.restarts)
    ignore = plan.check_settings.ignore_units
    began = time.monotonic() - watched.seconds
    while (passed := time.monotonic() - began) < plan.watch:
        left = plan.watch - passed
        run.progress.detail(
            f"watching for what dies late: {left:.0f} s to go", 100 * passed / plan.watch
        )
        deadline.sleep(min(_GLANCE, left))
        now = _glance(guest, first, deadline)
        if now is None:
            watched = watched.model_copy(update={"restarted": True})
            break
        ended = lost_units(first.units, now.units, ignore)
        if before is not None:
            ended = [one for one in ended if before.units.get(one.unit, "").startswith("active/")]
        if so_far is None and (ended or started_again(first, now, ignore)):
            break
    return watched.model_copy(update={"seconds": round(time.monotonic() - began, 1)})


def _glance(guest: Guest, first: Observation, deadline: Deadline) -> Observation | None:
    """None: it is another start than the one that is watched."""
    with contextlib.suppress(ConnectionLost):
        now = observe_units(guest, deadline)
        if now.boot_id != first.boot_id:
            return None
        if now.state != STOPPING:
            return now
    return first if is_back(guest, first.boot_id, deadline) else None


def is_back(guest: Guest, boot_id: str, deadline: Deadline) -> bool:
    """The connection broke: whether it was only that, and not the guest that restarted. One that
    still shuts down is waited for. Raises :class:`GuestUnreachable` when it does not come back."""
    deadline = deadline.within(_BACK)
    while guest.enter(deadline) == boot_id:
        with contextlib.suppress(ConnectionLost):
            if observe_units(guest, deadline).state != STOPPING:
                return True
        deadline.sleep(_PAUSE)
    return False


def look_again(run: Run, guest: Guest, deadline: Deadline) -> Observation:
    """At a guest that was watched; one that restarted meanwhile is let come up first."""
    watched, first = run.facts.watched, run.facts.after
    assert watched is not None, "it was watched"
    assert first is not None, "what is watched was looked at"
    if not watched.restarted:
        with contextlib.suppress(ConnectionLost):
            return observe(guest, deadline)
        if is_back(guest, first.boot_id, deadline):
            return observe(guest, deadline)
        run.learn(watched=watched.model_copy(update={"restarted": True}))
    guest.wait_until_up(deadline)
    return observe(guest, deadline)


def checked(
    plan: Plan,
    run: Run,
    guest: Guest,
    deadline: Deadline,
    log: str,
    only: tuple[str, ...] = (),
) -> CheckSession:
    """Run the scenario's checks; ``only`` those of these names, quietly, on a new observation."""
    facts, settings = run.facts, plan.check_settings
    on_result: Callable[[CheckResult], None] = run.progress.check
    current = facts.after or facts.before
    if current is None:
        raise ConnectionLost("the checks have nothing to go by: the guest was not observed")
    if only:
        current = observe(guest, deadline)
        if facts.second_start is None:  # after a start things come up late once more
            settings = settings.model_copy(update={"settle_seconds": _SETTLE})
        on_result = ignore_result  # people count each check once
    if facts.watched:
        settings = settings.model_copy(update={"restarts_at_first": facts.watched.restarts})
        on_result = ignore_result
    return run_checks(
        files=plan.own_checks,
        shared=plan.shared_checks,
        ssh_config=guest.connection.config,
        host=HOST,
        phase="after" if facts.after else "before",
        baseline=facts.before if facts.after else None,
        current=current,
        settings=settings,
        work_dir=run.folder.artifacts,
        deadline=deadline,
        on_result=on_result,
        only=only,
        log=log,
    )


def find_out(plan: Plan, run: Run, guest: Guest, deadline: Deadline) -> Autopsy | None:
    """Why units that ran before do not run any more, or not for long; None where all run, and
    where the guest does not answer: it explains a verdict, and is no part of it."""
    now = run.facts.after
    wanted = units_to_explain(plan, run.facts, now) if now else ()
    with contextlib.suppress(ConnectionLost, DeadlineExceeded):
        return examine(guest, wanted, deadline) if wanted else None
    return None


def units_to_explain(plan: Plan, facts: Facts, now: Observation) -> tuple[str, ...]:
    """Those that ran before and do not now, or do not stay up; not those of which it is so on the
    control, too, and none that the scenario ignores."""
    before, there, ignore = facts.before, facts.control, plan.check_settings.ignore_units
    if before is None:
        return ()
    stopped = suspects(before, now, there.after if there else None)
    again = started_again(before, now, ignore)
    if there and there.before and there.after:
        alike = started_again(there.before, there.after, ignore)
        again = {unit: times for unit, times in again.items() if unit not in alike}
    return tuple(u for u in dict.fromkeys((*stopped, *again)) if not ignored(u, ignore))


def worth_upgrading(facts: Facts) -> bool:
    """Whether an upgrade could still lead to a verdict: some check held, and all were run."""
    session = facts.checks_before
    return (
        session is not None
        and session.end is CheckEnd.COMPLETE
        and any(result.outcome is Outcome.PASSED for result in session.results)
    )


def upgrade(
    plan: Plan, run: Run, guest: Guest, proxy: PackageProxy, aside: Aside, deadline: Deadline
) -> UpgradeLog:
    """Find out what would change, then change it; the package manager's words are kept.

    ``aside`` still looks at the guest as it was: until then nothing is changed.
    """
    guest.connection.forward(proxy.socket, deadline)

    def progress(percent: float | None, text: str) -> None:
        run.progress.detail(text, percent)

    with (run.folder.artifacts / UPGRADE_LOG).open("w", buffering=1) as transcript:
        run.add_artifact(UPGRADE_LOG, "what the package manager said")

        def keep_line(line: str) -> None:
            transcript.write(line + "\n")

        upgrader = choose(guest, plan.upgrade, deadline)
        proxy.allow(upgrader.sources(guest, plan.upgrade, deadline))
        progress(None, "reading the package lists")
        simulation = upgrader.simulate(guest, plan.upgrade, deadline, progress, keep_line)
        count = len(simulation.changes)
        run.note(f"{count} package{'' if count == 1 else 's'}")
        learn_wide(run, aside)
        run.changing = True
        with restarts_told(guest, known_start(run.facts), "while it was upgraded", deadline):
            log = upgrader.apply(guest, plan.upgrade, simulation, deadline, progress, keep_line)
        refusals = proxy.statistics.refusals
        for refusal in refusals:
            transcript.write(f"package proxy refused: {refusal}\n")
    if log.status is UpgradeStatus.NOTHING:
        run.note("nothing to upgrade")
    return log


def must_reboot(plan: Plan, run: Run, guest: Guest, deadline: Deadline) -> bool:
    """By the scenario's policy; where it says "if needed", the guest itself is asked."""
    log = run.facts.upgrade
    if log is None or log.status is not UpgradeStatus.APPLIED or plan.reboot == "never":
        return False

    def ask() -> bool:
        if plan.reboot == "always":
            guest.run(":", deadline)  # a reboot of its own would pass for ours
            return True
        return is_reboot_due(guest, deadline)

    return asked(guest, known_start(run.facts), "once it was upgraded", deadline, ask)


def first_look(run: Run, guest: Guest, deadline: Deadline) -> Observation:
    """At the clone after its upgrade, once it is up; a start that never ends leaves the time to
    look and to check. Raises :class:`GuestUnreachable` when the guest answers no more."""
    before = sum(done.seconds for done in run.record.phases if done.phase is Phase.BASELINE)
    left = deadline.remaining()
    patience = left - min(left / 2, max(_LOOK, 3 * before))

    def look() -> Observation:
        guest.wait_until_up(deadline.within(patience))
        return observe(guest, deadline)

    try:
        return asked(guest, known_start(run.facts), "soon after its upgrade", deadline, look)
    except DeadlineExceeded as late:
        raise GuestUnreachable(
            f"the guest lets us in after its upgrade, and does not answer: {late.message}",
            "see its console and screen",
        ) from late


def asked(guest: Guest, boot_id: str, when: str, deadline: Deadline, ask: Callable[[], T]) -> T:
    """Asked once more where the connection broke. Raises :class:`GuestRestarted` where that was
    since the guest restarted by itself, and :class:`ConnectionLost` where it breaks again."""
    try:
        return ask()
    except ConnectionLost:
        require_the_same_start(guest, boot_id, when, deadline)
        return ask()


def upgraded(facts: Facts) -> bool:
    """Whether the clone goes on from here: the control then does, too."""
    log = facts.upgrade
    return log is not None and log.status in (UpgradeStatus.APPLIED, UpgradeStatus.FAILED)


def may_verify(facts: Facts) -> bool:
    """Whether there is a guest to look at whose upgrade has changed something."""
    return upgraded(facts) and (facts.reboot is None or facts.reboot.happened)
