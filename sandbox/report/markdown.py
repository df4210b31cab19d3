"""The report as a comment on a change: GitHub and GitLab flavoured Markdown.

Nothing that the guest printed may become markup, a link, a mention or a reference to an issue.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from sandbox.core.clean_text import one_line
from sandbox.core.records import CheckResult, ConffileDecision
from sandbox.core.wording import count, duration
from sandbox.report.view import FORECASTS, TRIED, View, instant
from sandbox.verdict.diff import CheckChange
from sandbox.verdict.severity import SHOWN, GradedLine, tally

LIMIT = 60_000  # characters; a GitHub comment takes 65,536
_ROWS = 100
_BLOCK_LINES = 60
_BLOCK_CHARACTERS = 12_000
ICONS = {"pass": "✅", "fail": "❌", "inconclusive": "❔", "error": "💥", "rejected": "⛔"}
# What is markup in GitHub's and GitLab's Markdown, links without brackets included.
_SPECIAL = re.compile(r"[&<>|`*_\[\]#@~\\$]|(?<=:)/|(?<=www)\.|^[-+=]|(?<=GH)-", re.I)
# What refers to people, issues, labels, emoji or addresses also after HTML entities are
# resolved: a zero-width space in between keeps it text, and cannot be seen.
_REFERENCE = re.compile(
    r"[@#!$%&~^](?=[\w\"'])|GH(?=-\d)|:(?=[\w+-]+:|//)|www(?=\.)|^\d+(?=[.)](\s|$))", re.I
)
_GAP = "\u200b"


def plain(text: str) -> str:
    """Guest text as plain prose on one line."""
    return _entities(_REFERENCE.sub(lambda found: found.group(0) + _GAP, one_line(text)))


def code(text: str) -> str:
    """Guest text as inline code, also fit for a table's cell."""
    return f"<code>{_entities(one_line(text))}</code>" if text.strip() else ""


