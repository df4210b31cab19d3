"""`sandbox schedule` and `sandbox summary` on a terminal, with SQLite."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import update

from sandbox.core.records import Verdict
from workers import cli
from workers.database import Database, open_database
from workers.database.schema import runs
from workers.queue.leases import claim, finish
from workers.queue.values import Outcome
from workers.schedule import enqueue, night_reports
from workers.settings import ServiceSettings, read_service_settings

SCENARIO = """\
upgrade: {what: security}
schedule:
  cron: 0 2 * * *
  guests: [web01, web02]
"""
NOON, DUE = 1_772_452_800.0, 1_772_503_200.0  # 2 March 2026 12:00, 3 March 02:00 UTC
HOST = "this machine"


@dataclass
class Terminal:
    database: Database
    settings: ServiceSettings
    scenarios: Path

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(cli.main, list(arguments))

    def begin_night(self) -> None:
        enqueue.begin(self.database, self.settings, NOON)
        enqueue.begin(self.database, self.settings, DUE)

    def rehearse(self, **verdicts: str) -> None:
        with self.database.write() as connection:
            connection.execute(update(runs).values(not_before=0.0))
        while (held := claim(self.database, HOST, "worker-a", 60.0, None)) is not None:
            verdict = Verdict(verdicts.get(held.guest, "pass"))
            finish(self.database, held, Outcome(verdict, "nginx does not start"))
        night_reports.close(self.database, DUE)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Terminal]:
    (tmp_path / "fleet").mkdir()
    (tmp_path / "fleet/scenario.yaml").write_text(SCENARIO)
    with tempfile.TemporaryDirectory(prefix="sbsvc-", dir="/tmp") as state:
        monkeypatch.setenv("SANDBOX_STATE", state)
        monkeypatch.setenv("SANDBOX_SCENARIOS", str(tmp_path))
        migrated = CliRunner().invoke(cli.main, ["migrate"])
        assert migrated.exit_code == 0, migrated.output
        settings = read_service_settings()
        database = open_database(settings.database)
        yield Terminal(database, settings, tmp_path)
        database.close()


def test_schedules_are_listed_with_when_they_are_due(terminal: Terminal) -> None:
    said = terminal.run("schedule")
    assert said.exit_code == 0, said.output
    assert said.stdout.split()[:2] == ["SCHEDULE", "CRON"]
    assert "0 2 * * *" in said.stdout
    assert " 02:00Z  none yet" in said.stdout
    terminal.begin_night()
    row = json.loads(terminal.run("schedule", "--json").stdout)
    assert (row["name"], row["guests"], row["last"]) == ("fleet", 2, DUE)
    assert row["next"] % 86400 == 7200
    assert row["outcome"].startswith("0 of 2 guests may be upgraded, 2 not done yet")


def test_one_that_cannot_be_followed_is_named(terminal: Terminal) -> None:
    path = terminal.scenarios / "fleet/scenario.yaml"
    path.write_text(SCENARIO.replace("0 2", "0 25"))
    said = terminal.run("schedule")
    assert "fleet: cannot be followed: " in said.stderr
    assert ":3: schedule.cron: '0 25 * * *'" in said.stderr


def test_no_schedules_and_no_nights_say_what_to_do(terminal: Terminal) -> None:
    said = terminal.run("summary")
    assert said.exit_code == 2
    assert "there was no night yet" in said.stderr
    (terminal.scenarios / "fleet/scenario.yaml").write_text("upgrade: {what: all}\n")
    assert "give a scenario one" in terminal.run("schedule").stdout


def test_a_nights_summary_is_printed(terminal: Terminal) -> None:
    terminal.begin_night()
    terminal.rehearse(web02="fail")
    said = terminal.run("summary")
    assert said.exit_code == 0, said.output
    assert said.stdout.startswith("1 of 2 guests may be upgraded (fleet, 2026-03-03 02:00 UTC)\n")
    assert f"  web02 on {HOST}: fail: nginx does not start\n" in said.stdout
    for words in ("fleet", "fleet@2026-03-03T02:00Z"):
        told = json.loads(terminal.run("summary", words, "--json").stdout)
        assert (told["night"], told["unsent"]) == ("fleet@2026-03-03T02:00Z", 0)
        assert told["counts"]["may be upgraded"] == 1
    missing = terminal.run("summary", "fleet@2026-03-04T02:00Z")
    assert missing.exit_code == 2
    assert "the last ones: fleet@2026-03-03T02:00Z" in missing.stderr
