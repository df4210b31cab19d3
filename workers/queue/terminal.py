"""What people ask of the queue on a terminal: submit, look, watch, take back."""

from __future__ import annotations

import getpass
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict

import click
from rich.console import Console
from rich.text import Text

from sandbox.cli.listing import STYLES, aligned
from sandbox.core.clean_text import one_line
from sandbox.core.errors import RequestError, SandboxError
from sandbox.core.records import Verdict
from sandbox.hosts.inventory import default_host, find_host, inventory
from sandbox.report.view import instant
from sandbox.scenario.request import Request
from workers.database import Database
from workers.database.states import ENDED, RunState
from workers.queue import intake, reading, submission
from workers.queue.values import RunEvent, RunRow, Submitted
from workers.settings import ServiceSettings

NO_VERDICT = 130  # cancelled: as after Ctrl-C
_LOOK_EVERY = 0.5  # seconds


def submit(
    database: Database,
    settings: ServiceSettings,
    request: Request,
    priority: str = "normal",
    *,
    fresh: bool = False,
) -> Submitted:
    origin = f"cli {who()}"
    return intake.submit(database, settings, request, priority, _warn, origin=origin, fresh=fresh)


def who() -> str:
    """The user who asks; a container's may have a number only."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # OSError from Python 3.13 on
        return f"uid {os.getuid()}"


def _warn(problem: str) -> None:
    click.echo(problem, err=True)


def tell_submitted(told: Submitted, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(asdict(told)))
        return
    click.echo(f"{told.run_id}: {'joined a run that is open' if told.joined else 'queued'}")
    click.echo(f"follow it with  sandbox watch {told.run_id}", err=True)


def retry(database: Database, settings: ServiceSettings, run_id: str) -> Submitted:
    return intake.retry(database, settings, reading.find(database, run_id).id, _warn)


def cancel(database: Database, run_id: str, *, as_json: bool = False) -> None:
    run = reading.find(database, run_id)
    state = submission.cancel(database, run.id, who())
    if as_json:
        click.echo(json.dumps(asdict(reading.get(database, run.id))))
        return
    word = "cancelled" if state is RunState.CANCELLED else "its worker removes the clone"
    click.echo(f"{run.id}: {word}")


def known_hosts(settings: ServiceSettings, named: Sequence[str]) -> tuple[str, ...]:
    """The names of the hosts to work for: those named, else all of the inventory."""
    if named:
        return tuple(find_host(name, settings.sandbox).name for name in named)
    listed = tuple(host.name for host in inventory(settings.sandbox))
    return listed or (default_host(settings.sandbox).name,)


# -- looking ----------------------------------------------------------------------------------


def print_queue(database: Database, *, guest: str | None, limit: int, as_json: bool) -> None:
    """The newest runs: aligned text, or JSON lines."""
    rows = reading.recent(database, limit, guest=guest)
    if as_json:
        for row in rows:
            click.echo(json.dumps(asdict(row)))
        return
    if not rows:
        click.echo("no runs yet; queue one with  sandbox submit security --guest NAME")
        return
    heads = ("RUN", "WHEN", "GUEST", "HOST", "SCENARIO", "STATE", "WHY")
    cells = [_cells(row) for row in rows]
    console = Console(highlight=False, soft_wrap=True)
    for number, line in enumerate(aligned([heads, *cells])):
        style = "bold" if number == 0 else STYLES.get(word_of(rows[number - 1]), "")
        console.print(Text(line, style))


def _cells(row: RunRow) -> tuple[str, ...]:
    who = (one_line(row.guest, 40), row.host, row.scenario)
    return (row.id, instant(row.submitted), *who, word_of(row), why_of(row))


def word_of(row: RunRow) -> str:
    return row.verdict.value if row.verdict else row.state.value


def why_of(row: RunRow) -> str:
    """One line: the verdict's reason, or what it is doing or waiting for."""
    if row.state is RunState.CANCELLED:
        return ""
    if row.verdict is not None:
        return one_line(row.reason)
    if row.state is RunState.QUEUED:
        return one_line(row.waiting) or "waits for a worker"
    return one_line(f"{row.phase or 'begins'} on {row.owner}") if row.owner else ""


def _headline(row: RunRow) -> Text:
    said = ": ".join(filter(None, (word_of(row), why_of(row))))
    return Text(said, STYLES.get(word_of(row), "bold"))


def print_run(database: Database, run_id: str, *, as_json: bool) -> None:
    row = reading.find(database, run_id)
    if as_json:
        click.echo(json.dumps(asdict(row)))
        return
    console = Console(highlight=False, soft_wrap=True)
    console.print(_headline(row))
    for name, value in (
        ("run", row.id),
        ("guest", f"{one_line(row.guest)} on {row.host}"),
        ("scenario", row.scenario),
        ("asked", f"{instant(row.submitted)} by {one_line(row.origin)}"),
        ("attempts", f"{row.attempts} of {row.most_attempts}"),
    ):
        console.print(Text.assemble((f"{name:<10}", "dim"), value))
    if row.state is RunState.QUEUED:
        console.print(Text.assemble((f"{'queue':<10}", "dim"), _place(database, row)))
    for event in reading.events_after(database, row.id)[-15:]:
        console.print(_line(event))


def _place(database: Database, row: RunRow) -> str:
    """Why it is not begun yet."""
    ahead = reading.ahead(database, row)
    place = "next" if not ahead else f"{ahead} before it"
    if intake.is_served(database, row.host):
        return f"{place} on {row.host}"
    return f"{place}; {intake.nobody_serves(row.host)}"


def watch(database: Database, run_id: str, *, as_json: bool) -> int:
    """Show events as they come until the run has ended; the verdict's exit code.

    A database that is away for a while is waited for.
    """
    row = reading.find(database, run_id)
    console = Console(highlight=False, soft_wrap=True)
    last, away = 0, False
    while True:
        try:
            row = reading.get(database, row.id)
            events = reading.events_after(database, row.id, last)
        except RequestError:
            raise
        except SandboxError as problem:
            if not away:
                click.echo(f"{problem.message}; waiting for it", err=True)
            away = True
            time.sleep(2 * _LOOK_EVERY)
            continue
        away = False
        for event in events:
            last = event.id
            if as_json:
                click.echo(json.dumps(asdict(event)))
            else:
                console.print(_line(event))
        if row.state in ENDED and not events:
            break
        time.sleep(_LOOK_EVERY)
    if not as_json:
        console.print(_headline(row))
    return _exit_code(row.verdict)


def _exit_code(verdict: Verdict | None) -> int:
    return NO_VERDICT if verdict is None else verdict.exit_code


def _line(event: RunEvent) -> Text:
    clock = time.strftime("%H:%M:%S", time.localtime(event.at))
    percent = f"{event.percent:3.0f} % " if event.percent is not None else ""
    style = {"state": "bold", "phase": "cyan", "check": "red"}.get(event.kind, "dim")
    kind = (f"{event.kind:<10}", style)
    return Text.assemble((f"{clock} ", "dim"), kind, percent, one_line(event.text))
