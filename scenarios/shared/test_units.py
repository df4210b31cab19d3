"""No unit has failed that had not failed before, and what runs comes back at the next start."""

from __future__ import annotations

import time

from testinfra.host import Host

from sandbox.checks import CheckSettings
from sandbox.checks.compare import left_behind, new_failed_units, started_again
from sandbox.core.deadline import Deadline
from sandbox.core.records import Observation


def test_no_new_failed_units(
    before: Observation, now: Observation, settings: CheckSettings
) -> None:
    failed = new_failed_units(before, now, settings.ignore_units)
    assert not failed, (
        f"{failed[0]} has failed, it had not before"
        if len(failed) == 1
        else f"{len(failed)} units have failed that had not before: {', '.join(failed)}"
    )


def test_what_runs_is_still_enabled(
    before: Observation, now: Observation, settings: CheckSettings
) -> None:
    lost = left_behind(before, now, settings.ignore_units)
    assert not lost, (
        f"{lost[0]} was enabled before and is not now: the next start will be without it"
        if len(lost) == 1
        else f"{len(lost)} services were enabled before and are not now: {', '.join(lost)}"
    )


def test_nothing_is_started_again_and_again(
    before: Observation,
    now: Observation,
    settings: CheckSettings,
    host: Host,
    patience: Deadline,
) -> None:
    """What systemd had to start again is watched for a while: it may not stay up."""
    known = settings.restarts_at_first
    for unit, times in started_again(before, now, settings.ignore_units).items():
        assert known is None or times <= known.get(unit, 0), (
            f"{unit} ended a while after its start and was started again, "
            + ("once" if times == 1 else f"{times} times")
            + " so far"
        )
        while patience.remaining() > 1:
            shown = host.run("systemctl show --property=NRestarts --value -- %s", unit).stdout
            again = int(shown) if shown.strip().isdecimal() else 0
            assert again <= times, f"{unit} ends and is started again, {again} times so far"
            time.sleep(1)
