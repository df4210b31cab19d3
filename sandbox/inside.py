"""The steps of the recipe that happen inside the clone, and when they are worth taking."""

from __future__ import annotations

from sandbox.deadline import Deadline
from sandbox.errors import ConnectionLost
from sandbox.guest import Guest
from sandbox.observe import is_reboot_due
from sandbox.plan import Plan
from sandbox.proxy import PackageProxy
from sandbox.records import (
    CheckEnd,
    CheckSession,
    Facts,
    Outcome,
    UpgradeLog,
    UpgradeStatus,
)
from sandbox.run import Run
from sandbox.ssh import HOST
from sandbox.upgraders import choose
from sandbox.verify import run_checks

UPGRADE_LOG = "upgrade.log"


def check(plan: Plan, run: Run, guest: Guest, deadline: Deadline) -> CheckSession:
    """Run the scenario's checks; before the upgrade, or after it when that was observed."""
    after = run.facts.after is not None
    current = run.facts.after or run.facts.before
    if current is None:
        raise ConnectionLost("the checks have nothing to go by: the guest was not observed")
    phase = "after" if after else "before"
    session = run_checks(
        files=plan.own_checks,
        shared=plan.shared_checks,
        ssh_config=guest.connection.config,
        host=HOST,
        phase="after" if after else "before",
        baseline=run.facts.before if after else None,
        current=current,
        settings=plan.check_settings,
        work_dir=run.folder.artifacts,
        deadline=deadline,
        on_result=run.progress.check,
    )
    run.add_artifact(f"checks-{phase}.log", f"output of the checks {phase} the upgrade")
    passed = sum(result.outcome is Outcome.PASSED for result in session.results)
    run.note(f"{passed} of {len(session.results)} checks hold")
    return session


def worth_upgrading(facts: Facts) -> bool:
    """Whether an upgrade could still lead to a verdict: some check held, and all were run."""
    session = facts.checks_before
    return (
        session is not None
        and session.end is CheckEnd.COMPLETE
        and any(result.outcome is Outcome.PASSED for result in session.results)
    )


def upgrade(
    plan: Plan, run: Run, guest: Guest, proxy: PackageProxy, deadline: Deadline
) -> UpgradeLog:
    """Find out what would change, then change it; the package manager's words are kept."""
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


def may_verify(facts: Facts) -> bool:
    """Whether there is a guest to look at whose upgrade has changed something."""
    log = facts.upgrade
    changed = log is not None and log.status in (UpgradeStatus.APPLIED, UpgradeStatus.FAILED)
    return changed and (facts.reboot is None or facts.reboot.happened)
