"""Short phrases about packages and checks, the same in the verdict and in every report. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from sandbox.core.records import CheckResult, Destination, PackageChange

LINE_LIMIT = 240
_NAMES_SHOWN = 5
_SHORTEST_NAME = 3  # shorter package names are also ordinary words


def since(changes: Sequence[PackageChange], result: CheckResult) -> str:
    """When a check broke: "after nginx 1.22 -> 1.24 and 3 others".

    Names the only change, or the package that the check's name or message speaks of. That is
    a statement of time, not of guilt.
    """
    if not changes:
        return "after the upgrade"
    named = [c for c in changes if len(changes) == 1 or mentions(result.name, c.name)]
    named = named or [c for c in changes if mentions(result.message, c.name)]
    if not named:
        return f"after {len(changes)} packages changed"
    others = len(changes) - 1
    return f"after {say(named[0])}" + (f" and {count(others, 'other')}" if others else "")


def mentions(text: str, name: str) -> bool:
    """Whether a package's name stands in ``text`` as a word of its own; as that of a module in
    Python, too, which has "_" for "-"."""
    if len(name) < _SHORTEST_NAME:
        return False
    name, text = (words.lower().replace("_", "-") for words in (name, text))
    return bool(re.search(rf"(?<![a-z0-9]){re.escape(name)}(?![a-z0-9])", text))


def say(change: PackageChange) -> str:
    """One package change in words."""
    if change.old is None:
        return f"{change.name} {change.new} (new)"
    if change.new is None:
        return f"{change.name} {change.old} (removed)"
    return f"{change.name} {change.old} -> {change.new}"


def reached(where: Destination) -> str:
    """ "tcp 192.0.2.7:443", "name api.example"."""
    address = f"[{where.address}]" if where.port and ":" in where.address else where.address
    return f"{where.kind} {address}" + (f":{where.port}" if where.port else "")


def because(result: CheckResult) -> str:
    """The check's message as the end of a sentence."""
    return f": {result.message}" if result.message else ""


def short(name: str) -> str:
    """A check's name without its file."""
    test, bracket, parameters = name.partition("[")  # which may hold "::" of their own
    return test.rpartition("::")[2] + bracket + parameters


def count(number: int, noun: str) -> str:
    """ "1 package", "7 packages"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def some(names: Iterable[str]) -> str:
    """The first names of a list, and how many more there are."""
    listed = list(names)
    more = len(listed) - _NAMES_SHOWN
    return ", ".join(listed[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def line(text: str, limit: int = LINE_LIMIT) -> str:
    """``text`` as one line of at most ``limit`` characters."""
    joined = " ".join(text.split())
    return joined if len(joined) <= limit else joined[: limit - 1] + "…"


def duration(seconds: float) -> str:
    """Seconds for people: "0.3 s", "42 s", "6 min 12 s", "1 h 02 min"."""
    if seconds < 10:
        return f"{max(0.0, seconds):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size(amount: int, *, signed: bool = False) -> str:
    """Bytes for people, in powers of 1024; ``signed`` puts a plus before growth."""
    sign = "-" if amount < 0 else "+" if signed and amount > 0 else ""
    value = float(abs(amount))
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{sign}{value:.0f} {unit}" if unit == "B" else f"{sign}{value:.1f} {unit}"
        value /= 1024
    return f"{sign}{value:.1f} TiB"
