"""What the address of a page says is to be shown. Forms send fields that were left empty, too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from workers.web.api.problems import ProblemResponse

_LONGEST = 255
_MOST_PAGES = 10_000


def words(given: Mapping[str, str], name: str) -> str | None:
    """A text to look for; None for none."""
    text = given.get(name, "").strip()
    if len(text) > _LONGEST or "\0" in text:
        raise ProblemResponse(422, f"{name}: that is no name of anything", "look for another")
    return text or None


def choice(given: Mapping[str, str], name: str, there_are: Sequence[str]) -> str:
    """One of several, or "" for all."""
    text = given.get(name, "")
    if text and text not in there_are:
        raise ProblemResponse(
            422, f"{name}: there is no {text!r}", f"there are: {', '.join(there_are)}"
        )
    return text


def number(given: Mapping[str, str], name: str) -> int:
    """The number of a page, the first being 1."""
    text = given.get(name) or "1"
    if not (text.isascii() and text.isdigit() and 0 < int(text[:9]) <= _MOST_PAGES):
        raise ProblemResponse(
            422, f"{name}: {text[:40]!r} is no number of a page", "the first is 1"
        )
    return int(text)
