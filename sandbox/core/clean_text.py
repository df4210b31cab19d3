"""Guest output is hostile: what it says is shown, what it does to a terminal or a page is not.

Every report is rendered from a record that went through :func:`clean`, so that no format
can forget it. Escaping for HTML, Markdown and XML comes on top, in the format's own module.
"""

from __future__ import annotations

import re
from typing import Any, TypeVar

from sandbox.core.records import Record

_Record = TypeVar("_Record", bound=Record)

FIELD_LIMIT = 20_000  # characters of one text in a report; whole logs are artifacts
LINE_LIMIT = 400

# Terminal sequences go whole, so that their parameters do not stay as litter. One that does not
# end within its line loses only its introducer: a guest must not swallow the rest of a log.
# In order: CSI (colours, cursor), OSC and DCS with what they carry, the other escapes.
_SEQUENCES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]{0,64}[ -/]{0,8}[@-~]"
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c\n]{0,2048}(?:\x07|\x1b\\|\x9c)"
    r"|\x1b[ -/]{0,8}[0-Z\\^-~]"
)
_BREAKS = re.compile(r"\r\n?|[\x0b\x0c\x85\u2028\u2029]")
# Controls, bidi overrides and isolates, zero-width and tag characters, what XML forbids.
_HIDDEN = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f"
    "\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\ufffe\uffff"
    "\ud800-\udfff\U000e0000-\U000e0fff]"
)
_PILED_MARKS = re.compile(
    "([\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u20d0-\u20ff]{3})"
    "[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u20d0-\u20ff]+"
)


def sanitise(text: str, limit: int = FIELD_LIMIT) -> str:
    """``text`` without anything that acts on a terminal or hides from a reader.

    Line feeds and tabs stay, other line breaks become line feeds. What is longer than ``limit``
    characters is cut, and the cut is told. Idempotent for texts within the limit.
    """
    # Bounded before the work: a text of gigabytes must not cost a scan of gigabytes.
    visible = _SEQUENCES.sub("", text[: 4 * limit + 4096])
    visible = _HIDDEN.sub("", _BREAKS.sub("\n", visible))
    visible = _PILED_MARKS.sub(r"\1", visible)
    if len(visible) <= limit and len(text) <= 4 * limit + 4096:
        return visible
    return f"{visible[:limit]}… (cut: {len(text)} characters in all)"


def one_line(text: str, limit: int = LINE_LIMIT) -> str:
    """``text`` on one line of at most ``limit`` characters."""
    line = " ".join(sanitise(text, 4 * limit).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def tail_lines(text: str, lines: int, limit: int = LINE_LIMIT) -> tuple[str, ...]:
    """The last ``lines`` lines that hold something, each cut to ``limit`` characters."""
    visible = sanitise(text, max(len(text), 1)).split("\n")
    kept = [line.rstrip().expandtabs() for line in visible if line.strip()]
    return tuple(line if len(line) <= limit else line[: limit - 1] + "…" for line in kept[-lines:])


def clean(record: _Record) -> _Record:
    """The same record with every text in it sanitised, keys of mappings included."""
    return type(record).model_validate(_clean(record.model_dump(mode="python")))


def _clean(value: Any) -> Any:
    # StrEnum members are str too: they are ours and must stay what they are.
    if type(value) is str:
        return sanitise(value)
    if isinstance(value, dict):
        return {_clean(key): _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_clean(item) for item in value)
    return value
