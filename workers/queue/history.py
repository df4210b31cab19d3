"""What a guest's checks did in the runs before: which of them are flaky, and since when.

Scenarios may have checks of one name that ask different things; those of the shared folder are the
same in all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Row,
    Select,
    Subquery,
    and_,
    case,
    func,
    or_,
    select,
)

from sandbox.core.records import Past
from sandbox.verdict.flakiness import Rate
from workers.database import Database
from workers.database.schema import check_results
from workers.queue.values import Claim

LAST = 20  # runs of which each outcome is told
MOST = 500  # checks of one answer
# Asked so often in one run, a check that never held was broken then, not flaky.
OFTEN = 3
_SHARED = "shared/"


class Mark(StrEnum):
    """What a check did in one run."""

    HELD = "held"
    FLAKY = "flaky"  # it did and did not
    BROKE = "broke"  # after the upgrade
    BROKEN = "broken"  # before it, too


@dataclass(frozen=True)
class CheckOccurrence:
    """A check in one run."""

    run_id: str
    at: float
    mark: Mark


@dataclass(frozen=True)
class CheckHistory:
    """What a check did on a guest."""

    host: str
    guest: str
    scenario: str  # whose own check it is; "" for a shared one
    name: str
    runs: int
    since: float  # the first of them
    not_upgraded: Rate  # where nothing was upgraded
    broken_runs: int  # in which it was broken all the time: they are not in that rate
    upgraded: Rate
    last: tuple[CheckOccurrence, ...]  # oldest first
    last_failed: CheckOccurrence | None


@dataclass(frozen=True)
class Histories:
    """The least steady first; ``total``: how many there are."""

    items: tuple[CheckHistory, ...]
    total: int


_T = check_results.c
_HELD, _ASKED = _T.before_held + _T.control_held, _T.before_asked + _T.control_asked
_BROKEN = and_(_HELD == 0, _ASKED >= OFTEN)
_SCOPE = case((_T.name.startswith(_SHARED), ""), else_=_T.scenario)
_ROW = (_T.host, _T.name, _SCOPE.label("scope"))
_KEY = ("host", "scope", "name")


def history(
    database: Database,
    guest: str,
    *,
    host: str | None = None,
    part: str = "",
    names: Sequence[str] | None = None,
    limit: int = MOST,
    with_runs: bool = True,
) -> Histories:
    """Of a guest's checks: of those with a ``part`` in their name, or of some ``names``.

    Without its runs, a check's ``last`` and ``last_failed`` are left out.
    """
    wanted = _wanted(guest, host, part, names)
    last: Sequence[Row[Any]] = ()
    failed: Sequence[Row[Any]] = ()
    with database.read() as connection:
        sums = connection.execute(_sums(wanted, limit)).all()
        if sums and with_runs:
            some = and_(*wanted, _T.name.in_({row.name for row in sums}))
            last = connection.execute(_newest(some, LAST)).all()
            failed = connection.execute(_newest(and_(some, _failed()), 1)).all()
    seen: dict[tuple[str, ...], list[CheckOccurrence]] = {}
    for row in last:
        seen.setdefault(_key(row), []).append(_seen(row))
    ends = {_key(row): _seen(row) for row in failed}
    return Histories(
        tuple(_history(row, guest, seen.get(_key(row), ()), ends.get(_key(row))) for row in sums),
        sums[0].total if sums else 0,
    )


def past_of(database: Database, claim: Claim) -> Mapping[str, Past]:
    """What a run's verdict is to know of its guest's checks: of those that failed where nothing was
    upgraded."""
    mine = or_(_T.name.startswith(_SHARED), _T.scenario == claim.scenario)
    held, asked = func.sum(_HELD), func.sum(_ASKED)
    query = (
        select(_T.name, held.label("held"), asked.label("asked"))
        .where(_T.guest == claim.guest, _T.host == claim.host, mine, ~_BROKEN)
        .group_by(_T.name)
        .having(held < asked)
        .order_by(held - asked, _T.name)
        .limit(MOST)
    )
    with database.read() as connection:
        rows = connection.execute(query).all()
    return {row.name: Past(held=row.held, asked=row.asked) for row in rows}


def _wanted(
    guest: str, host: str | None, part: str, names: Sequence[str] | None
) -> tuple[ColumnElement[bool], ...]:
    wanted: list[ColumnElement[bool]] = [_T.guest == guest]
    if host is not None:
        wanted.append(_T.host == host)
    if part:
        wanted.append(_T.name.contains(part, autoescape=True))
    if names is not None:
        wanted.append(_T.name.in_(names))
    return tuple(wanted)


def _sums(wanted: Sequence[ColumnElement[bool]], limit: int) -> Select[*tuple[Any, ...]]:
    counted = {"held": _HELD, "asked": _ASKED}
    rows = (
        select(
            *_ROW,
            *(case((_BROKEN, 0), else_=one).label(name) for name, one in counted.items()),
            case((_BROKEN, 1), else_=0).label("broken"),
            *(_T.after_held, _T.after_asked, _T.finished),
        )
        .where(*wanted)
        .subquery()
    )
    of = rows.c
    key = (of.name, of.scope, of.host)
    held, asked = func.sum(of.held), func.sum(of.asked)
    return (
        select(
            *key,
            *(held.label("held"), asked.label("asked")),
            func.sum(of.broken).label("broken"),
            func.sum(of.after_held).label("after_held"),
            func.sum(of.after_asked).label("after_asked"),
            func.count().label("runs"),
            func.min(of.finished).label("since"),
            func.count().over().label("total"),
        )
        .group_by(*key)
        .order_by(
            held - asked, func.sum(of.after_held - of.after_asked), of.name, of.scope, of.host
        )
        .limit(limit)
    )


def _failed() -> ColumnElement[bool]:
    return or_(_HELD < _ASKED, _T.after_held < _T.after_asked)


def _newest(wanted: ColumnElement[bool], most: int) -> Select[*tuple[Any, ...]]:
    """The newest rows of every check, oldest first."""
    rows = (
        select(
            *_ROW,
            *(_T.run_id, _T.finished, _T.after_held, _T.after_asked),
            *(_HELD.label("held"), _ASKED.label("asked")),
        )
        .where(wanted)
        .subquery()
    )
    numbered = _numbered(rows)
    return select(numbered).where(numbered.c.number <= most).order_by(numbered.c.finished)


def _numbered(rows: Subquery) -> Subquery:
    of = rows.c
    newest = (of.finished.desc(), of.run_id.desc())
    number = func.row_number().over(partition_by=(of.host, of.scope, of.name), order_by=newest)
    return select(rows, number.label("number")).subquery()


def _key(row: Row[Any]) -> tuple[str, ...]:
    return tuple(str(row._mapping[name]) for name in _KEY)


def _history(
    row: Row[Any], guest: str, last: Sequence[CheckOccurrence], failed: CheckOccurrence | None
) -> CheckHistory:
    return CheckHistory(
        host=row.host,
        guest=guest,
        scenario=row.scope,
        name=row.name,
        runs=row.runs,
        since=row.since,
        not_upgraded=Rate(row.held, row.asked),
        broken_runs=row.broken,
        upgraded=Rate(row.after_held, row.after_asked),
        last=tuple(last),
        last_failed=failed,
    )


def _seen(row: Row[Any]) -> CheckOccurrence:
    there, after = Rate(row.held, row.asked), Rate(row.after_held, row.after_asked)
    return CheckOccurrence(row.run_id, row.finished, mark_of(there, after))


def mark_of(there: Rate, after: Rate) -> Mark:
    """``there``: where nothing was upgraded. Pure."""
    if there.asked and not there.held:
        return Mark.BROKEN
    if there.mixed or after.mixed:
        return Mark.FLAKY
    return Mark.BROKE if after.asked and not after.held else Mark.HELD
