"""The guest has booted all the way, and no worse than before."""

from __future__ import annotations

import time

from testinfra.host import Host

from sandbox.checks import CheckSettings
from sandbox.checks.compare import (
    SETTLING_STATES,
    new_failed_units,
    slower_start,
    state_worse,
)
from sandbox.checks.facts import CheckMemory
from sandbox.core.deadline import Deadline
from sandbox.core.records import Observation


def test_default_target_is_reached(now: Observation, host: Host, patience: Deadline) -> None:
    reached = now.target_reached
    while not reached and now.target and patience.remaining() > 1:
        reached = host.run("systemctl is-active %s", now.target).stdout.strip() == "active"
        if not reached:
            time.sleep(1)
    assert reached, f"the guest did not reach {now.target or 'its default target'}"


def test_system_state_is_no_worse(
    before: Observation,
    now: Observation,
    phase: str,
    settings: CheckSettings,
    facts: CheckMemory,
    host: Host,
    patience: Deadline,
) -> None:
    state = now.state
    while state in SETTLING_STATES and patience.remaining() > 1:
        time.sleep(1)
        state = host.run("systemctl is-system-running").stdout.strip() or state
    assert state not in SETTLING_STATES, (
        f"the guest is still {state}: some unit has neither come up nor failed"
    )
    if phase == "before":
        facts.note("state", state)
    settled = facts.text("state") or before.state
    excused = not new_failed_units(before, now, settings.ignore_units)
    assert not state_worse(settled, state, excused), (
        f"the system was {settled} before and is {state} now"
        + (f": {', '.join(now.failed_units)} failed" if now.failed_units else "")
    )


def test_start_is_not_much_slower(before: Observation, now: Observation) -> None:
    problem = slower_start(before, now)
    assert not problem, problem
