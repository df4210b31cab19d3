"""What must hold once the dust has settled, whatever was killed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from sqlalchemy import select

from sandbox.core.errors import DeadlineExceeded
from sandbox.core.records import Verdict
from tests.support.faults.chaos_service import Service
from workers.database.schema import attempts, counters, runs, verdicts
from workers.database.states import ENDED, RunState


def judge(service: Service) -> list[str]:
    """Everything that is wrong; waits until all runs have ended."""
    try:
        service.settle()
        service.wait_until(lambda: not service.executor.clones(), "waiting for clones to be reaped")
    except (AssertionError, DeadlineExceeded) as problem:
        return [*_wrong_with_runs(service), *_wrong_outside(service), str(problem)]
    return [*_wrong_with_runs(service), *_wrong_with_attempts(service), *_wrong_outside(service)]


def _wrong_with_runs(service: Service) -> Iterator[str]:
    with service.database.read() as connection:
        rows = {row.id: row for row in connection.execute(select(runs))}
        decided = Counter(connection.execute(select(verdicts.c.run_id)).scalars())
        said = dict(connection.execute(select(verdicts.c.run_id, verdicts.c.verdict)).all())
    for run_id, truth in service.truths.items():
        row = rows.get(run_id)
        if row is None:
            yield f"{run_id} is lost"
        elif row.state not in ENDED:
            yield f"{run_id} ({row.guest}) is stuck: {row.state}, attempt {row.attempts}"
        elif row.state == RunState.CANCELLED:
            if run_id not in service.cancelled:
                yield f"{run_id} is cancelled, and nobody asked for it"
            if decided[run_id]:
                yield f"{run_id} is cancelled and has a verdict"
        else:
            if decided[run_id] != 1:
                yield f"{run_id} has {decided[run_id]} verdicts"
            if not row.verdict == said.get(run_id) == truth:
                yield f"{run_id} ({row.guest}): {row.verdict}, {said.get(run_id)}, not {truth}"
    for run_id in rows.keys() - service.truths.keys():
        yield f"{run_id} was never asked for"


def _wrong_with_attempts(service: Service) -> Iterator[str]:
    """A verdict is of an attempt that was not lost; every attempt's end is known."""
    with service.database.read() as connection:
        all_attempts = connection.execute(select(attempts)).all()
        deciding = {
            (row.run_id, row.fence): row.verdict for row in connection.execute(select(verdicts))
        }
        counted = connection.execute(
            select(counters.c.value).where(counters.c.name == "leases_lost")
        ).scalar()
    for row in all_attempts:
        if row.ended is None:
            yield f"attempt {row.run_id}-{row.fence} never ended"
        verdict = deciding.pop((row.run_id, row.fence), None)
        if verdict is not None and row.outcome != verdict:
            yield f"{row.run_id}-{row.fence} was {row.outcome}, and its verdict is {verdict}"
    given_up = {(row.run_id, row.fence + 1) for row in all_attempts if row.outcome == "give-up"}
    for (run_id, fence), verdict in deciding.items():
        if verdict != Verdict.ERROR or (run_id, fence) not in given_up:  # then it is the sweeper's
            yield f"{run_id}-{fence}: a verdict of no attempt: {verdict}"
    lost = sum(row.outcome in ("lose", "give-up") for row in all_attempts)
    if lost != (counted or 0):
        yield f"{lost} attempts were lost, {counted} were counted"


def _wrong_outside(service: Service) -> Iterator[str]:
    """On the pretended host: clones, and what the executor saw itself."""
    for clone in service.executor.clones():
        yield f"clone {clone.name} is left"
    seen = service.executor.folder / "violations"
    for line in seen.read_text().splitlines() if seen.exists() else ():
        # A process that is held cannot be told from one that is gone, so another begins. The held
        # one goes on for a moment before its own watch ends it: either may see the other.
        if service.stopped.isdisjoint(line.split(" beside ")):
            yield line
