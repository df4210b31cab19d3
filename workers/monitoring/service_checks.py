"""`sandbox doctor --service`: whether the service works, tried from end to end.

A process that is there proves nothing: to each host's workers a canary is sent, through the
broker and back through the database.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import redis
from rich.console import Console
from rich.text import Text
from sqlalchemy import select

from sandbox.core.errors import HostError, SandboxError
from sandbox.core.wording import count
from sandbox.doctor.examine import NOT_FIT, print_findings
from sandbox.doctor.host_checks import Check, Finding, State
from workers.artifacts.places import Folder, place_for
from workers.chat.doctor import channels
from workers.database import Database, open_database, schema_versions
from workers.database.clock import now
from workers.database.schema import counters
from workers.monitoring import canary
from workers.queue import reading
from workers.queue.celery_app import make_app
from workers.queue.counters import TICKED
from workers.queue.presence import WorkerRow, present
from workers.queue.terminal import known_hosts
from workers.settings import ServiceSettings

PATIENCE = 30.0  # seconds for the canaries, which are all sent at once
SKEW = 2.0  # seconds
BROKER_SECONDS = 10.0
_LATE = 3  # ticks
_START_WORKER = "start one there: sandbox worker --host {0}"


@dataclass
class CheckedService:
    """What several checks share."""

    settings: ServiceSettings
    database: Database
    patience: float = PATIENCE
    workers: tuple[WorkerRow, ...] = ()
    canaries: dict[str, str] = field(default_factory=dict)  # by host
    sent: float = 0.0


def print_service(settings: ServiceSettings, *, as_json: bool, patience: float = PATIENCE) -> int:
    """Print every check of the service as it ends; 0 when none is "not ok", else 4."""
    states = print_findings(service_checks(settings, patience), as_json=as_json)
    if not as_json:
        Console(highlight=False).print(_conclusion(states), soft_wrap=True)
    return NOT_FIT if State.BAD in states else 0


def service_checks(
    settings: ServiceSettings, patience: float = PATIENCE
) -> Generator[Check, None, None]:
    """Every check, in the order in which one would mend things; to be run one after the other."""
    service = CheckedService(settings, open_database(settings.database), patience)
    try:
        yield Check("Truth", "database", partial(database, service))
        yield Check("Truth", "clock", partial(clock, service))
        yield Check("Broker", "redis", partial(broker, settings))
        yield Check("Work", "ticks", partial(ticks, service))
        for host in _hosts(service):
            yield Check("Work", f"worker {host}", partial(worker, service, host))
            yield Check("Work", f"canary {host}", partial(answer, service, host), patience + 30)
        if settings.chat:
            yield Check("Chat", "channels", partial(channels, service.database, settings.chat))
        yield Check("Artifacts", "this machine", partial(room, settings))
        yield Check("Artifacts", "place", partial(place, settings), 90.0)
    finally:
        service.database.close()


def _hosts(service: CheckedService) -> tuple[str, ...]:
    """Those of the inventory, and those that runs wait for."""
    listed = known_hosts(service.settings, ())
    try:
        waiting = sorted(reading.due_hosts(service.database))
    except SandboxError:
        waiting = []  # the database's own check has said it
    return (*listed, *(host for host in waiting if host not in listed))


def database(service: CheckedService) -> Finding:
    current, newest = schema_versions(service.database)
    if current != newest:
        return Finding(
            State.BAD,
            f"{service.database.url}: schema {current or 'not there'}, this version needs {newest}",
            "sandbox migrate brings an older one up to date; upgrade this program for a newer one",
        )
    return Finding(State.OK, f"{service.database.url}, schema {current}")


def clock(service: CheckedService) -> Finding:
    """Between this machine and the database, whose clock decides."""
    before = time.time()
    there = service.database.now()
    after = time.time()
    off = max(before - there, there - after, 0.0)
    if off > SKEW:
        return Finding(
            State.WARNING,
            f"this machine and the database differ by {off:.0f} s",
            "run an NTP client on both: the database's clock decides what is due",
        )
    return Finding(State.OK, "this machine and the database agree")


def broker(settings: ServiceSettings) -> Finding:
    url = settings.broker
    client: Any = redis.Redis.from_url(
        url.replace("redis+socket://", "unix://", 1),
        socket_timeout=BROKER_SECONDS,
        socket_connect_timeout=BROKER_SECONDS,
    )
    try:
        told = client.info("everything")
    except (redis.RedisError, OSError) as problem:
        raise HostError(
            f"Redis does not answer: {problem}",
            "start it; what is queued meanwhile is in the database and is not lost",
        ) from problem
    finally:
        client.close()
    return judge_broker(told)


def judge_broker(told: dict[str, Any]) -> Finding:
    """What Redis says of itself."""
    name = f"Redis {told.get('redis_version', '')}".strip()
    policy = told.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        return Finding(
            State.BAD if told.get("maxmemory") else State.WARNING,
            f"{name} may throw messages away: maxmemory-policy {policy}",
            "maxmemory-policy noeviction in redis.conf",
        )
    written = told.get("aof_last_write_status", "ok"), told.get("rdb_last_bgsave_status", "ok")
    if "err" in written:
        return Finding(
            State.BAD, f"{name} could not write to its disk: it may refuse messages", "see its log"
        )
    if not told.get("aof_enabled"):
        return Finding(
            State.WARNING,
            f"{name} forgets its messages in a restart: runs then wait for the next tick",
            "appendonly yes in redis.conf",
        )
    return Finding(State.OK, f"{name}, noeviction, append-only file")


def ticks(service: CheckedService) -> Finding:
    query = select(now() - counters.c.value).where(counters.c.name == TICKED)
    with service.database.read() as connection:
        since = connection.execute(query).scalar()
    if since is None or since > _LATE * service.settings.tick:
        when = "never" if since is None else f"{since:.0f} s ago"
        return Finding(
            State.BAD,
            f"the last tick was {when}: lost runs are not found, nothing nightly begins",
            "start a beat (sandbox beat) and a worker",
        )
    return Finding(State.OK, f"the last {max(0.0, since):.0f} s ago")


def worker(service: CheckedService, host: str) -> Finding:
    service.workers = present(service.database)
    there = [one for one in service.workers if host in one.hosts]
    living = [one for one in there if not one.gone]
    if not living:
        gone = f"; {there[0].name} was last seen {there[0].silent:.0f} s ago" if there else ""
        return Finding(State.BAD, f"no worker serves this host{gone}", _START_WORKER.format(host))
    names = ", ".join(one.name for one in living)
    if all(one.state == "draining" for one in living):
        return Finding(
            State.WARNING, f"{names}: draining, begins nothing new", _START_WORKER.format(host)
        )
    slots = sum(one.slots for one in living)
    return Finding(State.OK, f"{names} ({count(slots, 'slot')})")


def answer(service: CheckedService, host: str) -> Finding:
    """All canaries are sent with the first: a fleet's doctor is not slower than a host's."""
    if not service.sent:
        _send_canaries(service)
    if host not in service.canaries:
        return Finding(State.BAD, "not sent: no worker would get it", _START_WORKER.format(host))
    left = service.sent + service.patience - time.monotonic()
    told = canary.wait_for(service.database, service.canaries[host], max(0.0, left))
    if told is None:
        return Finding(
            State.BAD,
            f"no answer within {service.patience:.0f} s",
            "restart the host's workers: they do not hear the broker; their logs say more",
        )
    name, seconds = told
    return Finding(State.OK, f"answered by {name} after {seconds:.2f} s")


def _send_canaries(service: CheckedService) -> None:
    living = {host for one in present(service.database) if not one.gone for host in one.hosts}
    with make_app(service.settings) as app:
        for host in _hosts(service):
            if host in living:
                try:
                    service.canaries[host] = canary.send(app, service.database, host)
                except SandboxError:
                    raise
                except Exception as problem:  # kombu's own kinds are many
                    raise HostError(
                        f"the broker takes no message: {problem}", "start Redis, or mend it"
                    ) from problem
    service.sent = time.monotonic()


def room(settings: ServiceSettings) -> Finding:
    state = settings.sandbox.state
    there: Path = state
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    words = f"{state}: {free >> 20} MiB free"
    if free < settings.keep_free:
        needed = f"{settings.keep_free >> 20} MiB"
        return Finding(
            State.BAD, f"{words}, a run needs {needed}: runs wait", "free some, or keep less"
        )
    return Finding(State.OK, words)


def place(settings: ServiceSettings) -> Finding:
    chosen = place_for(settings)
    if chosen is None:
        return Finding(State.OK, "artifacts stay on their worker")
    words = chosen.check()
    if isinstance(chosen, Folder) and shutil.disk_usage(chosen.path).free < settings.keep_free:
        return Finding(State.BAD, f"{chosen.url}: {words}", "free some, or keep less")
    return Finding(State.OK, f"{chosen.url}: {words}")


def _conclusion(states: list[State]) -> Text:
    bad, warnings = states.count(State.BAD), count(states.count(State.WARNING), "warning")
    if bad:
        words = f"\n{bad} of {len(states)} checks not ok, {warnings}: what is queued may wait"
        return Text(words, "bold red")
    return Text(f"\nThe service works ({len(states)} checks, {warnings}).", "bold green")
