"""Pages: a cursor is the place of a page's last item: what comes meanwhile moves nothing."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from workers.web.api.problems import ProblemResponse

Row = TypeVar("Row")
Key = tuple[Any, ...]


def cursor_of(*place: float | str) -> str:
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode().rstrip("=")


def place_of(cursor: str | None, *kinds: type) -> Key | None:
    """What :func:`cursor_of` was given; raises :class:`ProblemResponse` for a forged cursor."""
    if cursor is None:
        return None
    try:
        place = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, RecursionError):
        place = None
    fits = isinstance(place, list) and len(place) == len(kinds)
    if not fits or not all(type(one) is kind for one, kind in zip(place, kinds, strict=True)):
        raise _none_of_ours()
    if any(isinstance(one, str) and not one.isprintable() for one in place):
        raise _none_of_ours()
    return tuple(place)


def _none_of_ours() -> ProblemResponse:
    return ProblemResponse(
        422, "the cursor is none of this service's", "take `next` of the page before"
    )


def cut(
    rows: Sequence[Row], limit: int, place: Callable[[Row], str]
) -> tuple[Sequence[Row], str | None]:
    """(the page; where the next begins) of rows of which one too many was asked for."""
    page = rows[:limit]
    return page, place(page[-1]) if len(rows) > limit else None
