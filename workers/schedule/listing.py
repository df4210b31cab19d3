"""Schedules and summaries on a terminal."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import click

from sandbox.cli.listing import aligned
from sandbox.core.clean_text import one_line
from workers.database import Database, require_schema
from workers.schedule.due_times import next_due
from workers.schedule.enqueue import Scheduled, read_schedules
from workers.schedule.night_reports import find_night, last_nights, unsent
from workers.schedule.night_summary import Night, as_json, headline, text
from workers.settings import ServiceSettings


@dataclass(frozen=True)
class ScheduleRow:
    """One line of the list."""

    name: str
    cron: str
    timezone: str
    guests: int
    next: float | None
    last: float | None
    outcome: str


def print_schedules(database: Database, settings: ServiceSettings, *, json_lines: bool) -> None:
    """All schedules, with when they are due and how their last night went."""
    require_schema(database)
    rows, problems = schedule_rows(database, settings)
    if json_lines:
        for row in rows:
            click.echo(json.dumps(asdict(row)))
    elif rows:
        heads = ("SCHEDULE", "CRON", "TIME ZONE", "GUESTS", "NEXT", "LAST NIGHT")
        click.echo("\n".join(aligned([heads, *map(_cells, rows)])))
    elif not problems:
        click.echo("no schedules; give a scenario one:  schedule: {cron: 30 1 * * *}")
    for name, problem in problems.items():
        click.echo(f"{name}: cannot be followed: {problem}", err=True)


def schedule_rows(
    database: Database, settings: ServiceSettings
) -> tuple[list[ScheduleRow], dict[str, str]]:
    """(all schedules; what is wrong with scenarios that may have one, by their names)."""
    found, problems = read_schedules(settings)
    last, moment = last_nights(database), database.now()
    return [_row(scheduled, last.get(scheduled.name), moment) for scheduled in found], problems


def _row(scheduled: Scheduled, last: Night | None, moment: float) -> ScheduleRow:
    plan = scheduled.schedule
    return ScheduleRow(
        name=scheduled.name,
        cron=plan.cron,
        timezone=plan.timezone,
        guests=len(scheduled.requests),
        next=next_due(plan.cron, plan.zone, moment),
        last=last.due if last else None,
        outcome=headline(last) if last else "",
    )


def _cells(row: ScheduleRow) -> tuple[str, ...]:
    following = (
        "never" if row.next is None else f"{datetime.fromtimestamp(row.next, UTC):%F %H:%MZ}"
    )
    last = one_line(row.outcome) or "none yet"
    return (row.name, row.cron, row.timezone, str(row.guests), following, last)


def print_summary(database: Database, words: str | None, *, json_text: bool) -> None:
    """A night's summary as it is now: what ended after it was sent is in it."""
    require_schema(database)
    night = find_night(database, words)
    if json_text:
        click.echo(json.dumps(as_json(night) | {"unsent": unsent(database, night)}))
        return
    click.echo(text(night), nl=False)
    if not_sent := unsent(database, night):
        click.echo(f"\nnot sent to {not_sent} target(s) so far: see the workers' log", err=True)
