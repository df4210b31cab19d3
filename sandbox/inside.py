"""The steps of the recipe that happen inside the clone, and when they are worth taking."""

from __future__ import annotations

from collections.abc import Callable

from sandbox.autopsy import examine
from sandbox.deadline import Deadline
from sandbox.errors import ConnectionLost
from sandbox.guest import Guest
from sandbox.observe import is_reboot_due, observe
from sandbox.plan import Plan
from sandbox.proxy import PackageProxy
from sandbox.reasons import suspects
from sandbox.records import (
    Autopsy,
    CheckEnd,
    CheckResult,
    CheckSession,
    Facts,
    Outcome,
    UpgradeLog,
    UpgradeStatus,
)
from sandbox.run import Run
from sandbox.ssh import HOST
from sandbox.trust import broken, still_broken
from sandbox.upgraders import choose
from sandbox.verify import ignore_result, run_checks
from sandbox.wide import Aside

UPGRADE_LOG = "upgrade.log"


AGAIN = 2  # how often a check that broke is asked again
_SETTLE = 5.0  # seconds that one waits then: what comes up late was waited for already


def learn_wide(run: Run, aside: Aside) -> None:
    """Add what was looked at meanwhile to the last observation."""
    if run.facts.after is not None:
        run.learn(after=aside.added_to(run.facts.after))
    elif run.facts.before is not None:
        run.learn(before=aside.added_to(run.facts.before))


def check(plan: Plan, run: Run, guest: Guest, deadline: Deadline) -> CheckSession:
    """Run the scenario's checks; before the upgrade, or after it when that was observed."""
    phase = "after" if run.facts.after is not None else "before"
    session = _checked(plan, run, guest, deadline, f"checks-{phase}")
    run.add_artifact(f"checks-{phase}.log", f"output of the checks {phase} the upgrade")
    passed = sum(result.outcome is Outcome.PASSED for result in session.results)
    run.note(f"{passed} of {len(session.results)} checks hold")
    return session


def confirm(plan: Plan, run: Run, guest: Guest, deadline: Deadline) -> tuple[CheckSession, ...]:
    """Ask the checks that broke again: one that holds then is no proof of harm."""
    names = broken(run.facts)
    sessions: list[CheckSession] = []
    while names and len(sessions) < AGAIN:
        log = f"checks-again-{len(sessions) + 1}"
        run.progress.detail("asking the checks that broke once more")
        session = _checked(plan, run, guest, deadline, log, only=names)
        run.add_artifact(f"{log}.log", "output of the checks that broke, asked again")
        sessions.append(session)
        names = still_broken(names, session)
    return tuple(sessions)


def _checked(
    plan: Plan,
    run: Run,
    guest: Guest,
    deadline: Deadline,
    log: str,
    only: tuple[str, ...] = (),
) -> CheckSession:
    facts, settings = run.facts, plan.check_settings
    on_result: Callable[[CheckResult], None] = run.progress.check
    current = facts.after or facts.before
    if current is None:
        raise ConnectionLost("the checks have nothing to go by: the guest was not observed")
    if only:
        current = observe(guest, deadline)
        settings = settings.model_copy(update={"settle_seconds": _SETTLE})
        on_result = ignore_result  # people count each check once
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


def find_out(run: Run, guest: Guest, deadline: Deadline) -> Autopsy | None:
    """Why units that ran before do not run any more; None where all run."""
    facts = run.facts
    if facts.before is None or facts.after is None:
        return None
    units = suspects(facts.before, facts.after, facts.control.after if facts.control else None)
    return examine(guest, units, deadline) if units else None


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
    if plan.reboot == "always":
        return True
    return is_reboot_due(guest, deadline)


def upgraded(facts: Facts) -> bool:
    """Whether the clone goes on from here: its twin then does, too."""
    log = facts.upgrade
    return log is not None and log.status in (UpgradeStatus.APPLIED, UpgradeStatus.FAILED)


def may_verify(facts: Facts) -> bool:
    """Whether there is a guest to look at whose upgrade has changed something."""
    return upgraded(facts) and (facts.reboot is None or facts.reboot.happened)
