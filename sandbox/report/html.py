"""The report as one page that needs nothing else: no scripts, no links, no request to anywhere.

Jinja escapes every value; the page's policy lets through its own style sheet and embedded
pictures alone, so that even a value that escaped escaping could not act.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from sandbox.core.clean_text import one_line
from sandbox.core.records import ConffileDecision, RunRecord
from sandbox.core.wording import duration, size
from sandbox.report.timeline import timeline_svg
from sandbox.report.view import FORECASTS, View, instant, read_artifact
from sandbox.verdict.flakiness import Rate, kept_name
from sandbox.verdict.severity import SHOWN, tally

TEMPLATES = Path(__file__).parent / "templates"
SCREEN_BYTES = 2 * 1024 * 1024
SCREENS = 4
ROWS = 400
DIFF_LINES = 200
DETAIL = 6000  # characters of one check's output
ICONS = {"pass": "✓", "fail": "✗", "inconclusive": "?", "error": "!", "rejected": "–"}
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Screen:
    """A picture of the guest's screen, embedded."""

    title: str
    data: str  # a data: URI of our own making
    width: int
    height: int


@dataclass(frozen=True)
class Diff:
    """What to do with a configuration file, and its diff as (kind of line, line)."""

    file: ConffileDecision
    lines: tuple[tuple[str, str], ...]


def render_html(shown: View, run_dir: Path) -> str:
    """The whole page."""
    style = (TEMPLATES / "style.css").read_text("utf-8")
    return (
        environment()
        .get_template("page.html")
        .render(
            **parts(shown, run_dir),
            style=Markup(style),  # noqa: S704 - our own file
            style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        )
    )


def parts(shown: View, run_dir: Path) -> dict[str, Any]:
    """What the templates of a report's parts are filled with, on whatever page they are."""
    record = shown.record
    upgrade = record.facts.upgrade
    return {
        "shown": shown,
        "record": record,
        "facts": record.facts,
        "source": record.source,
        "differences": shown.differences,
        "changes": shown.changes,
        "tally": tally(shown.changes),
        "icon": ICONS.get(shown.verdict, "…"),
        "sentence": shown.headline.removeprefix(shown.answer).lstrip(", "),
        "diffs": [_diff(file) for file in (upgrade.conffiles if upgrade else ())[:50]],
        "screens": _screens(record, run_dir),
        "timeline": Markup(timeline_svg(record)),  # noqa: S704 - serialised from a tree
        "memory": _memory(shown),
    }


def _memory(shown: View) -> dict[str, str]:
    """What was known of checks when the run began, by their names."""
    past = {kept_name(name): one for name, one in shown.record.facts.past.items()}
    known = {change.name: past.get(kept_name(change.name)) for change in shown.checks}
    return {
        name: f"before this run it held {Rate(one.held, one.asked)} where nothing was upgraded"
        for name, one in known.items()
        if one is not None
    }


@cache
def environment(*more: Path) -> Environment:
    """Jinja with our filters and templates; those of ``more`` folders come before them."""
    made = Environment(
        loader=FileSystemLoader([*more, TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "duration": duration,
        "instant": instant,
        "size": size,
        "line": one_line,
        "rows": _rows,
        "cap": _cap,
    }
    made.globals |= {"row_limit": ROWS, "change_limit": SHOWN, "forecasts_title": FORECASTS}
    return made


def _rows(items: Sequence[_Item]) -> Sequence[_Item]:
    """As many as a page can take; the template tells how many more there are."""
    return items[:ROWS]


def _cap(text: str) -> str:
    return text if len(text) <= DETAIL else text[: DETAIL - 1] + "…"


def _diff(file: ConffileDecision) -> Diff:
    lines = file.diff.rstrip("\n").split("\n")
    shown = tuple((_diff_kind(line), _cut(line)) for line in lines[:DIFF_LINES])
    if len(lines) > DIFF_LINES:
        shown = (*shown, ("hunk", f"… {len(lines) - DIFF_LINES} more lines"))
    return Diff(file, shown)


def _diff_kind(line: str) -> str:
    if line.startswith(("+++", "---")):
        return "file"
    return {"+": "add", "-": "del", "@": "hunk"}.get(line[:1], "same")


def _cut(line: str) -> str:
    return line if len(line) <= 500 else line[:499] + "…"


def _screens(record: RunRecord, run_dir: Path) -> list[Screen]:
    screens: list[Screen] = []
    for artifact in record.artifacts:
        if artifact.name.lower().endswith(".png") and len(screens) < SCREENS:
            data = read_artifact(run_dir, artifact.name, SCREEN_BYTES)
            extent = _extent(data) if data else None
            if data and extent:
                uri = "data:image/png;base64," + base64.b64encode(data).decode()
                screens.append(Screen(one_line(artifact.title), uri, *extent))
    return screens


def _extent(data: bytes) -> tuple[int, int] | None:
    """Width and height of a sound PNG; nothing else is ever embedded."""
    try:
        with Image.open(BytesIO(data), formats=("PNG",)) as image:
            image.verify()
            return image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
