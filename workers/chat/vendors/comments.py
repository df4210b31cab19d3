"""What comments on pull and merge requests have in common, whichever forge they are on."""

from __future__ import annotations

import re

from workers.chat.markup import shown
from workers.chat.signatures import WINDOW
from workers.chat.values import Channel, Refused, Telling
from workers.chat.wording import Verb
from workers.notifications.delivery import inert

# Deliveries are remembered for longer than that: no comment is obeyed twice, whenever it comes.
OLDEST = 3 * 86400.0  # seconds; GitHub lets a delivery be repeated for as long
_COMMAND = re.compile(r"/rehearse(?:[ \t]+([^\r\n]*))?(?:[\r\n]|$)")


def words_of(text: str) -> str | None:
    """The command in a comment that begins with one; None for all others."""
    found = _COMMAND.match(text)
    if found is None:
        return None
    words = (found[1] or "").strip()
    first = words.partition(" ")[0].lower()
    if not words or first in (Verb.STATUS, Verb.WHY, Verb.CANCEL, Verb.HELP):
        return words
    return f"{Verb.TEST} {words}"


def known_repository(channel: Channel, path: str) -> str:
    if path.lower() not in channel.repositories:
        raise Refused("the repository is none of the channel's", "name it in its repositories")
    return path


def must_be_young(made: float, now: float) -> None:
    if not -WINDOW <= now - made <= OLDEST:
        raise Refused("the comment is not of the last days", "write it once more")


def context_of(telling: Telling) -> str:
    """A status' name: one for each guest and scenario, so that a branch can need just that."""
    return f"sandbox/{telling.guest}/{telling.scenario}"


def short(telling: Telling, most: int) -> str:
    said = inert(shown(": ".join(filter(None, (telling.word, telling.why)))))
    return said if len(said) <= most else f"{said[: most - 1]}…"
