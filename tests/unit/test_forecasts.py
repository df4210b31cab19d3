"""What was to be down for how long, and was."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox.core.records import RunRecord, Start, UpgradeLog
from sandbox.report import render
from sandbox.verdict.downtime import Forecast, forecasts, start_seconds
from tests.support.fakes.sample_records import no_boot, passed

OLD = Start(began=14.0, ready=14.5)


def record(restarted: Start | None, before: Start | None = OLD) -> RunRecord:
    """nginx is restarted by its package; this is what systemd says of it afterwards."""
    made = passed()
    facts = made.facts
    assert facts.upgrade is not None
    assert facts.before is not None
    starts = {"starts": {"nginx.service": restarted} if restarted else {}}
    seen = {"starts": {"nginx.service": before} if before else {}}
    update = {
        "upgrade": facts.upgrade.model_copy(update=starts),
        "before": facts.before.model_copy(update=seen),
    }
    return made.model_copy(update={"facts": facts.model_copy(update=update)})


def service(restarted: Start | None, before: Start | None = OLD) -> Forecast:
    return next(iter(forecasts(record(restarted, before))))


def test_a_restart_is_compared_from_stop_to_ready() -> None:
    found = service(Start(stopped=301.0, began=301.2, ready=301.75))
    assert (found.what, found.package) == ("nginx.service", "nginx-common")
    assert (found.forecast, found.happened) == (0.5, 0.75)
    assert found.error == "50 % longer"
    assert service(Start(stopped=301.0, began=301.2, ready=301.4)).error == "20 % shorter"


@pytest.mark.parametrize(
    "after",
    [
        None,  # it runs no more: the verdict speaks of that
        OLD,  # the same start as before
        Start(stopped=12.0, began=14.0, ready=300.0),  # ready again without a stop: a reload
        Start(stopped=0.0, began=300.0, ready=301.0),
    ],
)
def test_what_was_not_restarted_was_not_down(after: Start | None) -> None:
    found = service(after)
    assert (found.forecast, found.happened, found.error) == (0.5, None, "")


def test_a_short_start_has_no_share_of_an_error() -> None:
    quick = Start(began=14.0, ready=14.01)
    assert service(Start(stopped=301.0, began=301.0, ready=301.05), quick).error == "0.04 s longer"


def test_one_that_is_down_while_its_package_is_unpacked_is_not_held_against_its_start() -> None:
    made = record(Start(stopped=301.0, began=315.0, ready=315.5))
    assert made.facts.upgrade is not None
    log = made.facts.upgrade.model_copy(update={"stops": ("nginx.service",)})
    facts = made.facts.model_copy(update={"upgrade": log})
    found = next(iter(forecasts(made.model_copy(update={"facts": facts}))))
    assert (found.forecast, found.happened, found.error) == (0.5, 14.5, "")
    shown = render(made.model_copy(update={"facts": facts}), Path(), "text")
    assert "forecast 0.5 s and its package's unpacking, down for 14 s" in shown


def test_what_did_not_run_before_has_no_forecast() -> None:
    found = list(forecasts(record(Start(stopped=301.0, began=301.2, ready=301.75), before=None)))
    assert [one.what for one in found] == ["reboot"]
    assert start_seconds(None) is None
    assert start_seconds(Start(ready=3.0)) is None


def test_the_reboot_is_compared_with_the_clones_own_start() -> None:
    *_, reboot = forecasts(passed())
    assert (reboot.what, reboot.forecast, reboot.happened) == ("reboot", 37.1, 38.2)
    assert reboot.error == "3 % longer"
    *_, stuck = forecasts(no_boot())
    assert (stuck.forecast, stuck.happened) == (37.1, None)


@pytest.mark.parametrize("format", ["text", "markdown", "html"])
def test_reports_say_forecast_and_what_happened(format: str, tmp_path: Path) -> None:
    made = record(Start(stopped=301.0, began=301.2, ready=301.75))
    shown = render(made, tmp_path, format).replace("&#45;", "-").replace("&#37;", "%")
    line = "nginx.service (nginx-common): forecast 0.5 s, down for 0.8 s: 50 % longer"
    assert line in " ".join(shown.split())
    assert "reboot: forecast 37 s, took 38 s: 3 % longer" in shown


def test_an_upgrade_without_restarts_or_reboot_has_no_section(tmp_path: Path) -> None:
    made = passed()
    quiet = UpgradeLog.model_validate(made.facts.upgrade.model_dump() | {"restarts": {}})  # type: ignore[union-attr]
    facts = made.facts.model_copy(update={"upgrade": quiet, "reboot": None})
    assert "Downtime" not in render(made.model_copy(update={"facts": facts}), tmp_path, "text")
