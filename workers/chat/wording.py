"""What people write, understood: pure, and the same words for every vendor."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from enum import StrEnum

from sandbox.core.clean_text import one_line
from sandbox.core.config.scalars import guest_name, nearest, shown
from sandbox.core.errors import RequestError

LONGEST = 400  # characters of a command
RUN_ID = re.compile(r"(?:[0-9]{8}-[0-9]{6}-)?[0-9a-f]{8}|latest")
SCENARIO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_QUOTES = str.maketrans({"“": '"', "”": '"', "„": '"', "‘": "'", "’": "'"})  # phones write these


class Verb(StrEnum):
    TEST = "upgrade-test"
    STATUS = "status"
    WHY = "why"
    CANCEL = "cancel"
    HELP = "help"


USAGE = {
    Verb.TEST: "upgrade-test GUEST [SCENARIO]",
    Verb.STATUS: "status [GUEST]",
    Verb.WHY: "why RUN or GUEST",
    Verb.CANCEL: "cancel RUN",
    Verb.HELP: "help",
}
MEANING = {
    Verb.TEST: "rehearse an upgrade on a clone of the guest",
    Verb.STATUS: "the newest runs",
    Verb.WHY: "the verdict and its reason",
    Verb.CANCEL: "take a run back",
    Verb.HELP: "these lines",
}
_WORDS = {  # how many may follow
    Verb.TEST: (1, 2),
    Verb.STATUS: (0, 1),
    Verb.WHY: (1, 1),
    Verb.CANCEL: (1, 1),
    Verb.HELP: (0, 0),
}


class NotUnderstood(RequestError):
    """No command; the message says what is wrong with it, the hint what was probably meant."""


@dataclass(frozen=True)
class Command:
    """``run`` may be a part of an id; of ``why`` one of ``guest`` and ``run`` is given."""

    verb: Verb
    guest: str = ""
    scenario: str = ""
    run: str = ""


def understand(text: str) -> Command:
    """The command in a text; raises :class:`NotUnderstood`."""
    words = _split(text)
    if not words:
        return Command(Verb.HELP)
    verb = _verb(words[0])
    least, most = _WORDS[verb]
    rest = words[1:]
    if not least <= len(rest) <= most:
        wrong = "more is needed" if len(rest) < least else f"{shown(rest[most])} is too much"
        raise NotUnderstood(f"{verb}: {wrong}", f"{USAGE[verb]}; quote a name that has blanks")
    match verb:
        case Verb.TEST:
            return Command(verb, _guest(rest[0]), _scenario(rest[1]) if rest[1:] else "")
        case Verb.STATUS:
            return Command(verb, _guest(rest[0]) if rest else "")
        case Verb.CANCEL:
            return Command(verb, run=_run(rest[0]))
        case Verb.WHY if RUN_ID.fullmatch(rest[0]):
            return Command(verb, run=rest[0])
        case Verb.WHY:
            return Command(verb, _guest(rest[0]))
    return Command(verb)


def _split(text: str) -> list[str]:
    if len(text) > LONGEST:
        raise NotUnderstood(
            f"that has {len(text)} characters", f"a command has {LONGEST} at most; try help"
        )
    plain = one_line(text, LONGEST).translate(_QUOTES)
    try:
        return shlex.split(plain)
    except ValueError:
        raise NotUnderstood(
            "a quote is not closed, or a \\ stands at the end", "try help"
        ) from None


def _verb(word: str) -> Verb:
    said = word.lower()
    if said in list(Verb):
        return Verb(said)
    near = nearest(said, list(Verb))
    known = ", ".join(Verb)
    hint = f"did you mean {str(near)!r}?" if near else f"there are: {known}"
    raise NotUnderstood(f"there is no command {shown(word)}", hint)


def _guest(word: str) -> str:
    try:
        return guest_name(word)
    except ValueError as problem:
        raise NotUnderstood(f"no name of a guest: {problem}", "as libvirt has it: web01") from None


def _scenario(word: str) -> str:
    if not SCENARIO.fullmatch(word):
        raise NotUnderstood(f"{shown(word)} is no name of a scenario", "security, for example")
    return word


def _run(word: str) -> str:
    if not RUN_ID.fullmatch(word):
        raise NotUnderstood(
            f"{shown(word)} is no run's id",
            "as 20261125-013000-1a2b3c4d, its last eight characters, or latest; try status",
        )
    return word
