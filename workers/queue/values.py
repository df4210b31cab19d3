"""What the ledger takes and gives: frozen values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from typing import Any

from sandbox.core.errors import HostError, RequestError
from sandbox.core.records import Past, Verdict
from sandbox.verdict.flakiness import Rate
from workers.database.states import RunState


class NoSuchRun(RequestError):
    """No run has that id."""

    def __init__(self, text: str) -> None:
        super().__init__(f"no run {text!r}", "`sandbox status` lists those there are")


class Priority(IntEnum):
    """Lower is sooner."""

    GATE = 10  # a user or a CI job waits for the answer
    NORMAL = 50
    NIGHTLY = 90


@dataclass(frozen=True)
class Order:
    """A requested rehearsal; the worker that runs it looks up the names."""

    scenario: str
    guest: str
    host: str
    image_format: str = ""  # the guest is an image's path
    upgrade: str = ""
    user: str = ""
    key: str = ""
    priority: int = Priority.NORMAL
    origin: str = "cli"
    night: str | None = None
    delay: float = 0.0  # seconds from now
    most_attempts: int = 3
    content: str = ""  # digest of the scenario's files, which the worker has to have as well
    fresh: bool = False  # do not join an equal open run

    @property
    def request(self) -> dict[str, str]:
        """What the run's row keeps for its worker."""
        kept = ("scenario", "guest", "host", "image_format", "upgrade", "user", "key", "content")
        return {name: value for name, value in asdict(self).items() if name in kept and value}

    def wish(self, run_id: str) -> str:
        """Equal for orders that one rehearsal answers."""
        if self.fresh:
            return f"fresh:{run_id}"
        return hashlib.sha256(json.dumps(self.request, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Submitted:
    run_id: str
    joined: bool  # an equal run was open: that one's id


@dataclass(frozen=True)
class Claim:
    """A run that its holder may write to, as long as no other worker has claimed it since."""

    run_id: str
    fence: int
    owner: str
    attempt: int
    most_attempts: int
    host: str
    guest: str
    scenario: str
    request: Mapping[str, str]
    past: Mapping[str, Past] = field(default_factory=dict)  # what its guest's checks did before


@dataclass(frozen=True)
class Tally:
    """How often a check held in a run, of the times that it gave an answer."""

    name: str  # as sandbox.verdict.flakiness.kept_name makes it
    before: Rate  # on the clone
    after: Rate
    control: Rate  # where nothing was upgraded

    @property
    def held_always(self) -> bool:
        return all(one.held == one.asked for one in (self.before, self.after, self.control))


@dataclass(frozen=True)
class Outcome:
    """What became of an attempt: its verdict, the reason in one line, and what it rests on."""

    verdict: Verdict
    reason: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    checks: tuple[Tally, ...] = ()

    def __post_init__(self) -> None:
        # PostgreSQL stores no NUL in a text: no verdict may be lost for one that a program printed.
        object.__setattr__(self, "reason", self.reason.replace("\0", " "))


class Renewal(IntEnum):
    """What the holder hears when it renews its lease."""

    KEPT = 0
    CANCEL = 1  # still held; end the run and remove its clone
    LOST = 2  # another worker holds it: end it, and write nothing


@dataclass(frozen=True)
class RunRow:
    """A run as the database has it."""

    id: str
    scenario: str
    guest: str
    host: str
    state: RunState
    priority: int
    submitted: float
    not_before: float
    started: float | None
    ended: float | None
    attempts: int
    most_attempts: int
    fence: int
    owner: str
    lease_until: float | None
    phase: str
    waiting: str
    origin: str
    night: str | None
    verdict: Verdict | None
    reason: str
    request: Mapping[str, str]


@dataclass(frozen=True)
class RunEvent:
    """Something that happened in a run; ids grow, so that a watcher can go on where it was."""

    id: int
    run_id: str
    at: float
    kind: str  # state, phase, detail, check
    text: str
    percent: float | None


@dataclass(frozen=True)
class Swept:
    """What the sweeper did about runs whose holder is gone."""

    queued: tuple[str, ...]  # to be tried again
    given_up: tuple[str, ...]
    cancelled: tuple[str, ...]


class NotNow(HostError):
    """The host has no room for the run at the moment: it waits, and no attempt is used up."""
