"""Wishes as every front door hands them in: a rehearsal, the same once more, its end."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from sandbox.scenario import load_scenario
from sandbox.scenario.request import Request, find_scenario, prepare
from workers.database import Database, require_schema
from workers.database.states import ENDED, WrongState
from workers.queue import reading, submission
from workers.queue.celery_app import announce, make_app
from workers.queue.idempotency import Once
from workers.queue.orders import digest, order_of
from workers.queue.presence import present
from workers.queue.values import Order, Priority, Submitted
from workers.settings import ServiceSettings

Say = Callable[[str], None]


def submit(
    database: Database,
    settings: ServiceSettings,
    request: Request,
    priority: str,
    say: Say,
    *,
    origin: str,
    fresh: bool = False,
    once: Once | None = None,
) -> Submitted:
    """Queue a rehearsal; what is wrong with the scenario is said now, not by a worker later.

    ``say``: hears what is wrong with the broker, which keeps nothing from being queued.
    """
    wanted = order(database, settings, request, priority, origin=origin, fresh=fresh)
    told = submission.submit(database, wanted, once)
    if not is_served(database, wanted.host):
        say(f"it waits: {nobody_serves(wanted.host)}")
    wake(settings, wanted.host, say)
    return told


def order(
    database: Database,
    settings: ServiceSettings,
    request: Request,
    priority: str,
    *,
    origin: str,
    fresh: bool = False,
) -> Order:
    """What is to be queued, for who does that in a transaction of their own."""
    require_schema(database)
    served = {name for one in present(database) for name in one.hosts}
    made = order_of(prepare(request, settings.sandbox), request, settings, hosts=served)
    values = asdict(made) | {
        "priority": Priority[priority.upper()],
        "fresh": fresh,
        "origin": origin,
    }
    return Order(**values)


def retry(
    database: Database,
    settings: ServiceSettings,
    run_id: str,
    say: Say,
    *,
    once: Once | None = None,
) -> Submitted:
    """The same request again, as a new run."""
    run = reading.get(database, run_id)
    if run.state not in ENDED:
        raise WrongState(f"run {run.id} is {run.state.value}", "wait for its end, or cancel it")
    # As the scenario is now: what it was then need not be anywhere any more.
    path = find_scenario(run.request["scenario"], settings.sandbox)
    scenario = load_scenario(path, shared=settings.sandbox.shared_checks)
    said: dict[str, Any] = dict(run.request) | {"content": digest(scenario)}
    said |= {"origin": f"retry of {run.id}", "most_attempts": settings.attempts}
    order = Order(**said, priority=run.priority)
    told = submission.submit(database, order, once)
    wake(settings, order.host, say)
    return told


def is_served(database: Database, host: str) -> bool:
    """Whether a worker that lives works for a host."""
    return any(host in one.hosts for one in present(database) if not one.gone)


def nobody_serves(host: str) -> str:
    return f"no worker serves {host} now: sandbox worker --host {shlex.quote(host)}"


def wake(settings: ServiceSettings, host: str, say: Say) -> None:
    """Tell the host's workers; when the broker is away the next tick does."""
    try:
        with make_app(settings) as app:
            announce(app, host)
    except Exception as problem:  # kombu's own kinds are many
        say(f"queued; the broker does not answer, it starts later: {problem}")
