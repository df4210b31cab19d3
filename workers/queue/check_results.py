"""What is remembered of a run's checks: how often each held of the times that it was asked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, delete, insert, select

from sandbox.core.records import CheckEnd, CheckSession, Facts, Outcome
from sandbox.verdict.flakiness import Rate, kept_name
from workers.database import Database
from workers.database.clock import now
from workers.database.schema import check_results
from workers.queue.values import Claim, Tally

MOST = 500  # of one run; those that failed come first


def tallies(facts: Facts) -> tuple[Tally, ...]:
    """Of every check that gave an answer. Where the connection broke, none did. Pure."""
    there = facts.control
    before = _counted((facts.checks_before,))
    after = _counted((facts.checks_after, *facts.checks_again))
    control = _counted((*there.checks_before, *there.checks_after) if there else ())
    names = dict.fromkeys((*before, *after, *control))
    found = [
        Tally(kept_name(name), *(one.get(name, Rate(0, 0)) for one in (before, after, control)))
        for name in names
    ]
    found.sort(key=lambda one: one.held_always)
    return tuple(found[:MOST])


def _counted(sessions: Iterable[CheckSession | None]) -> dict[str, Rate]:
    """As :func:`sandbox.verdict.flakiness.rate` does, of all checks at once."""
    found: dict[str, Rate] = {}
    for one in sessions:
        if one is None or one.end is CheckEnd.CONNECTION_LOST:
            continue
        for result in one.results:
            if result.outcome is not Outcome.SKIPPED:
                held = int(result.outcome is Outcome.PASSED)
                found[result.name] = found.get(result.name, Rate(0, 0)) + Rate(held, 1)
    return found


def note(connection: Connection, claim: Claim, found: Sequence[Tally]) -> None:
    """Write them down beside the verdict, in its transaction."""
    if not found:
        return
    run = {
        "run_id": claim.run_id,
        "guest": claim.guest,
        "host": claim.host,
        "scenario": claim.scenario,
        "finished": connection.execute(select(now())).scalar_one(),
    }
    rows = [{**run, "name": one.name, **_numbers(one)} for one in found]
    connection.execute(insert(check_results), rows)


def _numbers(one: Tally) -> dict[str, int]:
    pairs = {"before": one.before, "after": one.after, "control": one.control}
    held = {f"{when}_held": its.held for when, its in pairs.items()}
    return held | {f"{when}_asked": its.asked for when, its in pairs.items()}


def forget(database: Database, seconds: float, most: int) -> int:
    """Remove those of runs that ended longer ago, ``most`` of them at once; how many."""
    forgotten = 0
    # Asked of the oldest alone: the clock moves, so that no index finds all that are too old.
    old = (check_results.c.finished < now() - seconds).label("old")
    oldest = select(check_results.c.run_id, old).order_by(check_results.c.finished).limit(1)
    while forgotten < most:
        with database.read() as connection:
            row = connection.execute(oldest).first()
        if row is None or not row.old:
            break
        with database.write() as connection:
            mine = check_results.c.run_id == row.run_id
            forgotten += connection.execute(delete(check_results).where(mine)).rowcount
    return forgotten
