"""What was running still runs."""

from __future__ import annotations

import time

from testinfra.host import Host

from sandbox.checks import CheckSettings
from sandbox.checks.compare import describe_lost_units, lost_units, parse_unit_states
from sandbox.core.deadline import Deadline
from sandbox.core.records import Observation

SHOW = "systemctl show --property=LoadState --property=ActiveState --property=SubState --"


def test_services_still_run(
    before: Observation,
    now: Observation,
    settings: CheckSettings,
    host: Host,
    patience: Deadline,
) -> None:
    lost = lost_units(before.units, now.units, settings.ignore_units)
    while lost and patience.remaining() > 1:
        # Measured a while ago: a unit that was still starting may be up by now.
        units = [unit.unit for unit in lost]
        shown = host.run(SHOW + " %s" * len(units), *units)
        if shown.rc != 0:
            break
        states = parse_unit_states(units, shown.stdout)
        lost = lost_units({u: before.units[u] for u in units}, states, settings.ignore_units)
        if not any((unit.now or "").startswith("activating/") for unit in lost):
            break
        time.sleep(1)
    assert not lost, describe_lost_units(lost)
