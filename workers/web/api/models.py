"""What goes in and out, typed: everything beyond here is checked."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

from fastapi import Path, Query
from pydantic import BaseModel, ConfigDict, Field, field_validator

from sandbox.core.records import Verdict
from workers.database.states import RunState
from workers.gate.answer import Decision
from workers.queue.history import CheckHistory, CheckOccurrence, Mark
from workers.queue.overview import GuestKnown, HostKnown, ScenarioKnown
from workers.queue.values import Priority, RunEvent, RunRow
from workers.schedule.listing import ScheduleRow
from workers.web.auth.tokens import IssuedToken, Scope, TokenState

# No control characters: what is none in a database or a log is none here.
TEXT = r"^[^\x00-\x1f\x7f]{1,255}$"
SCENARIO = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
HOST = r"^[A-Za-z0-9][A-Za-z0-9._ -]{0,62}$"
UPGRADE = r"^[A-Za-z0-9][A-Za-z0-9.+:~=_, -]{0,999}$"
KEY = r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,99}$"
RunId = Annotated[str, Path(pattern=r"^[0-9]{8}-[0-9]{6}-[0-9a-f]{8}$")]
Limit = Annotated[int, Query(ge=1, le=200, description="most items of one answer")]
Cursor = Annotated[
    str | None, Query(pattern=r"^[A-Za-z0-9_-]{1,600}$", description="`next` of the page before")
]
Item = TypeVar("Item")


def moment(at: float | None) -> datetime | None:
    return None if at is None else datetime.fromtimestamp(at, UTC)


def instant(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)


class Problem(BaseModel):
    """RFC 9457, with what to do next."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    hint: str
    errors: list[dict[str, str]] | None = None


class Page(BaseModel, Generic[Item]):
    """Some of them, and where the others begin."""

    items: list[Item]
    next: str | None = Field(description="the `cursor` of the next page; null: there is none")


class Submission(BaseModel):
    """A rehearsal as it is asked for. What is not said is the scenario's word."""

    model_config = ConfigDict(extra="forbid", strict=True)

    scenario: str = Field(pattern=SCENARIO, description="its name: security")
    guest: str | None = Field(default=None, pattern=TEXT, max_length=64)
    host: str | None = Field(default=None, pattern=HOST, description="name of the inventory")
    upgrade: str | None = Field(
        default=None,
        pattern=UPGRADE,
        description="all, security, kernel, release=trixie, or packages: nginx,openssl=3.0.20",
    )
    user: str | None = Field(default=None, pattern=r"^[a-z_][a-z0-9_-]{0,31}$")
    key: str | None = Field(
        default=None, pattern=KEY, description="a file's name in SANDBOX_SERVICE_API_KEYS"
    )
    priority: Literal["gate", "normal", "nightly"] = "normal"
    fresh: bool = Field(default=False, description="do not join an equal run that is open")

    @field_validator("upgrade")
    @classmethod
    def no_files(cls, value: str | None) -> str | None:
        """Only a user of the machine itself may name files."""
        items = [item.strip() for item in (value or "").split(",")]
        if any(item.endswith((".deb", ".rpm")) for item in items):
            raise ValueError("name packages, not files")
        return value


class Run(BaseModel):
    """A run as it is now."""

    id: str
    scenario: str
    guest: str
    host: str
    upgrade: str | None = Field(description="what was asked for otherwise than the scenario")
    state: RunState
    verdict: Verdict | None
    reason: str
    phase: str
    waiting: str
    priority: str
    origin: str
    night: str | None
    attempts: int
    most_attempts: int
    worker: str
    submitted: datetime
    started: datetime | None
    ended: datetime | None

    @classmethod
    def of(cls, row: RunRow) -> Run:
        known = {one.value: one.name.lower() for one in Priority}
        return cls(
            **{name: getattr(row, name) for name in _SAME},
            upgrade=row.request.get("upgrade"),
            priority=known.get(row.priority, str(row.priority)),
            worker=row.owner,
            submitted=instant(row.submitted),
            started=moment(row.started),
            ended=moment(row.ended),
        )


_SAME = (
    *("id", "scenario", "guest", "host", "state", "verdict", "reason", "phase", "waiting"),
    *("origin", "night", "attempts", "most_attempts"),
)


class Accepted(BaseModel):
    """The run that answers a request."""

    run: Run
    joined: bool = Field(description="an equal run was open: it is that one")


class Event(BaseModel):
    """Something that happened in a run; ids grow."""

    id: int
    at: datetime
    kind: str
    text: str
    percent: float | None

    @classmethod
    def of(cls, row: RunEvent) -> Event:
        return cls(id=row.id, at=instant(row.at), kind=row.kind, text=row.text, percent=row.percent)


class Events(BaseModel):
    items: list[Event]
    last: int = Field(description="`after` for those that come later")
    ended: bool = Field(description="the run has ended and there will be no more")


class Artifact(BaseModel):
    attempt: int
    name: str
    bytes: int
    url: str


