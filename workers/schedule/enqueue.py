"""Nights: at a due time the runs of a schedule's guests are queued, exactly once.

The night's row, whose key is schedule and due time, and all its runs are written in one
transaction: of two beats that notice the same due time one writes, and the other finds it done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

import structlog
from sqlalchemy import Connection, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from sandbox.core.errors import RequestError, SandboxError
from sandbox.core.settings import Settings
from sandbox.hosts.inventory import inventory
from sandbox.scenario import FILE_NAME, Scenario, Schedule, load_scenario
from sandbox.scenario.request import Request, apply, find_scenario, scenario_names
from workers.database import Database
from workers.database.schema import night_guests, nights, schedules
from workers.queue.orders import digest, order_of
from workers.queue.presence import present
from workers.queue.submission import submit_in
from workers.queue.values import Order, Priority
from workers.schedule.due_times import LOOK_BACK, Due, delay, due_times, night_id, plan, spread
from workers.settings import ServiceSettings

ANSWER_WITHIN = 6 * 3600.0  # seconds after the last run of a night may begin: then it is summed up
SWITCHED_OFF = 3600.0  # seconds; for less a worker without the scenario may have had the ticks
_TRIES = 5
log = structlog.get_logger("sandbox.nights")


@dataclass(frozen=True)
class Scheduled:
    """A scenario with a schedule. Its name is the schedule's."""

    scenario: Scenario
    schedule: Schedule

    @property
    def name(self) -> str:
        return self.scenario.name

    @property
    def spec(self) -> str:
        return f"{self.schedule.cron} {self.schedule.timezone}"

    @property
    def requests(self) -> list[Request]:
        """One for each guest."""
        source, plan = self.scenario.source, self.schedule
        if not plan.guests:
            return [Request(self.name)]
        host = plan.host or (source.host if source else None)
        return [Request(self.name, guest=g.guest, host=g.host or host) for g in plan.guests]


@dataclass(frozen=True)
class _Member:
    """A guest of a night: with an order, or with the reason why there is none."""

    host: str
    guest: str
    order: Order | None = None
    problem: str = ""


def read_schedules(settings: ServiceSettings) -> tuple[list[Scheduled], dict[str, str]]:
    """(all schedules; what is wrong with scenarios that may have one and cannot be read)."""
    found, problems = [], {}
    for name in scenario_names(settings.sandbox):
        path = find_scenario(name, settings.sandbox)
        try:
            if not _may_have_schedule(path):
                continue
            scenario = load_scenario(path, shared=settings.sandbox.shared_checks)
        except SandboxError as problem:
            problems[name] = problem.message
            continue
        if scenario.schedule is not None:
            found.append(Scheduled(scenario, scenario.schedule))
    return found, problems


def _may_have_schedule(folder: Path) -> bool:
    """Most scenarios have none: those are not read every few seconds."""
    try:
        return b"schedule" in (folder / FILE_NAME).read_bytes()
    except OSError:
        return True  # reading it says what is wrong


def begin(
    database: Database, settings: ServiceSettings, moment: float | None = None
) -> dict[str, str]:
    """Queue the runs of all nights that are due; returns what is wrong, by schedule. What is
    wrong with one does not keep the others waiting."""
    moment = database.now() if moment is None else moment
    found, problems = read_schedules(settings)
    _note_switched_off(database, {one.name for one in found} | set(problems), moment)
    for scheduled in found:
        try:
            _begin(database, settings, scheduled, moment)
        except SandboxError as problem:
            problems[scheduled.name] = problem.message
        except OSError as problem:  # a file of the scenario cannot be read
            problems[scheduled.name] = f"{problem.filename}: {problem.strerror}"
    return problems


def _begin(
    database: Database, settings: ServiceSettings, scheduled: Scheduled, moment: float
) -> None:
    schedule = scheduled.schedule
    for _attempt in range(_TRIES):
        since = max(_dealt_with(database, scheduled, moment), moment - LOOK_BACK)
        dues = due_times(schedule.cron, schedule.zone, since, moment)
        planned = plan(dues, moment, schedule.tolerance, schedule.missed)
        if not planned:
            return
        members = _members(database, settings, scheduled) if planned[-1].outcome == "run" else []
        try:
            with database.write() as connection:
                for due in planned:
                    last = due is planned[-1]
                    _write(connection, scheduled, due, moment, members if last else (), last=last)
        except IntegrityError:  # another beat was first; or an equal run came in this moment
            continue
        for due in planned:
            log.info("night", night=night_id(scheduled.name, due.at), outcome=due.outcome)
        return


