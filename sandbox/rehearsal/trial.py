"""A trial: what is done to one clone. The candidate and the control are two trials of one plan.

A trial enters its clone, observes, checks and reboots it, and knows which start of the guest it is
in. What is done when, and what is recorded, is the recipe's matter: nothing here knows of a run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from sandbox.checks.runner import ignore_result, run_checks
from sandbox.clone.guest import Guest
from sandbox.clone.ssh import HOST
from sandbox.core.deadline import Deadline
from sandbox.core.errors import ConnectionLost, GuestRestarted
from sandbox.core.records import CheckResult, CheckSession, Observation, Reboot
from sandbox.observe.observation import observe, observe_units
from sandbox.rehearsal.plan import Plan

T = TypeVar("T")
Moment = Literal["before", "after"]
STOPPING = "stopping"  # systemd's word for a system that shuts down
SETTLE = 5.0  # seconds that checks wait for what comes up late, where it had its time already
_BACK = 180.0  # seconds for the way to a guest to be there again
_PAUSE = 1.0  # seconds between two tries to get into one that shuts down


@dataclass(frozen=True)
class Checkpoint:
    """When a clone is checked, and what its checks are judged by.

    ``baseline``: the observation before the upgrade; None before it. ``restarts_at_first``: units'
    restarts when a watch began, by which one is judged that was watched; None without a watch.
    """

    moment: Moment
    current: Observation
    baseline: Observation | None = None
    restarts_at_first: dict[str, int] | None = None


class Trial:
    """``output``: the folder for what its checks write. ``start``: the boot id of the newest start
    that was asked for; "" until the clone was observed."""

    def __init__(self, plan: Plan, guest: Guest, output: Path) -> None:
        self.plan = plan
        self.guest = guest
        self.start = ""
        self._output = output

    def boot(self, deadline: Deadline) -> None:
        """Enter the clone, and wait until it is up."""
        self.guest.enter(deadline)
        self.guest.wait_until_up(deadline)

    def observe(self, deadline: Deadline) -> Observation:
        """Measure the clone as it is now."""
        found = observe(self.guest, deadline)
        self.start = self.start or found.boot_id
        return found

    def reboot(self, deadline: Deadline) -> Reboot:
        done = self.guest.reboot(deadline)
        if done.happened:
            self.start = done.boot_id_after
        return done

    def check(
        self,
        at: Checkpoint,
        deadline: Deadline,
        log: str,
        *,
        only: tuple[str, ...] = (),
        settle: float | None = None,
        on_result: Callable[[CheckResult], None] = ignore_result,
    ) -> CheckSession:
        """Run the scenario's checks, or ``only`` those of these names. ``settle``: seconds that
        they wait for what comes up late; None: as long as the settings say."""
        settings = self.plan.check_settings.model_copy(
            update={"restarts_at_first": at.restarts_at_first}
        )
        if settle is not None:
            settings = settings.model_copy(update={"settle_seconds": settle})
        return run_checks(
            files=self.plan.own_checks,
            shared=self.plan.shared_checks,
            ssh_config=self.guest.connection.config,
            host=HOST,
            phase=at.moment,
            baseline=at.baseline,
            current=at.current,
            settings=settings,
            work_dir=self._output,
            deadline=deadline,
            on_result=on_result,
            only=only,
            log=log,
        )

    # -- is it still the same start? ----------------------------------------------------------

    def is_back(self, boot_id: str, deadline: Deadline) -> bool:
        """The connection broke: whether it was only that, and not the guest that restarted. One
        that still shuts down is waited for. Raises :class:`GuestUnreachable` when it does not come
        back."""
        deadline = deadline.within(_BACK)
        while self.guest.enter(deadline) == boot_id:
            with contextlib.suppress(ConnectionLost):
                if observe_units(self.guest, deadline).state != STOPPING:
                    return True
            deadline.sleep(_PAUSE)
        return False

    def require_start(self, boot_id: str, when: str, deadline: Deadline) -> None:
        """The connection broke: raises :class:`GuestRestarted` where that was since the guest
        restarted."""
        if not self.is_back(boot_id, deadline):
            raise GuestRestarted(when)

    def asked(self, when: str, deadline: Deadline, ask: Callable[[], T]) -> T:
        """What ``ask`` answers; it is asked once more where the connection broke. Raises
        :class:`GuestRestarted` where that was since the guest restarted by itself, and
        :class:`ConnectionLost` where it breaks again."""
        try:
            return ask()
        except ConnectionLost:
            self.require_start(self.start, when, deadline)
            return ask()

    @contextlib.contextmanager
    def restarts_told(self, when: str, deadline: Deadline) -> Iterator[None]:
        """Where the guest restarts by itself meanwhile, that is :class:`GuestRestarted`, and not
        the connection that broke."""
        try:
            yield
        except GuestRestarted as problem:
            raise GuestRestarted(when, doing=problem.doing) from problem
        except ConnectionLost:
            self.require_start(self.start, when, deadline)
            raise