class ArtifactsOfAttempt(BaseModel):
    """What an attempt left."""

    attempt: int
    record: str
    state: Literal["stored", "here", "elsewhere", "expired"]
    files: list[Artifact]


class Scenario(BaseModel):
    name: str
    description: str
    upgrade: str
    guest: str | None
    scheduled: bool
    problem: str | None = Field(description="why it cannot be run")

    @classmethod
    def of(cls, row: ScenarioKnown) -> Scenario:
        return cls(
            name=row.name,
            description=row.description,
            upgrade=row.upgrade,
            guest=row.guest or None,
            scheduled=row.scheduled,
            problem=row.problem or None,
        )


class Worker(BaseModel):
    name: str
    state: Literal["up", "draining", "gone"]
    slots: int
    version: str


class Host(BaseModel):
    name: str
    kind: str | None
    parallel: int | None
    queued: int
    running: int
    workers: list[Worker]

    @classmethod
    def of(cls, row: HostKnown) -> Host:
        return cls(
            name=row.name,
            kind=row.kind or None,
            parallel=row.parallel,
            queued=row.queued,
            running=row.running,
            workers=[
                Worker.model_validate(
                    {
                        "name": one.name,
                        "state": "gone" if one.gone else one.state,
                        "slots": one.slots,
                        "version": one.version,
                    }
                )
                for one in row.workers
            ],
        )


class Guest(BaseModel):
    """A guest that runs were asked for, with its last verdict."""

    host: str
    guest: str
    run: str | None
    scenario: str | None
    verdict: Verdict | None
    reason: str | None
    ended: datetime | None

    @classmethod
    def of(cls, row: GuestKnown) -> Guest:
        same = ("host", "guest", "scenario", "verdict", "reason")
        return cls(
            **{name: getattr(row, name) for name in same}, run=row.run_id, ended=moment(row.ended)
        )


class Rate(BaseModel):
    """How often something held, of the times that it gave an answer."""

    held: int
    asked: int


class CheckInRun(BaseModel):
    """A check in one run."""

    run: str
    ended: datetime
    outcome: Mark

    @classmethod
    def of(cls, row: CheckOccurrence) -> CheckInRun:
        return cls(run=row.run_id, ended=instant(row.at), outcome=row.mark)


class Check(BaseModel):
    """What a check did on a guest so far."""

    host: str
    guest: str
    scenario: str | None = Field(description="whose own check it is; null for a shared one")
    name: str
    runs: int
    since: datetime
    not_upgraded: Rate = Field(description="before the upgrade, and on the control")
    broken_runs: int = Field(description="in which it was broken all the time: not in that rate")
    upgraded: Rate = Field(description="after an upgrade")
    last: list[CheckInRun] = Field(description="oldest first")
    last_failed: CheckInRun | None

    @classmethod
    def of(cls, row: CheckHistory) -> Check:
        same = ("host", "guest", "name", "runs", "broken_runs")
        return cls(
            **{name: getattr(row, name) for name in same},
            scenario=row.scenario or None,
            since=instant(row.since),
            not_upgraded=Rate(held=row.not_upgraded.held, asked=row.not_upgraded.asked),
            upgraded=Rate(held=row.upgraded.held, asked=row.upgraded.asked),
            last=[CheckInRun.of(one) for one in row.last],
            last_failed=CheckInRun.of(row.last_failed) if row.last_failed else None,
        )


class Checks(BaseModel):
    """The least steady first."""

    items: list[Check]
    total: int = Field(description="how many there are; `check` and `host` make them fewer")


class Schedule(BaseModel):
    name: str
    cron: str
    timezone: str
    guests: int
    next: datetime | None
    last: datetime | None
    outcome: str

    @classmethod
    def of(cls, row: ScheduleRow) -> Schedule:
        same: dict[str, Any] = {
            name: getattr(row, name) for name in ("name", "cron", "timezone", "guests", "outcome")
        }
        return cls(**same, next=moment(row.next), last=moment(row.last))


class Schedules(BaseModel):
    items: list[Schedule]
    problems: dict[str, str] = Field(description="what is wrong, by scenario")


class Gate(BaseModel):
    """May it be upgraded? Only a `pass` allows it."""

    allowed: bool
    verdict: Verdict | None
    reason: str
    run: Run | None

    @classmethod
    def of(cls, decision: Decision) -> Gate:
        run = decision.run
        return cls(
            allowed=decision.allowed,
            verdict=run.verdict if run else None,
            reason=decision.reason,
            run=Run.of(run) if run else None,
        )


class Token(BaseModel):
    """A token without its secret, which only its holder has."""

    id: str
    name: str
    scope: Scope
    state: TokenState
    created: datetime
    expires: datetime | None
    revoked: datetime | None
    used: datetime | None = Field(description="to the hour")

    @classmethod
    def of(cls, row: IssuedToken) -> Token:
        return cls(
            id=row.id,
            name=row.name,
            scope=row.scope,
            state=row.state,
            created=instant(row.created),
            expires=moment(row.expires),
            revoked=moment(row.revoked),
            used=moment(row.used),
        )


class Health(BaseModel):
    status: Literal["ok"]
    version: str
