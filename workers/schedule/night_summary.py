"""What a night says in the morning: facts to text, for a terminal, mail and chat. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any
from zoneinfo import ZoneInfo

from sandbox.core.clean_text import one_line
from sandbox.core.records import Verdict
from workers.schedule.due_times import night_id

MOST_LINES = 40  # of one paragraph: a chat takes no more
LATE = 900.0  # seconds after its due time from which on a night was begun late
NO_ANSWER = "no answer"


class NightAnswer(Enum):
    """What a guest's night says about its upgrade."""

    YES = "may be upgraded"
    NO = "may not be upgraded"
    NONE = "gave no answer"
    WAITS = "not done yet"


@dataclass(frozen=True)
class GuestNight:
    """A guest in a night."""

    host: str
    guest: str
    run_id: str | None
    state: str  # of the run; "" without one
    verdict: Verdict | None
    reason: str
    before: str | None  # its verdict the night before, or NO_ANSWER; None: there was no such night

    @property
    def word(self) -> str:
        return self.verdict.value if self.verdict else NO_ANSWER

    @property
    def is_new(self) -> bool:
        return self.before is not None and self.before != self.word


@dataclass(frozen=True)
class Night:
    """A night with its guests, as the database has it."""

    schedule: str
    due: float
    zone: str
    outcome: str  # "run" | "missed"
    noticed: float
    guests: tuple[GuestNight, ...]
    missed: tuple[float, ...] = ()  # due times before this one that were not run
    closed: bool = True  # who has not ended is not waited for any more

    @property
    def id(self) -> str:
        return night_id(self.schedule, self.due)

    def answer(self, guest: GuestNight) -> NightAnswer:
        match guest.verdict:
            case Verdict.PASS:
                return NightAnswer.YES
            case Verdict.FAIL | Verdict.INCONCLUSIVE:
                return NightAnswer.NO
        waits = guest.state in ("queued", "running", "cancelling") and not self.closed
        return NightAnswer.WAITS if waits else NightAnswer.NONE

    def those(self, answer: NightAnswer) -> list[GuestNight]:
        return [guest for guest in self.guests if self.answer(guest) is answer]


def headline(night: Night) -> str:
    """One line: the subject of a mail."""
    if night.outcome == "missed":
        return f"missed: nothing was rehearsed ({night.schedule}, {_when(night)})"
    good, waiting = len(night.those(NightAnswer.YES)), len(night.those(NightAnswer.WAITS))
    guests = "guest" if len(night.guests) == 1 else "guests"
    rest = f", {waiting} not done yet" if waiting else ""
    which = f"({night.schedule}, {_when(night)})"
    return f"{good} of {len(night.guests)} {guests} may be upgraded{rest} {which}"


def text(night: Night) -> str:
    """All of it; the first line is the headline."""
    paragraphs = [
        [headline(night), *_remarks(night)],
        _paragraph("May not be upgraded", map(_why, night.those(NightAnswer.NO))),
        _paragraph("New since the night before", _changes(night)),
        _paragraph("Gave no answer", map(_why, night.those(NightAnswer.NONE))),
        _paragraph("Not done yet", map(_why, night.those(NightAnswer.WAITS))),
        _paragraph("May be upgraded", map(_name, night.those(NightAnswer.YES))),
    ]
    return "\n\n".join("\n".join(lines) for lines in paragraphs if lines) + "\n"


def fleet_headline(fleet: Sequence[Night]) -> str:
    """One line about the nights of several schedules. A guest of two needs a yes from both."""
    newest = {night.schedule: night for night in sorted(fleet, key=lambda night: night.due)}
    if len(newest) == 1:
        return headline(*newest.values())
    answers: dict[tuple[str, str], list[NightAnswer]] = {}
    for night in newest.values():
        for guest in night.guests:
            answers.setdefault((guest.host, guest.guest), []).append(night.answer(guest))
    good = sum(all(one is NightAnswer.YES for one in said) for said in answers.values())
    missed = sum(night.outcome == "missed" for night in newest.values())
    rest = f", {missed} missed" if missed else ""
    guests = "guest" if len(answers) == 1 else "guests"
    return f"{good} of {len(answers)} {guests} may be upgraded ({len(newest)} schedules{rest})"


def fleet_text(fleet: Sequence[Night]) -> str:
    """All of it; the first line is the headline."""
    if len(fleet) == 1:
        return text(fleet[0])
    return "\n\n".join([fleet_headline(fleet), *(text(night).rstrip() for night in fleet)]) + "\n"


def as_json(night: Night) -> dict[str, Any]:
    """The same for programs."""
    guests = [
        asdict(guest) | {"answer": night.answer(guest).value, "new": guest.is_new}
        for guest in night.guests
    ]
    counts = {answer.value: len(night.those(answer)) for answer in NightAnswer}
    said = {"night": night.id, "headline": headline(night), "counts": counts}
    return asdict(night) | said | {"guests": guests}


def _remarks(night: Night) -> list[str]:
    remarks = []
    if night.outcome == "missed":
        remarks.append("The service was down at that time. `sandbox submit` rehearses now.")
    elif night.noticed - night.due > LATE:
        remarks.append(f"Begun late, at {_clock(night.noticed, night.zone)}.")
    if night.missed:
        dues = [_clock(due, night.zone) for due in night.missed[-5:]]
        more = "…, " if len(night.missed) > len(dues) else ""
        remarks.append(f"Not run before it ({len(night.missed)}): {more}{', '.join(dues)}")
    if night.outcome == "run" and not night.guests:
        remarks.append("The schedule names no guests.")
    return remarks


def _changes(night: Night) -> list[str]:
    """What was otherwise the night before; what became worse first."""
    if not any(guest.before is not None for guest in night.guests):
        return ["nothing to compare with: this is the first night"] if night.guests else []
    changed = [guest for guest in night.guests if guest.is_new and _is_final(night, guest)]
    changed.sort(key=lambda guest: guest.verdict is Verdict.PASS)
    lines = [f"{_name(guest)}: {guest.before} → {guest.word}" for guest in changed]
    first = [guest for guest in night.guests if guest.before is None]
    lines += [f"{_name(guest)}: for the first time, {guest.word}" for guest in first]
    return lines or ["nothing"]


def _is_final(night: Night, guest: GuestNight) -> bool:
    return night.answer(guest) is not NightAnswer.WAITS


def _why(guest: GuestNight) -> str:
    word = guest.verdict.value if guest.verdict else guest.state or "not queued"
    reason = one_line(guest.reason)
    return f"{_name(guest)}: {word}{f': {reason}' if reason else ''}"


def _name(guest: GuestNight) -> str:
    name = one_line(guest.guest, 64)
    return f"{name} on {guest.host}" if guest.host else name


def _paragraph(title: str, lines: Iterable[str]) -> list[str]:
    listed: Sequence[str] = list(lines)
    if not listed:
        return []
    shown = [f"  {line}" for line in listed[:MOST_LINES]]
    if len(listed) > MOST_LINES:
        shown.append(
            f"  and {len(listed) - MOST_LINES} more: `sandbox summary --json` has them all"
        )
    return [f"{title}:", *shown]


def _when(night: Night) -> str:
    return f"{_clock(night.due, night.zone)} {night.zone}"


def _clock(moment: float, zone: str) -> str:
    local = datetime.fromtimestamp(moment, UTC if zone == "UTC" else ZoneInfo(zone))
    return f"{local:%Y-%m-%d %H:%M}"
