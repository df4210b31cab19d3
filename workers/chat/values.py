"""What the parts of chat hand one another: frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from sandbox.core.errors import HostError, RequestError

Style = Literal["plain", "strong", "code", "link"]
Place = Mapping[str, str | int]  # where messages go, in the vendor's words


class Refused(RequestError):
    """The request is not from whom it says, or too old."""


class NotAMessage(RequestError):
    """It is from there, but nothing that a vendor would send."""


class TooMany(RequestError):
    """A channel's requests of this minute are used up."""

    def __init__(self, seconds: int) -> None:
        super().__init__("too many requests", f"wait for {seconds} s")
        self.seconds = seconds


class TryLater(HostError):
    """A vendor wants no message for so many seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"too many messages: wait for {seconds:g} s", "it is sent then")
        self.seconds = seconds


class Gone(HostError):
    """The message that is to be edited is not there any more."""


@dataclass(frozen=True)
class Span:
    """A piece of a line. What is not our own wording is ``code``: no vendor acts on that."""

    text: str
    style: Style = "plain"
    url: str = ""


Line = tuple[Span, ...]
Lines = tuple[Line, ...]


@dataclass(frozen=True)
class ChatRequest:
    """A request of a chat user."""

    user: str  # the vendor's id, which a user cannot choose
    text: str
    delivery: str  # equal for what is delivered again
    place: Place
    seen: bool  # whether who asks sees the answer to the request; else it is a message
    urgent: bool = False  # a merge waits for it
    strangers: bool = True  # whether those whom no role names are answered


@dataclass(frozen=True)
class ChatReply:
    """To a request, at once."""

    body: bytes = b""
    media_type: str = "application/json"


@dataclass(frozen=True)
class Telling:
    """What a message says now."""

    lines: Lines
    final: bool
    word: str = ""  # of a run: its verdict or state
    why: str = ""
    guest: str = ""
    scenario: str = ""
    run_id: str = ""
    link: str = ""


class Messenger(Protocol):
    """Posts and edits the messages of one channel."""

    def send(self, place: Place, known: Mapping[str, Any], telling: Telling) -> Mapping[str, Any]:
        """``known``: what the last call returned. Raises :class:`TryLater`, :class:`Gone`,
        and whatever its library does."""


@dataclass(frozen=True)
class Role:
    """Who may do what with which guests; patterns as in file names."""

    users: tuple[str, ...]
    may: tuple[str, ...]
    guests: tuple[str, ...]
    scenarios: tuple[str, ...]


@dataclass(frozen=True)
class Channel:
    """One of chat.yaml, with its secrets."""

    name: str
    kind: str
    secret: str = field(repr=False)
    token: str = field(default="", repr=False)
    url: str = ""
    repositories: tuple[str, ...] = ()
    host: str | None = None
    user: str | None = None  # and key: to enter guests with
    key: Path | None = None
    scenario: str = "security"
    roles: tuple[Role, ...] = ()


@dataclass(frozen=True)
class Chat:
    """The whole of chat.yaml."""

    channels: tuple[Channel, ...] = ()
    link: str = ""  # with {run} in it
