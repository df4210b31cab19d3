"""Values of strict files that several of them have: names, sizes, durations. Pure.

Every parser takes what the YAML held, returns the typed value and raises :class:`ValueError`
with a text for people; where the value stands is added by the caller.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from sandbox.core.errors import RequestError

SIZE = r"([0-9]{1,9})(KiB|MiB|GiB|TiB)"
DURATION = r"(?=.)(?:([0-9]{1,7})d)?(?:([0-9]{1,7})h)?(?:([0-9]{1,7})m)?(?:([0-9]{1,7})s)?"
GUEST_NAME_LENGTH = 64
_GUEST_NAME_SIGNS = " ._-+:@()#"
_UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_SMALLEST, _LARGEST = 64 << 20, 16 << 40
_LONGEST = 7 * 86400


def shown(value: object) -> str:
    """A value in a message: escaped and short."""
    words = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return words if len(words) <= 70 else f"{words[:69]}…"


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1)), None)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``"; did you mean 'packages'?"``, or the whole list when nothing is near."""
    words = list(known)
    best = nearest(word, words)
    if best is not None:
        return f"; did you mean {best!r}?"
    return f"; known: {', '.join(words)}" if words else ""


def text(value: object) -> str:
    """Text on one line, not empty; what all the other parsers begin with."""
    if not isinstance(value, str):
        raise ValueError(f"must be text, not {shown(value)}: put it in quotes")
    if not value.strip():
        raise ValueError("must not be empty")
    if not value.isprintable():
        raise ValueError(f"{shown(value)} holds control characters or line breaks")
    return value


def valid_guest_name(name: str) -> str:
    """``name``, when a libvirt guest can have it; raises :class:`RequestError` with the rule."""
    try:
        return guest_name(name)
    except ValueError as problem:
        raise RequestError(
            f"guest name {problem}", "`virsh list --all` shows the names of the guests"
        ) from problem


_HOST_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def host_name(value: object) -> str:
    """A name of the inventory."""
    name = text(value)
    if not _HOST_NAME.fullmatch(name):
        raise ValueError(f"{shown(name)}: letters, digits and ._- are allowed, 63 at most")
    return name


def guest_name(value: object) -> str:
    name = text(value)
    if len(name) > GUEST_NAME_LENGTH:
        raise ValueError(f"{shown(name)} is longer than {GUEST_NAME_LENGTH} characters")
    if name[0] in "-." or name != name.strip():
        raise ValueError(f"{shown(name)} must not begin with '-', '.' or a blank, or end in one")
    odd = next((c for c in name if not (c.isalnum() or c in _GUEST_NAME_SIGNS)), None)
    if odd is not None:
        raise ValueError(
            f"{shown(name)} holds {odd!r}: letters, digits, blanks and ._-+:@()# are allowed"
        )
    return name


def size(value: object) -> int:
    """Bytes of ``1GiB`` (KiB, MiB, GiB, TiB) or of a whole number of bytes."""
    count = value if isinstance(value, int) and not isinstance(value, bool) else None
    if isinstance(value, str) and (match := re.fullmatch(SIZE, value)):
        count = int(match[1]) * _UNITS[match[2]]
    if count is None:
        raise ValueError(f"{shown(value)} is not a size like 512MiB or 2GiB")
    if not _SMALLEST <= count <= _LARGEST:
        raise ValueError(f"{shown(value)} must be between 64MiB and 16TiB")
    return count


def duration(value: object) -> int:
    """Seconds of ``10m``, ``1h30m`` (d, h, m, s) or of a whole number of seconds."""
    seconds = value if isinstance(value, int) and not isinstance(value, bool) else None
    if isinstance(value, str) and (match := re.fullmatch(DURATION, value)):
        days, hours, minutes, rest = (int(part or 0) for part in match.groups())
        seconds = ((days * 24 + hours) * 60 + minutes) * 60 + rest
    if seconds is None:
        raise ValueError(f"{shown(value)} is not a time like 300 (seconds), 10m or 1h30m")
    if not 1 <= seconds <= _LONGEST:
        raise ValueError(f"{shown(value)} must be between 1s and 7d")
    return seconds


def pause(value: object) -> int:
    """The same, or 0 for no time at all."""
    is_none = isinstance(value, int) and not isinstance(value, bool) and value == 0
    return 0 if is_none or value == "0s" else duration(value)
