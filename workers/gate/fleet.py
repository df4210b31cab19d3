"""May each guest be upgraded? The newest verdict of every guest and scenario, and what it is about.

What was asked for otherwise than a scenario says is another question: it is not answered here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, FromClause, Row, ScalarSelect, Select, func, select

from sandbox.core.records import Verdict
from workers.database import Database
from workers.database.schema import runs, verdicts
from workers.database.states import RunState
from workers.queue import reading


class FleetAnswer(StrEnum):
    NO = "no"
    UNKNOWN = "unknown"
    YES = "yes"

    @classmethod
    def of(cls, verdict: Verdict | None) -> FleetAnswer:
        """No evidence is never a yes, and never a no."""
        match verdict:
            case Verdict.PASS:
                return cls.YES
            case Verdict.FAIL:
                return cls.NO
        return cls.UNKNOWN


@dataclass(frozen=True)
class Standing:
    """A guest and a scenario: the run that answers, if there is one, and the newest run."""

    host: str
    guest: str
    scenario: str
    run_id: str | None
    verdict: Verdict | None
    reason: str
    ended: float | None
    newest_id: str | None  # perhaps of no verdict yet
    newest_state: RunState | None

    @property
    def answer(self) -> FleetAnswer:
        return FleetAnswer.of(self.verdict)


@dataclass(frozen=True)
class Pending:
    """What an upgrade would change, as the run that answers saw it."""

    packages: int
    kernel: str  # the new one; "" where it stays


def fleet(database: Database) -> tuple[Standing, ...]:
    """Who needs attention first, then by name."""
    with database.read() as connection:
        rows = connection.execute(_FLEET).all()
    found = [_standing(database, row) for row in rows]
    order = list(FleetAnswer)
    found.sort(key=lambda one: (order.index(one.answer), one.guest, one.host, one.scenario))
    return tuple(found)


def _standing(database: Database, row: Row[Any]) -> Standing:
    verdict, open_one = (row.run_id, row.verdict, row.reason, row.ended), not row.newest_upgrade
    if row.upgrade:  # the newest verdict is of another question: look for the one of this
        run = reading.newest_verdict(database, row.scenario, row.guest, row.host)
        verdict = (run.id, run.verdict, run.reason, run.ended) if run else (None, None, "", None)
    run_id, word, reason, ended = verdict
    return Standing(
        host=row.host,
        guest=row.guest,
        scenario=row.scenario,
        run_id=run_id,
        verdict=None if word is None else Verdict(word),
        reason=reason or "",
        ended=ended,
        newest_id=row.newest_id if open_one else None,
        newest_state=RunState(row.newest_state) if open_one else None,
    )


def pending(database: Database, run_ids: Sequence[str]) -> Mapping[str, Pending]:
    """By the ids of the runs that answer."""
    query = select(verdicts.c.run_id, verdicts.c.evidence).where(verdicts.c.run_id.in_(run_ids))
    with database.read() as connection:
        return {row.run_id: _pending(row.evidence) for row in connection.execute(query)}


def evidence(database: Database, run_id: str) -> Mapping[str, Any]:
    """What a run's verdict rests on; it is kept when artifacts are not."""
    query = select(verdicts.c.evidence).where(verdicts.c.run_id == run_id)
    with database.read() as connection:
        found: Mapping[str, Any] | None = connection.execute(query).scalar()
    return found or {}


def _pending(said: Mapping[str, Any]) -> Pending:
    before, after = (said.get("kernel") or (None, None))[:2]
    new = after if after and after != before else ""
    return Pending(len(said.get("packages") or ()), new)


def _question(table: FromClause) -> tuple[ColumnElement[str], ...]:
    return table.c.host, table.c.guest, table.c.scenario


def _upgrade(table: FromClause) -> ColumnElement[str]:
    """What was asked for otherwise than the scenario says; "" or NULL for nothing."""
    said: ColumnElement[str] = table.c.request["upgrade"].as_string()
    return said


def _newest(question: FromClause, name: str, *, verdict: bool) -> ScalarSelect[str]:
    """The newest run of a guest and scenario; with a verdict, or whatever has become of it."""
    one = runs.alias(name)
    same = [mine == its for mine, its in zip(_question(one), _question(question), strict=True)]
    query = select(one.c.id).where(*same)
    if verdict:
        query = query.where(one.c.verdict.is_not(None))
    return query.order_by(one.c.submitted.desc(), one.c.id.desc()).limit(1).scalar_subquery()


def _following(at: FromClause, after: FromClause, same: int) -> ScalarSelect[str]:
    """The first question after one that has the first so many parts of it in common."""
    pairs = list(zip(_question(after), _question(at), strict=True))
    query = select(after.c.id).where(*(mine == its for mine, its in pairs[:same]))
    query = query.where(pairs[same][0] > pairs[same][1]).order_by(*_question(after)[same:])
    return query.limit(1).scalar_subquery()


def _fleet() -> Select[*tuple[Any, ...]]:
    """A step for each guest and scenario, however many runs they have: not one for each run."""
    first = select(runs.c.id).order_by(*_question(runs)).limit(1).scalar_subquery()
    steps = select(first.label("id")).cte("steps", recursive=True)
    at, after = runs.alias("at"), runs.alias("after")
    # The next scenario of the guest, else the next guest of the host, else the next host: each is
    # found in the index. A comparison of all three at once SQLite answers from the first alone.
    following = func.coalesce(*(_following(at, after, same) for same in (2, 1, 0)))
    steps = steps.union_all(select(following).select_from(steps.join(at, at.c.id == steps.c.id)))
    question = runs.alias("question")
    found = (
        select(
            *_question(question),
            _newest(question, "one_with_verdict", verdict=True).label("run_id"),
            _newest(question, "one", verdict=False).label("newest_id"),
        )
        .select_from(steps.join(question, question.c.id == steps.c.id))
        .offset(0)  # each is looked for once, not again for every column of it
        .subquery()
    )
    newest = runs.alias("newest")
    return (
        select(found, runs.c.verdict, runs.c.reason, runs.c.ended)
        .add_columns(_upgrade(runs).label("upgrade"))
        .add_columns(newest.c.state.label("newest_state"), _upgrade(newest).label("newest_upgrade"))
        .outerjoin(runs, runs.c.id == found.c.run_id)
        .outerjoin(newest, newest.c.id == found.c.newest_id)
    )


_FLEET = _fleet()
