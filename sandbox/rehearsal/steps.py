"""The steps of the recipe that are taken in the candidate, and when they are worth taking."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from sandbox.checks.compare import ignored, lost_units, started_again
from sandbox.checks.runner import ignore_result, share_of_checks
from sandbox.core.deadline import Deadline
from sandbox.core.errors import ConnectionLost, DeadlineExceeded, GuestUnreachable
from sandbox.core.records import (
    Autopsy,
    CheckEnd,
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
from sandbox.observe.observation import is_reboot_due, observe_units
from sandbox.rehearsal.plan import Plan
from sandbox.rehearsal.run import Run
from sandbox.rehearsal.trial import STOPPING, Checkpoint, Trial
from sandbox.verdict.causes import suspects
from sandbox.verdict.flakiness import broken

UPGRADE_LOG = "upgrade.log"
_LOOK = 60.0  # seconds for an observation and all checks, at least
_GLANCE = 10.0  # seconds from one glance at a watched guest to the next


def check(run: Run, trial: Trial, at: Checkpoint, deadline: Deadline) -> CheckSession:
    """Run the scenario's checks at a checkpoint, and keep their output."""
    watched = at.restarts_at_first is not None
    log, when = f"checks-{at.moment}", f"{at.moment} the upgrade"
    if watched:
        log, when = f"{log}-watch", f"{when}, once it was watched"
    if at.moment == "after":
        deadline = deadline.within(share_of_checks(deadline.remaining()))
    on_result = ignore_result if watched else run.progress.check  # people count each check once
    session = trial.check(at, deadline, log, on_result=on_result)
    if session.end is CheckEnd.CONNECTION_LOST:
        trial.require_start(at.current.boot_id, f"while it was checked {when}", deadline)
    run.add_artifact(f"{log}.log", f"output of the checks {when}")
    passed = sum(result.outcome is Outcome.PASSED for result in session.results)
    seconds = f", watched for {run.facts.watched.seconds:.0f} s" if run.facts.watched else ""
    run.note(f"{passed} of {len(session.results)} checks hold{seconds}")
    return session


def worth_upgrading(session: CheckSession) -> bool:
    """Whether an upgrade could still lead to a verdict: some check held, and all were run."""
    return session.end is CheckEnd.COMPLETE and any(
        result.outcome is Outcome.PASSED for result in session.results
    )


def upgrade(
    run: Run,
    trial: Trial,
    proxy: PackageProxy,
    deadline: Deadline,
    unchanged: Callable[[], None],
) -> UpgradeLog:
    """Find out what would change, then change it; the package manager's words are kept.

    ``unchanged`` is called last before anything is changed.
    """
    guest, request = trial.guest, trial.plan.upgrade
    guest.connection.forward(proxy.socket, deadline)

    def progress(percent: float | None, text: str) -> None:
        run.progress.detail(text, percent)

    with (run.folder.artifacts / UPGRADE_LOG).open("w", buffering=1) as transcript:
        run.add_artifact(UPGRADE_LOG, "what the package manager said")

        def keep_line(line: str) -> None:
            transcript.write(line + "\n")

        upgrader = choose(guest, request, deadline)
        proxy.allow(upgrader.sources(guest, request, deadline))
        progress(None, "reading the package lists")
        simulation = upgrader.simulate(guest, request, deadline, progress, keep_line)
        count = len(simulation.changes)
        run.note(f"{count} package{'' if count == 1 else 's'}")
        unchanged()
        run.changing = True
        with trial.restarts_told("while it was upgraded", deadline):
            log = upgrader.apply(guest, request, simulation, deadline, progress, keep_line)
        for refusal in proxy.statistics.refusals:
            transcript.write(f"package proxy refused: {refusal}\n")
    if log.status is UpgradeStatus.NOTHING:
        run.note("nothing to upgrade")
    return log


def must_reboot(trial: Trial, log: UpgradeLog, deadline: Deadline) -> bool:
    """By the scenario's policy; where it says "if needed", the guest itself is asked."""
    policy = trial.plan.reboot
    if log.status is not UpgradeStatus.APPLIED or policy == "never":
        return False

    def ask() -> bool:
        if policy == "always":
            trial.guest.run(":", deadline)  # a reboot of its own would pass for ours
            return True
        return is_reboot_due(trial.guest, deadline)

    return trial.asked("once it was upgraded", deadline, ask)


