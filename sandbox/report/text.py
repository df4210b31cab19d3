"""The report for a terminal or a mail: plain, readable at 80 to 100 columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from io import StringIO

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sandbox.core.clean_text import one_line
from sandbox.core.records import CheckResult
from sandbox.core.wording import count, duration
from sandbox.report.view import FORECASTS, TRIED, View, instant
from sandbox.verdict.diff import Effect
from sandbox.verdict.severity import SHOWN, DiffSeverity, GradedLine, tally

WIDTH = 100
_ROWS = 60
_NAMED = 6  # packages and differences that the brief report names
_CELL_WIDTH = 38  # wide enough for a kernel package's name
_ORIGIN_WIDTH = 16
_TABLE_FRAME = 13  # what a table of four columns needs around its cells
_CONSOLE_LINES = 15
_TRANSCRIPT_LINES = 15
_STYLES = {
    "pass": "bold green",
    "fail": "bold red",
    "rejected": "bold yellow",
    "inconclusive": "bold yellow",
    "error": "bold magenta",
}
_SEVERITY_STYLES = {
    DiffSeverity.HIGH: "bold red",
    DiffSeverity.MEDIUM: "yellow",
    DiffSeverity.LOW: "dim",
}
_EFFECT_STYLES = {Effect.HOLDS: "green", Effect.BROKE: "bold red", Effect.UNJUDGED: "dim"}


def render_text(
    shown: View, *, colour: bool = False, width: int = WIDTH, brief: bool = False
) -> str:
    """The report; the first line is the answer. No escape sequence unless ``colour``.

    ``brief`` is what a terminal shows when a run ends: the answer, why, and what changed.
    """
    stream = StringIO()
    console = Console(
        file=stream,
        width=width,
        force_terminal=colour,
        color_system="standard" if colour else None,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
        _environ={},  # NO_COLOR and the like are the caller's to read
    )
    console.print(Text(shown.headline, _STYLES.get(shown.verdict, "bold")), soft_wrap=True)
    _summary(console, shown)
    _findings(console, shown)
    if brief:
        _brief(console, shown)
    else:
        _packages(console, shown)
        _checks(console, shown)
        if shown.differences:
            _changes(console, shown.changes)
        if shown.tried:
            _title(console, TRIED)
            _items(console, shown.tried)
        _forecasts(console, shown)
    _trouble(console, shown)
    if not brief:
        _phases(console, shown)
        _source(console, shown)
        _files(console, shown)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


def _summary(console: Console, shown: View) -> None:
    record = shown.record
    took = duration(record.finished - record.started) if record.finished else "not finished"
    line = f"run {record.id}, scenario {record.scenario}, {instant(record.started)}, {took}"
    console.print(Text(one_line(line), "dim"))
    if record.decision and record.decision.hint:
        console.print()
        console.print(Text.assemble(("What to do: ", "bold"), record.decision.hint))
    if record.ssh_command:
        console.print(Text.assemble(("The clone was kept: ", "bold"), record.ssh_command))
    if shown.price:
        console.print(Text.assemble(("Price of that: ", "bold"), shown.price))


def _findings(console: Console, shown: View) -> None:
    if shown.record.decision and shown.record.decision.findings:
        _title(console, "Evidence")
        _items(console, shown.record.decision.findings)


def _brief(console: Console, shown: View) -> None:
    """Counts, and the differences that were not asked for."""
    lines = [f"checks: {shown.count_line or 'none ran'}"]
    if shown.packages:
        names = [change.name for change in shown.packages]
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        lines.append(f"packages {shown.packages_word}: {', '.join(names[:_NAMED])}{more}")
    lines += [f"{line.severity.value}: {line.text}" for line in shown.changes[:_NAMED]]
    if len(shown.changes) > _NAMED:
        lines.append(f"… and {count(len(shown.changes) - _NAMED, 'more difference')}")
    lines += [shown.control] if shown.control else []
    if shown.record.source and shown.record.source.untouched:
        lines.append(f"source untouched: {', '.join(shown.record.source.untouched)}")
    _title(console, "In short")
    _items(console, lines)


def _packages(console: Console, shown: View) -> None:
    if not shown.packages:
        return
    _title(console, f"Packages {shown.packages_word} ({len(shown.packages)})")
    table = _table("package", "before", "after", "origin")
    rows = shown.packages[:_ROWS]
    # The versions matter more than the origin: it takes what room they leave
    # and is cut there; the other reports have the whole.
    taken = sum(
        min(max(map(len, cells)), _CELL_WIDTH)
        for cells in zip(*((c.name, c.old or "new", c.new or "removed") for c in rows), strict=True)
    )
    table.columns[3].no_wrap, table.columns[3].overflow = True, "ellipsis"
    table.columns[3].max_width = max(_ORIGIN_WIDTH, console.width - taken - _TABLE_FRAME)
    for change in rows:
        _row(table, change.name, change.old or "new", change.new or "removed", change.origin)
    _print_table(console, table, len(shown.packages))


def _checks(console: Console, shown: View) -> None:
    sessions = (shown.record.facts.checks_before, shown.record.facts.checks_after)
    if not shown.checks and not any(sessions):
        return
    _title(console, f"Checks ({shown.count_line or 'none'})")
    for session, when in zip(sessions, ("before", "after"), strict=True):
        if session and session.end != "complete":
            console.print(Text(f"  {when}: {session.end.value}: {one_line(session.message)}"))
    table = _table("check", "before", "after", "")
    for change in shown.checks[:_ROWS]:
        style = _EFFECT_STYLES.get(change.effect, "yellow")
        word = Text(shown.word(change.effect), style)
        table.add_row(
            Text(one_line(change.name)), _outcome(change.before), _outcome(change.after), word
        )
    _print_table(console, table, len(shown.checks))


def _changes(console: Console, lines: Sequence[GradedLine]) -> None:
    if not lines:
        _title(console, "What else changed in the guest")
        _items(console, ["nothing besides the packages"])
        return
    _title(console, f"What else changed in the guest ({tally(lines)})")
    grid = Table.grid(padding=(0, 1))
    for line in lines[:SHOWN]:
        severity = Text(line.severity.value, _SEVERITY_STYLES[line.severity])
        grid.add_row("  -", severity, Text(one_line(line.text), overflow="fold"))
    console.print(grid)
    if len(lines) > SHOWN:
        console.print(f"  … and {len(lines) - SHOWN} more; `--format json` has them all")


def _forecasts(console: Console, shown: View) -> None:
    if shown.forecast_lines:
        _title(console, FORECASTS)
        _items(console, shown.forecast_lines)


def _trouble(console: Console, shown: View) -> None:
    if shown.transcript:
        _title(console, "Upgrade, last lines")
        _quote(console, shown.transcript[-_TRANSCRIPT_LINES:])
    if shown.shows_console:
        _title(console, "Console, last lines")
        _quote(console, shown.console[-_CONSOLE_LINES:])


def _quote(console: Console, lines: Sequence[str]) -> None:
    for line in lines:
        _item(console, "│", line)


def _phases(console: Console, shown: View) -> None:
    if not shown.record.phases:
        return
    _title(console, "Phases")
    table = _table("phase", "time", "", "")
    for phase in shown.record.phases:
        state = Text("ok", "green") if phase.ok else Text("failed", "bold red")
        table.add_row(
            Text(phase.phase.value),
            Text(duration(phase.seconds)),
            state,
            Text(one_line(phase.note)),
        )
    console.print(Padding(table, (0, 0, 0, 1)))


def _source(console: Console, shown: View) -> None:
    source = shown.record.source
    if source is None:
        return
    _title(console, f"Source: {one_line(source.name)} on {one_line(source.host)}")
    paused = f"paused for {source.paused_ms:.0f} ms" if source.paused_ms else "not paused"
    lines = [f"{source.kind}, {source.method}, {source.consistency}, {paused}"]
    lines += [shown.control] if shown.control else []
    lines += [f"cost to production: {warning}" for warning in source.warnings]
    lines += [f"untouched: {proof}" for proof in source.untouched]
    lines += [f"not cloned: {device}" for device in source.dropped]
    lines += [f"changed in the clone: {change}" for change in source.changed]
    lines += [f"injected into the clone: {mutation}" for mutation in source.mutations]
    _items(console, lines)


def _files(console: Console, shown: View) -> None:
    if shown.record.artifacts:
        _title(console, "Files in the run's folder")
        _items(console, [f"{a.name}: {a.title}" for a in shown.record.artifacts])
    if shown.record.left_behind:
        _title(console, "Left behind (remove with `sandbox reap`)")
        _items(console, shown.record.left_behind)


def _title(console: Console, title: str) -> None:
    console.print()
    console.print(Text(title, "bold"))


def _items(console: Console, lines: Iterable[str]) -> None:
    listed = list(lines)
    for line in listed[:_ROWS]:
        _item(console, "-", one_line(line))
    if len(listed) > _ROWS:
        console.print(f"  … and {len(listed) - _ROWS} more")


def _item(console: Console, bullet: str, line: str) -> None:
    # A table with a fixed first column: long lines wrap under their text, not the bullet.
    grid = Table.grid(padding=(0, 1))
    grid.add_row(f"  {bullet}", Text(line, overflow="fold"))
    console.print(grid)


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=True)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _row(table: Table, *cells: str) -> None:
    table.add_row(*(Text(one_line(cell)) for cell in cells))


def _print_table(console: Console, table: Table, total: int) -> None:
    if table.row_count:
        console.print(Padding(table, (0, 0, 0, 1)))
    if total > table.row_count:
        console.print(f"  … and {total - table.row_count} more")


def _outcome(result: CheckResult | None) -> Text:
    if result is None:
        return Text("–", "dim")
    style = {"passed": "green", "failed": "red", "error": "red"}.get(result.outcome, "dim")
    return Text(result.outcome.value, style)
