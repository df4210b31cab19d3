"""When a scenario is run by itself, and for which guests: parsed here, kept by the service."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, tzinfo
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError
from pydantic import BeforeValidator, Field, PlainValidator, WithJsonSchema

from sandbox.core.config import scalars
from sandbox.core.config.section import (
    NUMBER_OR_TEXT,
    Duration,
    GuestName,
    HostName,
    Section,
    schema,
)

_LONGEST_CRON = 100
_LONGEST_WINDOW = 86400
_FIELDS = "minute hour day-of-month month day-of-week"


def _cron(value: object) -> str:
    text = " ".join(scalars.text(value).split())
    if len(text) > _LONGEST_CRON or len(text.split()) != 5:
        raise ValueError(f"{scalars.shown(text)} must have five fields: {_FIELDS}")
    try:
        first = next(CronSim(text, datetime(2024, 1, 1, tzinfo=UTC)), None)
    except (CronSimError, AssertionError) as problem:
        why = str(problem) or "it cannot be read"
        raise ValueError(f"{scalars.shown(text)} is no cron expression: {why}") from problem
    if first is None:
        raise ValueError(f"{scalars.shown(text)} never comes")
    return text


def _zone(value: object) -> str:
    name = scalars.text(value)
    known = available_timezones()
    if name not in known:
        best = scalars.nearest(name, known)
        hint = f"; did you mean {best!r}?" if best else "; as in Europe/Berlin"
        raise ValueError(f"{scalars.shown(name)} is no time zone{hint}")
    return name


def _window(value: object) -> int:
    if value == 0 and isinstance(value, int) and not isinstance(value, bool):
        return 0
    seconds = scalars.duration(value)
    if seconds > _LONGEST_WINDOW:
        raise ValueError(f"{scalars.shown(value)} is longer than a day")
    return seconds


def _guest(value: object) -> object:
    """A name alone is a guest of the schedule's host."""
    return value if isinstance(value, dict) else {"guest": value}


class ScheduledGuest(Section):
    """One guest of a schedule."""

    guest: GuestName = Field(description="name of the libvirt domain: web01")
    host: HostName | None = Field(default=None, description="its host; default: schedule.host")


_GUEST_SCHEMA = {
    "anyOf": [
        {"type": "string", "minLength": 1, "maxLength": 64},
        {
            "type": "object",
            "properties": {
                "guest": {"type": "string", "minLength": 1, "maxLength": 64},
                "host": {"type": "string", "minLength": 1, "maxLength": 63},
            },
            "required": ["guest"],
            "additionalProperties": False,
        },
    ]
}


class Schedule(Section):
    """When the service runs the scenario by itself, and for which guests."""

    cron: Annotated[str, PlainValidator(_cron), schema(examples=["30 1 * * *"])] = Field(
        description=f"when: {_FIELDS}, as in '30 1 * * *'"
    )
    timezone: Annotated[str, PlainValidator(_zone), schema(examples=["Europe/Berlin"])] = Field(
        default="UTC", description="of the cron expression: Europe/Berlin"
    )
    window: Annotated[
        int,
        PlainValidator(_window),
        WithJsonSchema({**NUMBER_OR_TEXT, "minimum": 0, "maximum": _LONGEST_WINDOW}),
    ] = Field(default=0, description="the guests' rehearsals begin spread over this time: 3h")
    missed: Literal["run", "report"] = Field(
        default="run", description="what becomes of a due time at which the service was down"
    )
    tolerance: Duration = Field(default=3600, description="how late is not missed yet: 1h")
    host: HostName | None = Field(
        default=None, description="host of the guests; default: source.host"
    )
    guests: tuple[
        Annotated[ScheduledGuest, BeforeValidator(_guest), WithJsonSchema(_GUEST_SCHEMA)], ...
    ] = Field(
        default=(),
        max_length=10_000,
        description="names, or {guest: NAME, host: HOST}; default: the scenario's source",
    )

    @property
    def zone(self) -> tzinfo:
        return UTC if self.timezone == "UTC" else ZoneInfo(self.timezone)


def schedule_problems(data: Mapping[str, Any]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """(key, what is wrong) for guests that are missing, or that are named twice."""
    plan, source = data.get("schedule"), data.get("source")
    if not isinstance(plan, dict):
        return
    guests = plan.get("guests")
    if not guests and source is None:
        yield ("schedule", "guests"), "is required where the scenario has no source"
    if not guests and plan.get("host") is not None:
        yield ("schedule", "host"), "needs guests: without them the source's host is meant"
    seen = set()
    for number, one in enumerate(guests if isinstance(guests, list) else []):
        given = one if isinstance(one, dict) else {"guest": one}
        stated = source.get("host") if isinstance(source, dict) else None
        host = given.get("host") or plan.get("host") or stated
        pair = (str(given.get("guest")), str(host))
        if pair in seen:
            yield ("schedule", "guests", number), f"{scalars.shown(pair[0])} is named twice"
        seen.add(pair)