def block(lines: Sequence[str], language: str = "text") -> str:
    """Lines as a fenced block whose fence is longer than any run of backticks in it."""
    content = "\n".join(lines[-_BLOCK_LINES:])[-_BLOCK_CHARACTERS:]
    longest = max((len(run) for run in re.findall("`+", content)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{content}\n{fence}"


def render_markdown(shown: View) -> str:
    """The whole comment, at most :data:`LIMIT` characters; what does not fit is named."""
    sections = [
        _head(shown),
        _checks(shown),
        _packages(shown),
        _differences(shown),
        _details(TRIED, _list(shown.tried)) if shown.tried else "",
        _trouble(shown),
        _conffiles(shown),
        _forecasts(shown),
        _phases(shown),
        _source(shown),
    ]
    note = "_Some sections did not fit here; `sandbox report` shows all._"
    room = LIMIT - len(note) - 2
    kept: list[str] = []
    for section in filter(None, sections):
        if len(section) + 2 > room:
            return "\n\n".join([*kept, note]) + "\n"
        kept.append(section)
        room -= len(section) + 2
    return "\n\n".join(kept) + "\n"


def _entities(text: str) -> str:
    return _SPECIAL.sub(lambda found: f"&#{ord(found.group(0))};", text)


def _head(shown: View) -> str:
    record = shown.record
    lines = [f"### {ICONS.get(shown.verdict, '⏳')} {plain(shown.headline)}"]
    if record.decision and record.decision.hint:
        lines.append(f"**What to do:** {plain(record.decision.hint)}")
    if shown.price:
        lines.append(f"**The clone was kept:** {plain(shown.price)}")
    if record.decision and record.decision.findings:
        lines.append(_list(record.decision.findings))
    return "\n\n".join(lines)


def _checks(shown: View) -> str:
    if not shown.checks:
        return ""
    parts = [f"#### Checks: {shown.count_line}"]
    if shown.attention:
        parts.append(_check_table(shown.attention))
    if shown.others:
        title = f"{count(len(shown.others), 'check')} without a finding"
        parts.append(_details(title, _check_table(shown.others)))
    return "\n\n".join(parts)


def _check_table(checks: Sequence[CheckChange]) -> str:
    rows = [
        (code(c.name), _outcome(c.before), _outcome(c.after), code(_message(c))) for c in checks
    ]
    return _table(("check", "before", "after", "message"), rows)


def _message(change: CheckChange) -> str:
    for result in (change.after, change.before):
        if result and result.message and result.outcome not in ("passed", "skipped"):
            return result.message
    return ""


def _outcome(result: CheckResult | None) -> str:
    return result.outcome.value if result else "–"


def _packages(shown: View) -> str:
    if not shown.packages:
        return ""
    rows = [
        (code(c.name), code(c.old or "") or "new", code(c.new or "") or "removed", code(c.origin))
        for c in shown.packages
    ]
    title = f"Packages {shown.packages_word}: {len(rows)}"
    return _details(title, _table(("package", "before", "after", "origin"), rows))


def _differences(shown: View) -> str:
    if not shown.changes:
        return ""
    body = _changes(shown.changes[:SHOWN])
    if len(shown.changes) > SHOWN:
        title = f"… and {len(shown.changes) - SHOWN} more"
        body += "\n\n" + _details(title, _changes(shown.changes[SHOWN:]))
    return f"#### What else changed in the guest: {tally(shown.changes)}\n\n{body}"


def _changes(lines: Sequence[GradedLine]) -> str:
    rows = [f"- **{line.severity.value}** {plain(line.text)}" for line in lines[:_ROWS]]
    if len(lines) > _ROWS:
        rows.append(f"- … and {len(lines) - _ROWS} more")
    return "\n".join(rows)


def _conffiles(shown: View) -> str:
    upgrade = shown.record.facts.upgrade
    files = upgrade.conffiles if upgrade else ()
    if not files:
        return ""
    body = "\n\n".join(_conffile(file) for file in files[:10])
    return _details("Configuration files for which an interactive upgrade would ask", body)


def _conffile(file: ConffileDecision) -> str:
    head = f"{code(file.path)} {plain(file.decision)}"
    return f"{head}\n\n{block(file.diff.splitlines(), 'diff')}" if file.diff else head


def _trouble(shown: View) -> str:
    parts = []
    if shown.transcript:
        parts.append(_details("Transcript of the upgrade, last lines", block(shown.transcript)))
    if shown.shows_console:
        parts.append(_details("Last lines of the console", block(shown.console)))
    return "\n\n".join(parts)


def _forecasts(shown: View) -> str:
    return _details(FORECASTS, _list(shown.forecast_lines)) if shown.forecast_lines else ""


def _phases(shown: View) -> str:
    rows = [
        (p.phase.value, duration(p.seconds), "ok" if p.ok else "failed", code(p.note))
        for p in shown.record.phases
    ]
    return _details("Phases", _table(("phase", "time", "", ""), rows)) if rows else ""


def _source(shown: View) -> str:
    record, source = shown.record, shown.record.source
    foot = (
        f"Run {code(record.id)}, scenario {code(record.scenario)}, {instant(record.started)}, "
        f"Upgrade Sandbox {plain(record.tool_version)}"
    )
    if source is None:
        return foot
    lines = [f"{source.kind}, {source.method}, {source.consistency}"]
    lines += [shown.control] if shown.control else []
    lines += [f"cost to production: {warning}" for warning in source.warnings]
    lines += [f"untouched: {proof}" for proof in source.untouched]
    lines += [f"not cloned: {device}" for device in source.dropped]
    lines += [f"changed in the clone: {change}" for change in source.changed]
    lines += [f"injected into the clone: {mutation}" for mutation in source.mutations]
    return _details("Source and clone", _list(lines)) + "\n\n" + foot


def _list(lines: Iterable[str]) -> str:
    listed = list(lines)
    shown = [f"- {plain(line)}" for line in listed[:_ROWS]]
    if len(listed) > _ROWS:
        shown.append(f"- … and {len(listed) - _ROWS} more")
    return "\n".join(shown)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [" | ".join(("", *columns, "")).strip(), "|" + " --- |" * len(columns)]
    lines += [f"| {' | '.join(row)} |" for row in rows[:_ROWS]]
    table = "\n".join(lines)
    more = len(rows) - _ROWS
    return f"{table}\n\n… and {more} more" if more > 0 else table


def _details(summary: str, body: str) -> str:
    return f"<details><summary>{summary}</summary>\n\n{body}\n\n</details>"
