"""What there is: runs and scenarios, listed and shown."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sandbox.core.clean_text import one_line
from sandbox.core.errors import HostError, RequestError, SandboxError
from sandbox.core.records import RunRecord
from sandbox.core.settings import Settings
from sandbox.core.store import RunFolder, Store
from sandbox.core.wording import duration
from sandbox.rehearsal import recovery
from sandbox.report import render
from sandbox.report.view import headline, instant, price_of_keeping
from sandbox.scenario import load_scenario
from sandbox.scenario.request import find_scenario, scenario_names

STYLES = {
    "pass": "bold green",
    "fail": "bold red",
    "rejected": "bold yellow",
    "inconclusive": "bold yellow",
    "error": "bold magenta",
    "running": "cyan",
    "killed": "bold magenta",
    "damaged": "bold magenta",
}
_ROOM_FOR_IDS = 130  # columns; on a narrower terminal the end of an id has to do
_WIDEST = 24  # columns of one cell, the reason aside
_LEAST_REASON = 16
_START = "sandbox run security --guest NAME"


@dataclass(frozen=True)
class Row:
    """One line of the list. ``seconds`` is None while a run is not finished."""

    id: str
    started: float
    guest: str
    scenario: str
    state: str  # of the record: running, finished, kept; or damaged
    verdict: str  # a Verdict's value, or running, killed, damaged
    reason: str
    seconds: float | None


def print_runs(settings: Settings, *, as_json: bool, limit: int) -> None:
    """The newest ``limit`` runs: a table on a terminal, aligned text or JSON lines otherwise."""
    store = readable_store(settings)
    rows = [_row(store, run_id) for run_id in reversed(store.ids()[-limit:])]
    if as_json:
        for row in rows:
            click.echo(json.dumps(asdict(row)))
        return
    if not rows:
        click.echo(f"no runs yet; start one with  {_START}")
        return
    console = Console(highlight=False)
    if console.is_terminal:
        console.print(_table(rows, console.width))
    else:
        cells = [_cells(row, instant(row.started)) for row in rows]
        heads = ("ID", "WHEN", "GUEST", "SCENARIO", "VERDICT", "TIME", "REASON")
        click.echo("\n".join(aligned([heads, *cells])))


def _row(store: Store, run_id: str) -> Row:
    folder = store.folder(run_id)
    try:
        record = store.load(folder)
    except RequestError:
        hint = f"its record cannot be read; `sandbox rm --record {run_id}` removes the run"
        return Row(run_id, _began(folder), "?", "?", "damaged", "damaged", hint, None)
    if record.decision is not None:
        verdict, reason = record.decision.verdict.value, record.decision.reason
    elif recovery.was_killed(folder, record):
        verdict, reason = "killed", "the sandbox was killed; `sandbox reap` cleans up"
    else:
        verdict, reason = "running", f"in phase {record.phase.value}"
    if record.state == "kept":
        reason = f"(clone kept) {reason}"
    seconds = record.finished - record.started if record.finished else None
    return Row(
        id=run_id,
        started=record.started,
        guest=one_line(record.guest, 60),
        scenario=one_line(record.scenario, 40),
        state=record.state,
        verdict=verdict,
        reason=one_line(reason),
        seconds=seconds,
    )


def _began(folder: RunFolder) -> float:
    """When a run without a readable record began: its id says so."""
    stamp = folder.id.rpartition("-")[0]
    try:
        return datetime.strptime(stamp, "%Y%m%d-%H%M%S").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return 0.0


def _cells(row: Row, when: str) -> tuple[str, ...]:
    took = "–" if row.seconds is None else duration(row.seconds)
    return (row.id, when, row.guest, row.scenario, row.verdict, took, row.reason)


def _table(rows: Sequence[Row], width: int) -> Table:
    """At most ``width`` columns, one line a run: the reason takes what the others leave."""
    cells = []
    for row in rows:
        run_id, _when, guest, scenario, verdict, took, reason = _cells(row, "")
        shown = run_id if width >= _ROOM_FOR_IDS else run_id.rpartition("-")[2]
        cells.append((shown, _ago(row.started), guest, scenario, verdict, took, reason))
    heads = ("run", "when", "guest", "scenario", "verdict", "time", "reason")
    styles = ("cyan", "dim", "", "", "", "", "")
    widest = [min(_WIDEST, max(map(len, column))) for column in zip(heads, *cells, strict=True)]
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    widest[-1] = max(_LEAST_REASON, width - sum(widest[:-1]) - 2 * len(widest))
    for head, style, most in zip(heads, styles, widest, strict=True):
        justify: Literal["right", "left"] = "right" if head == "time" else "left"
        table.add_column(
            head, style=style, justify=justify, no_wrap=True, overflow="ellipsis", max_width=most
        )
    for line in cells:
        texts = [Text(cell) for cell in line]
        texts[4].stylize(STYLES.get(line[4], ""))
        table.add_row(*texts)
    return table


def _ago(moment: float) -> str:
    """How long ago: short enough for a narrow terminal."""
    passed = max(0.0, time.time() - moment)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if passed >= length:
            return f"{int(passed // length)} {unit} ago"
    return "just now"


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns padded with blanks, all but the last one."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        padded = [f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)]
        yield "  ".join((*padded[:-1], row[-1]))


def print_run(record: RunRecord, folder: RunFolder, *, as_json: bool) -> None:
    """One run: its answer first, then its phases, its files and how to enter a kept clone."""
    record = recovery.told(folder, record)
    if as_json:
        click.echo(render(record, folder.artifacts, "json"))
        return
    console = Console(highlight=False, soft_wrap=True)
    verdict = "running" if record.decision is None else record.decision.verdict.value
    console.print(Text(headline(record), STYLES[verdict]))
    took = duration(record.finished - record.started) if record.finished else "not finished"
    words = f"run {record.id}, scenario {record.scenario}, {instant(record.started)}, {took}"
    console.print(Text(one_line(words), "dim"))
    if record.decision is not None and record.decision.hint:
        console.print(Text.assemble(("What to do: ", "bold"), one_line(record.decision.hint)))
    _print_phases(console, record)
    _print_files(console, record, folder.artifacts)
    if record.ssh_command:
        console.print("\nThe clone is up; enter it with", style="bold")
        console.print(Text(f"  {one_line(record.ssh_command)}"))
        console.print(Text(f"and remove it with\n  sandbox rm {record.id}"))
        if price_of_keeping(record):
            console.print(Text(f"Price: {price_of_keeping(record)}", "yellow"))
    if record.left_behind:
        console.print("\nNot removed (`sandbox reap` tries again)", style="bold red")
        for thing in record.left_behind:
            console.print(Text(f"  {one_line(thing)}"))


def _print_phases(console: Console, record: RunRecord) -> None:
    if record.phases:
        console.print("\nPhases", style="bold")
    for done in record.phases:
        mark = ("✓", "green") if done.ok else ("✗", "bold red")
        line = Text.assemble(
            "  ", mark, f" {done.phase.value:<10}", (f"{duration(done.seconds):>14}", "cyan")
        )
        if done.note:
            line.append(f"   {one_line(done.note)}", "dim")
        console.print(line)


def _print_files(console: Console, record: RunRecord, place: Path) -> None:
    files = {place / artifact.name: one_line(artifact.title) for artifact in record.artifacts}
    files |= {place / "report.html": "the report as a page", place / "run.json": "the record"}
    there = {str(path): title for path, title in files.items() if path.is_file()}
    if there:
        console.print("\nFiles", style="bold")
        for line in aligned(list(there.items())):
            console.print(Text(f"  {line}"))


def print_scenarios(settings: Settings) -> None:
    """The scenarios that can be run by name, each with what it says of itself."""
    names = scenario_names(settings)
    if not names:
        click.echo("no scenarios here; write one with  sandbox init NAME --guest GUEST")
        return
    console = Console(highlight=False, soft_wrap=True)
    width = max(map(len, names))
    for name in names:
        try:
            read = load_scenario(find_scenario(name, settings), shared=settings.shared_checks)
            words = Text(one_line(read.description) or read.upgrade.what)
        except SandboxError as problem:
            words = Text(f"cannot be used: {one_line(problem.message)}", "red")
        console.print(Text.assemble((f"{name:<{width}}", "bold"), "  ", words))


def readable_store(settings: Settings) -> Store:
    """The store, when its runs may be read: "no runs" must not stand for "no permission"."""
    if settings.runs.is_dir() and not os.access(settings.runs, os.R_OK | os.X_OK):
        raise HostError(
            f"the runs in {settings.runs} may not be read",
            "run it as root, or point SANDBOX_STATE to a folder of your own",
        )
    return Store(settings)