def upgraded(log: UpgradeLog) -> bool:
    """Whether an upgrade has changed something: then candidate and control go on from here."""
    return log.status in (UpgradeStatus.APPLIED, UpgradeStatus.FAILED)


def first_observation(run: Run, trial: Trial, deadline: Deadline) -> Observation:
    """Of the candidate after its upgrade, once it is up; a start that never ends leaves the time to
    observe and to check. Raises :class:`GuestUnreachable` when the guest answers no more."""
    before = sum(done.seconds for done in run.record.phases if done.phase is Phase.BASELINE)
    left = deadline.remaining()
    patience = left - min(left / 2, max(_LOOK, 3 * before))

    def ask() -> Observation:
        trial.guest.wait_until_up(deadline.within(patience))
        return trial.observe(deadline)

    try:
        return trial.asked("soon after its upgrade", deadline, ask)
    except DeadlineExceeded as late:
        raise GuestUnreachable(
            f"the guest lets us in after its upgrade, and does not answer: {late.message}",
            "see its console and screen",
        ) from late


# -- the watch ------------------------------------------------------------------------------------


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


def watch(
    run: Run,
    trial: Trial,
    before: Observation | None,
    first: Observation,
    so_far: Watch | None,
    deadline: Deadline,
) -> Watch:
    """Wait for what dies a while after its start, with a glance now and then: until a unit that
    ran ``before`` the upgrade has ended, or was started again since ``first``. That it may do once:
    where no check minds, the rest of the time is waited for."""
    watched = so_far or Watch(seconds=0.0, restarts=first.restarts)
    ignore, wanted = trial.plan.check_settings.ignore_units, trial.plan.watch
    began = time.monotonic() - watched.seconds
    while (passed := time.monotonic() - began) < wanted:
        left = wanted - passed
        run.progress.detail(
            f"watching for what dies late: {left:.0f} s to go", 100 * passed / wanted
        )
        deadline.sleep(min(_GLANCE, left))
        now = _glance(trial, first, deadline)
        if now is None:
            watched = watched.model_copy(update={"restarted": True})
            break
        ended = lost_units(first.units, now.units, ignore)
        if before is not None:
            ended = [one for one in ended if before.units.get(one.unit, "").startswith("active/")]
        if so_far is None and (ended or started_again(first, now, ignore)):
            break
    return watched.model_copy(update={"seconds": round(time.monotonic() - began, 1)})


def _glance(trial: Trial, first: Observation, deadline: Deadline) -> Observation | None:
    """None: it is another start than the one that is watched."""
    with contextlib.suppress(ConnectionLost):
        now = observe_units(trial.guest, deadline)
        if now.boot_id != first.boot_id:
            return None
        if now.state != STOPPING:
            return now
    return first if trial.is_back(first.boot_id, deadline) else None


def observe_again(
    trial: Trial, first: Observation, watched: Watch, deadline: Deadline
) -> tuple[Observation, Watch]:
    """A guest that was watched; one that restarted meanwhile is let come up first, and the watch
    says so."""
    if not watched.restarted:
        with contextlib.suppress(ConnectionLost):
            return trial.observe(deadline), watched
        if trial.is_back(first.boot_id, deadline):
            return trial.observe(deadline), watched
        watched = watched.model_copy(update={"restarted": True})
    trial.guest.wait_until_up(deadline)
    return trial.observe(deadline), watched


# -- why ------------------------------------------------------------------------------------------


def find_out(trial: Trial, facts: Facts, deadline: Deadline) -> Autopsy | None:
    """Why units that ran before do not run any more, or not for long; None where all run, and
    where the guest does not answer: it explains a verdict, and is no part of it."""
    wanted = units_to_explain(trial, facts, facts.after) if facts.after else ()
    with contextlib.suppress(ConnectionLost, DeadlineExceeded):
        return examine(trial.guest, wanted, deadline) if wanted else None
    return None


def units_to_explain(trial: Trial, facts: Facts, now: Observation) -> tuple[str, ...]:
    """Those that ran before and do not now, or do not stay up; not those of which it is so on the
    control, too, and none that the scenario ignores."""
    before, there = facts.before, facts.control
    ignore = trial.plan.check_settings.ignore_units
    if before is None:
        return ()
    stopped = suspects(before, now, there.after if there else None)
    again = started_again(before, now, ignore)
    if there and there.before and there.after:
        alike = started_again(there.before, there.after, ignore)
        again = {unit: times for unit, times in again.items() if unit not in alike}
    return tuple(u for u in dict.fromkeys((*stopped, *again)) if not ignored(u, ignore))
