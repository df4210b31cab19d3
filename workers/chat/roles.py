"""Who may do what: pure. A user may do nothing unless a role permits it."""

from __future__ import annotations

from fnmatch import fnmatchcase

from sandbox.core.config.scalars import nearest
from sandbox.core.errors import RequestError
from workers.chat.values import Channel, Role

EVERYBODY = "*"
READ, SUBMIT, CANCEL = RIGHTS = ("read", "submit", "cancel")
_HINT = "chat.yaml says who may what; its owner can change it"


class NotAllowed(RequestError):
    """No role lets this user do that."""


def roles_of(channel: Channel, user: str) -> tuple[Role, ...]:
    return tuple(one for one in channel.roles if EVERYBODY in one.users or user in one.users)


def require(channel: Channel, user: str, right: str, guest: str = "", scenario: str = "") -> None:
    """Raises :class:`NotAllowed`; an empty guest or scenario is any."""
    mine = [one for one in roles_of(channel, user) if right in one.may]
    if not mine:
        raise NotAllowed(f"{user or 'an unknown user'} may not {right} here", _HINT)
    with_guest = [one for one in mine if not guest or _fits(guest, one.guests)]
    if not with_guest:
        named = [name for one in mine for name in one.guests]
        raise NotAllowed(f"{user} may not {right} {guest!r}", _meant(guest, named))
    if scenario and not any(_fits(scenario, one.scenarios) for one in with_guest):
        named = [name for one in with_guest for name in one.scenarios]
        raise NotAllowed(
            f"{user} may not {right} the scenario {scenario!r}", _meant(scenario, named)
        )


def may(channel: Channel, user: str, right: str, guest: str, scenario: str) -> bool:
    return any(
        right in one.may and _fits(guest, one.guests) and _fits(scenario, one.scenarios)
        for one in roles_of(channel, user)
    )


def _fits(word: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(word, pattern) for pattern in patterns)


def _meant(word: str, named: list[str]) -> str:
    near = nearest(word, named)
    return f"did you mean {near!r}?" if near else f"there are: {', '.join(dict.fromkeys(named))}"