def _dealt_with(database: Database, scheduled: Scheduled, moment: float) -> float:
    """Everything that was due until then has been seen to: by a night, or since before the
    schedule was there."""
    mine = schedules.c.name == scheduled.name, schedules.c.spec == scheduled.spec
    with database.read() as connection:
        known = connection.execute(select(schedules).where(*mine)).first()
        last = connection.execute(
            select(func.max(nights.c.due)).where(nights.c.schedule == scheduled.name)
        ).scalar()
    first_seen = known.first_seen if known else moment
    if known is None:
        try:
            with database.write() as connection:
                connection.execute(
                    insert(schedules).values(
                        name=scheduled.name, spec=scheduled.spec, first_seen=moment
                    )
                )
        except IntegrityError:
            log.debug("schedule is known by now", schedule=scheduled.name)
    elif known.off_since is not None:
        if moment - known.off_since > SWITCHED_OFF:
            first_seen = moment
        with database.write() as connection:
            connection.execute(
                update(schedules).where(*mine).values(first_seen=first_seen, off_since=None)
            )
    return max(first_seen, last or 0.0)


def _note_switched_off(database: Database, names: Set[str], moment: float) -> None:
    """Schedules that no scenario has any more; it may be for a while only."""
    there = schedules.c.off_since.is_(None)
    with database.read() as connection:
        known = connection.execute(select(schedules.c.name).where(there)).scalars()
        gone = sorted(set(known) - names)
    if gone:
        with database.write() as connection:
            connection.execute(
                update(schedules).where(there, schedules.c.name.in_(gone)).values(off_since=moment)
            )


def _members(database: Database, settings: ServiceSettings, scheduled: Scheduled) -> list[_Member]:
    """The night's guests. One that cannot be asked for is in the summary, with the reason.

    Whichever worker hears the tick, they are the same: hosts are those that any worker serves.
    """
    members: dict[tuple[str, str], _Member] = {}
    served = {name for one in present(database) for name in one.hosts}
    hosts = served | {host.name for host in inventory(settings.sandbox)}
    content = digest(scheduled.scenario)
    for request in scheduled.requests:
        try:
            scenario = apply(scheduled.scenario, request)
            order = order_of(scenario, request, settings, hosts=hosts, content=content)
            order = replace(order, host=_host_for(order, scenario, request, settings, served))
            member = _Member(order.host, order.guest, order)
        except SandboxError as problem:
            source = scheduled.scenario.source
            guest = request.guest or (source.guest if source else None) or "its image"
            member = _Member(request.host or "", guest, problem=problem.message)
        members.setdefault((member.host, member.guest), member)
    return list(members.values())


def _host_for(
    order: Order, scenario: Scenario, request: Request, settings: ServiceSettings, served: Set[str]
) -> str:
    """Where no host is named, the order has that of the worker that got the tick, which is
    arbitrary. Then the only served host is meant; with several the request is ambiguous."""
    stated = request.host or (scenario.source.host if scenario.source else None)
    alone = settings.sandbox.own_name == Settings.own_name
    if stated or alone or order.host != settings.sandbox.own_name:
        return order.host
    if len(served) == 1:
        return next(iter(served))
    raise RequestError(
        "the schedule does not say on which host the guest is, and workers serve several",
        "give it a host: one of hosts.yaml",
    )


def _write(
    connection: Connection,
    scheduled: Scheduled,
    due: Due,
    moment: float,
    members: Sequence[_Member],
    *,
    last: bool,
) -> None:
    schedule = scheduled.schedule
    run = due.outcome == "run"
    connection.execute(
        insert(nights).values(
            schedule=scheduled.name,
            due=due.at,
            outcome=due.outcome,
            noticed=moment,
            deadline=moment + (schedule.window + ANSWER_WITHIN if run else 0.0),
            zone=schedule.timezone,
            # The summary of the one that is run names those that were not.
            summarised=None if last else moment,
            silent=0 if last else 1,
        )
    )
    begins = spread([(member.host, member.guest) for member in members], schedule.window)
    for member in members:
        connection.execute(
            insert(night_guests).values(
                schedule=scheduled.name,
                due=due.at,
                host=member.host,
                guest=member.guest,
                run_id=_queue(connection, scheduled, due, moment, member, begins),
                problem=member.problem,
            )
        )


def _queue(
    connection: Connection,
    scheduled: Scheduled,
    due: Due,
    moment: float,
    member: _Member,
    begins: Mapping[tuple[str, str], float],
) -> str | None:
    """The id of the guest's run: a new one, or an equal one that is open."""
    if member.order is None:
        return None
    begin = begins[member.host, member.guest]
    order = replace(
        member.order,
        priority=Priority.NIGHTLY,
        origin=f"schedule {scheduled.name}",
        night=night_id(scheduled.name, due.at),
        delay=delay(begin, due.at, moment, scheduled.schedule.tolerance),
    )
    return submit_in(connection, order).run_id
