"""What the commands do: thin over the service's own. Everything is checked against roles first."""

from __future__ import annotations

from dataclasses import dataclass

from sandbox.core.config.scalars import shown
from sandbox.scenario.request import Request
from workers.chat import roles, run_messages
from workers.chat.roles import CANCEL, READ, SUBMIT
from workers.chat.values import Channel, ChatRequest, Line, Lines, Span
from workers.chat.wording import Command, NotUnderstood, Verb
from workers.database import Database
from workers.database.states import RunState
from workers.queue import intake, reading, submission
from workers.queue.overview import named_scenario
from workers.queue.values import NoSuchRun, Order, RunRow, Submitted
from workers.settings import ServiceSettings

FEW = 5  # runs of an answer
_LOOKED_AT = 200  # of which those that may be seen are shown


@dataclass(frozen=True)
class ChatCommand:
    """Whose command it is, and where."""

    database: Database
    settings: ServiceSettings
    channel: Channel
    heard: ChatRequest
    link: str

    @property
    def user(self) -> str:
        return self.heard.user

    @property
    def origin(self) -> str:
        return f"chat {self.channel.name}: {self.user}"


def order(asked: ChatCommand, command: Command) -> Order:
    """The run that is to be queued; raises :class:`RequestError` for one that is not."""
    channel = asked.channel
    name = command.scenario or channel.scenario
    roles.require(channel, asked.user, SUBMIT, command.guest, name)
    wish = Request(
        named_scenario(asked.settings, name),
        guest=command.guest,
        user=channel.user,
        key=channel.key,
        host=channel.host,
    )
    priority = "gate" if asked.heard.urgent else "normal"
    return intake.order(asked.database, asked.settings, wish, priority, origin=asked.origin)


def queued(wanted: Order, told: Submitted) -> Lines:
    first: Line = (
        Span("🕒 joined a run that is open: " if told.joined else "🕒 queued: "),
        Span(wanted.scenario, "code"),
        Span(" of "),
        Span(wanted.guest, "code"),
        Span(" on "),
        Span(wanted.host, "code"),
    )
    return (first, (Span("run "), Span(told.run_id, "code"), Span(": a message says how it goes")))


def look(asked: ChatCommand, command: Command) -> Lines:
    """All but the command that queues a run."""
    match command.verb:
        case Verb.STATUS:
            return _status(asked, command.guest)
        case Verb.WHY:
            return _why(asked, command)
        case Verb.CANCEL:
            return _cancel(asked, command.run)
    mine = roles.roles_of(asked.channel, asked.user)
    rights = [right for right in roles.RIGHTS if any(right in one.may for one in mine)]
    return run_messages.help_of(asked.channel.scenario, rights)


def _status(asked: ChatCommand, guest: str) -> Lines:
    roles.require(asked.channel, asked.user, READ, guest)
    rows = reading.recent(asked.database, _LOOKED_AT, guest=guest or None)
    return run_messages.in_short([row for row in rows if _may(asked, READ, row)][:FEW])


def _why(asked: ChatCommand, command: Command) -> Lines:
    if command.run:
        row = _run(asked, READ, command.run)
        return run_messages.of_run(row, asked.link).lines
    roles.require(asked.channel, asked.user, READ, command.guest)
    rows = reading.recent(
        asked.database, _LOOKED_AT, states=(RunState.FINISHED,), guest=command.guest
    )
    row_or_none = next((row for row in rows if _may(asked, READ, row)), None)
    if row_or_none is None:
        return ((Span(command.guest, "code"), Span(" has no verdict yet")),)
    return run_messages.of_run(row_or_none, asked.link).lines


def _cancel(asked: ChatCommand, text: str) -> Lines:
    row = _run(asked, CANCEL, text)
    state = submission.cancel(asked.database, row.id, asked.origin)
    done = "cancelled" if state is RunState.CANCELLED else "its worker removes the clone"
    return ((Span("🚫 run "), Span(row.id, "code"), Span(f": {done}")),)


def _run(asked: ChatCommand, right: str, text: str) -> RunRow:
    """One that the user may see: of the others it is not even said that they are there."""
    roles.require(asked.channel, asked.user, right)
    for row in _named(asked.database, text):
        if _may(asked, right, row):
            return row
    raise NotUnderstood(
        f"there is no run {shown(text)} of a guest that you may {right}", "try status"
    )


def _named(database: Database, text: str) -> tuple[RunRow, ...]:
    if text == "latest":
        return reading.recent(database, _LOOKED_AT)
    try:
        return (reading.find(database, text),)
    except NoSuchRun:
        return ()


def _may(asked: ChatCommand, right: str, row: RunRow) -> bool:
    return roles.may(asked.channel, asked.user, right, row.guest, row.scenario)
