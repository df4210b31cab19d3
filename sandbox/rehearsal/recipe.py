"""The recipe: plan, clone, boot, check, upgrade, reboot, check, decide, report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from types import MappingProxyType

from sandbox.clone.create import CloneLease, create_clone
from sandbox.clone.guest import Guest
from sandbox.clone.space_guard import space_guard
from sandbox.core.deadline import Deadline
from sandbox.core.errors import GuestRestarted, GuestUnreachable, HostError
from sandbox.core.progress import Progress
from sandbox.core.records import Past, Phase, RunRecord
from sandbox.core.settings import Settings
from sandbox.core.store import RunFolder
from sandbox.hosts.capacity import NO_LIMITS, Limits
from sandbox.hosts.drivers import Hypervisor
from sandbox.network.proxy.package_proxy import PackageProxy
from sandbox.observe.wide import Aside
from sandbox.rehearsal import evidence
from sandbox.rehearsal.control import ControlTrial, make_control_trial
from sandbox.rehearsal.plan import CLEANUP_SECONDS, PLAN_SECONDS, Plan, make_plan
from sandbox.rehearsal.retest import confirm, confirm_start, start_again, worth_another_start
from sandbox.rehearsal.run import Run
from sandbox.rehearsal.steps import (
    check,
    find_out,
    first_observation,
    must_reboot,
    observe_again,
    upgrade,
    upgraded,
    watch,
    worth_upgrading,
    worth_watching,
)
from sandbox.rehearsal.trial import Checkpoint, Trial
from sandbox.scenario import Scenario
from sandbox.verdict.flakiness import restarted

NO_PAST: Mapping[str, Past] = MappingProxyType({})
GRACE_SECONDS = 60.0  # that a control may need longer than its clone, and the reason for a red


def rehearse(
    scenario: Scenario,
    hypervisor: Hypervisor,
    folder: RunFolder,
    settings: Settings,
    progress: Progress,
    *,
    accelerated: bool,
    limits: Limits = NO_LIMITS,
    keep: bool = False,
    past: Mapping[str, Past] = NO_PAST,
) -> RunRecord:
    """Rehearse a scenario and give the verdict; a failure of whatever kind becomes one too.

    ``past``: of checks that failed in earlier runs of this guest, how often they held.

    Raises only KeyboardInterrupt, once everything is cleaned up and written down, and
    :class:`~sandbox.core.errors.HostError` when it cannot be written down.
    """
    run = Run(folder, progress, scenario)
    run.learn(past=dict(past))
    lease = CloneLease(hypervisor, folder)
    interrupted: KeyboardInterrupt | None = None
    witness: evidence.Witness | None = None
    with ExitStack() as undo:
        try:
            with run.phase(Phase.PLAN, PLAN_SECONDS) as deadline:
                plan = make_plan(
                    scenario,
                    hypervisor,
                    folder,
                    accelerated,
                    deadline,
                    limits,
                    control=settings.control,
                    watch=settings.watch,
                )
                run.learn(expectations=plan.expectations)
            witness = evidence.Witness(hypervisor, plan.order.source)
            undo.callback(evidence.collect, run, hypervisor)
            _recipe(plan, hypervisor, run, settings, undo)
        except KeyboardInterrupt as signal:
            interrupted = signal
            run.blame(signal)
        except Exception as problem:
            run.blame(problem)
        with run.phase(Phase.CLEANUP, CLEANUP_SECONDS) as deadline:
            interrupted = _take(run, undo.close) or interrupted
            keep = keep and run.has_clone and interrupted is None
            interrupted = _take(run, lambda: lease.end(deadline, keep=keep)) or interrupted
            interrupted = _take(run, lambda: evidence.prove_untouched(run, witness)) or interrupted
    if interrupted is not None:
        run.end(lease)
        raise interrupted
    return run.end(lease)


def _take(run: Run, step: Callable[[], None]) -> KeyboardInterrupt | None:
    """Take a step of the clean-up, so that no step keeps the next from being taken.

    Steps can be repeated: one that was interrupted is taken again, and the interruption returned.
    """
    interrupted: KeyboardInterrupt | None = None
    for _attempt in range(2):
        try:
            step()
            break
        except KeyboardInterrupt as signal:
            interrupted = signal
        except Exception as problem:
            run.blame(problem)
            break
    return interrupted


def _recipe(
    plan: Plan, hypervisor: Hypervisor, run: Run, settings: Settings, undo: ExitStack
) -> None:
    folder, order, seconds = run.folder, plan.order, plan.seconds
    drop = partial(run.give_up, hypervisor)
    undo.enter_context(space_guard(hypervisor, folder, order.source.disks, drop))
    with run.phase(Phase.CLONE, seconds[Phase.CLONE]) as deadline:
        clone = create_clone(hypervisor, order, folder, deadline)
        run.describe_clone(clone)
        proxy = undo.enter_context(
            PackageProxy(
                [],  # until the guest's own sources are known, nothing at all
                settings.cache / "packages",
                folder.clone / "proxy.sock",
                operator_allowed=settings.proxy_allow,
                upstream_proxy=settings.upstream_proxy,
            )
        )
        guest = undo.enter_context(
            Guest(hypervisor, clone.entrance, order.login, folder.clone, folder.register)
        )
        control = undo.enter_context(make_control_trial(plan, hypervisor, clone, folder, deadline))
        run.learn(control=control.absent)
    trial = Trial(plan, guest, folder.artifacts)
    with run.phase(Phase.BOOT, seconds[Phase.BOOT]) as deadline:
        trial.boot(deadline)
        run.learn(booted=True, first_login=round(guest.first_login, 1))
    with run.phase(Phase.BASELINE, seconds[Phase.BASELINE]) as deadline:
        before = trial.observe(deadline)
        run.learn(before=before)
        aside = Aside(guest, deadline)
        session = check(run, trial, Checkpoint("before", before), deadline)
        run.learn(checks_before=session)
    if not worth_upgrading(session):
        return
    with (
        run.phase(Phase.UPGRADE, seconds[Phase.UPGRADE]) as deadline,
        _the_control_too(run, control),
    ):
        run.upgrade_begins()
        log = upgrade(run, trial, proxy, deadline, lambda: run.learn(before=aside.added_to(before)))
        run.learn(upgrade=log)
        reboot = must_reboot(trial, log, deadline)
        if upgraded(log):
            control.go_on(reboot=reboot)
    back = not reboot or _reboot(run, trial, control)
    if upgraded(log) and back:
        with (
            run.phase(Phase.VERIFY, seconds[Phase.VERIFY]) as deadline,
            _the_control_too(run, control),
        ):
            _verify(run, trial, control, deadline)
    if worth_another_start(run.facts):
        _start_once_more(run, trial)


def _reboot(run: Run, trial: Trial, control: ControlTrial) -> bool:
    """Whether the candidate came back; where it did not, the control tells whether it did."""
    seconds = trial.plan.seconds[Phase.REBOOT]
    with run.phase(Phase.REBOOT, seconds) as deadline:
        done = trial.reboot(deadline)
        run.learn(reboot=done)
        if not done.happened:
            late = deadline.remaining() + seconds  # the control may have begun later
            run.learn(control=control.found(Deadline(late, Phase.REBOOT)))
    return done.happened


def _verify(run: Run, trial: Trial, control: ControlTrial, deadline: Deadline) -> None:
    """Observe and check the upgraded candidate, watch it, ask again what broke, and find out why;
    with the control's result beside it."""
    before, watched = run.facts.before, None
    after = first_observation(run, trial, deadline)
    run.learn(after=after)
    aside = Aside(trial.guest, deadline)
    at = Checkpoint("after", after, before)
    run.learn(checks_after=check(run, trial, at, deadline))
    while worth_watching(trial.plan, run.facts):
        watched = watch(run, trial, before, after, watched, deadline)
        run.learn(watched=watched)
        after, watched = observe_again(trial, after, watched, deadline)
        run.learn(after=after, watched=watched)
        at = Checkpoint("after", after, before, watched.restarts)
        run.learn(checks_after=check(run, trial, at, deadline))
    run.learn(checks_again=confirm(run, trial, deadline))
    grace = Deadline(deadline.remaining() + GRACE_SECONDS, Phase.VERIFY)
    by_itself = restarted(run.facts)
    run.learn(control=control.found(grace, watched=watched, by_itself=by_itself))
    grace = Deadline(deadline.remaining() + GRACE_SECONDS, Phase.VERIFY)
    run.learn(autopsy=find_out(trial, run.facts, grace))
    run.learn(after=aside.added_to(after))


@contextmanager
def _the_control_too(run: Run, control: ControlTrial) -> Iterator[None]:
    """Where the clone restarts by itself or goes away while it is upgraded, or once it is: does
    the control do so as well?"""
    try:
        yield
    except GuestUnreachable as problem:
        if run.changing:
            restarted = isinstance(problem, GuestRestarted)
            what = "restarted by itself" if restarted else "cannot be entered any more"
            run.progress.detail(f"it {what}: what does the control do?")
            run.learn(control=control.does_so_too())
        raise


def _start_once_more(run: Run, trial: Trial) -> None:
    """It may excuse what was found; a host that fails meanwhile does not unprove it."""
    seconds = trial.plan.seconds
    try:
        with run.phase(Phase.REBOOT, seconds[Phase.REBOOT]) as deadline:
            start_again(run, trial, deadline)
        with run.phase(Phase.VERIFY, seconds[Phase.VERIFY]) as deadline:
            trial.guest.wait_until_up(deadline)
            confirm_start(run, trial, deadline)
    except HostError as problem:
        run.progress.detail(f"nothing is known of its second start: {problem.message}")
