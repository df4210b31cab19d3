"""A request from outside: whose it is, whether it was heard before, and what comes of it.

The answer is there at once: what takes time, and every message, is the senders'.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from sandbox.core.errors import HostError, RequestError
from workers.chat import handle, outbox, roles, run_messages
from workers.chat.handle import ChatCommand
from workers.chat.values import Channel, Chat, ChatReply, ChatRequest, Lines, TooMany
from workers.chat.vendors.registry import KINDS
from workers.chat.wording import Verb, understand
from workers.database import Database
from workers.queue.submission import submit_in
from workers.settings import ServiceSettings

_TRIES = 5
log = structlog.get_logger("sandbox.chat")


class NoChannel(RequestError):
    """chat.yaml has none of that name."""


@dataclass(frozen=True)
class Ear:
    """What all requests share. ``said`` and ``wake`` hear of channels that have something to send,
    and of hosts that have a run to begin; ``limit`` counts a channel's request, and says for how
    many seconds there may be none."""

    settings: ServiceSettings
    database: Database
    chat: Chat
    said: Callable[[str], None] = lambda _channel: None
    wake: Callable[[str], None] = lambda _host: None
    limit: Callable[[str], int] = lambda _channel: 0

    def channel(self, name: str) -> Channel:
        for one in self.chat.channels:
            if one.name == name:
                return one
        raise NoChannel(f"there is no channel {name[:40]!r}", "chat.yaml names those there are")

    def hear(self, channel: Channel, headers: Mapping[str, str], body: bytes) -> ChatReply:
        """Raises :class:`Refused`, :class:`NotHeard` and :class:`TooMany`; what a user did wrong
        is an answer."""
        kind = KINDS[channel.kind]
        heard = kind.hear(channel, headers, body, time.time())
        if isinstance(heard, ChatReply):
            return heard
        if not heard.strangers and not roles.roles_of(channel, heard.user):
            log.info("a stranger's wish", channel=channel.name, user=heard.user)
            return ChatReply()
        seconds = self.limit(channel.name)  # not earlier: strangers must not use it up
        if seconds:
            raise TooMany(seconds)
        try:
            lines, host = self._once(channel, heard)
        except HostError as problem:
            if not heard.seen:
                raise  # the vendor shows that, and may deliver it again
            log.warning("not done", channel=channel.name, user=heard.user, why=problem.message)
            sorry = HostError("the service cannot do that now; nothing was done", "try again later")
            return kind.say(run_messages.of_problem(sorry))
        if host:
            self.wake(host)
        if host or not heard.seen:
            self.said(channel.name)
        return kind.say(lines)

    def _once(self, channel: Channel, heard: ChatRequest) -> tuple[Lines, str | None]:
        """What is delivered twice is answered twice, and done once."""
        asked = ChatCommand(self.database, self.settings, channel, heard, self.chat.link)
        for _attempt in range(_TRIES):
            with self.database.read() as connection:
                before = outbox.answered(connection, channel.name, heard.delivery)
            if before is not None:
                log.info("heard before", channel=channel.name, user=heard.user)
                return before, None
            try:
                return self._obey(asked)
            except IntegrityError:  # the same came in between: the next look finds it
                continue
        raise outbox.Unwritten

    def _obey(self, asked: ChatCommand) -> tuple[Lines, str | None]:
        try:
            command = understand(asked.heard.text)
            if command.verb is Verb.TEST:
                wanted = handle.order(asked, command)
                with self.database.write() as connection:
                    told = submit_in(connection, wanted)
                    lines = handle.queued(wanted, told)
                    self._note(connection, asked, lines, told.run_id)
                log.info("queued", **_facts(asked), run=told.run_id)
                return lines, wanted.host
            lines = handle.look(asked, command)
        except RequestError as problem:
            lines = run_messages.of_problem(problem)
            log.info("not done", **_facts(asked), why=problem.message)
        with self.database.write() as connection:
            self._note(connection, asked, lines)
        return lines, None

    @staticmethod
    def _note(
        connection: Connection, asked: ChatCommand, lines: Lines, run_id: str | None = None
    ) -> None:
        channel, heard = asked.channel.name, asked.heard
        outbox.note(connection, channel, heard.delivery, lines)
        if run_id is not None:
            outbox.begin(connection, channel, heard, run_id=run_id)
        elif not heard.seen:
            outbox.begin(connection, channel, heard, run_id=None, lines=lines)


def _facts(asked: ChatCommand) -> dict[str, str]:
    return {"channel": asked.channel.name, "user": asked.user}
