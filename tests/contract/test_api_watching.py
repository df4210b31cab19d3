"""Many who watch at once: all hear all of it, in order, and the database hardly notices."""

from __future__ import annotations

import random

import pytest
from sqlalchemy import event as happening
from sqlalchemy import insert

from tests.support.service.ledger_world import order
from workers.database import Database
from workers.database.schema import events
from workers.database.states import RunState
from workers.queue.events import say
from workers.queue.submission import cancel, submit
from workers.web.api import watching
from workers.web.api.watching import Looks


@pytest.fixture
def looks(database: Database, monkeypatch: pytest.MonkeyPatch) -> Looks:
    monkeypatch.setattr(watching, "FRESH", 0.0)  # every look is a new one
    return Looks(database)


def tell(database: Database, run_id: str, text: str) -> None:
    with database.write() as connection:
        say(connection, run_id, "detail", text)


def test_everybody_hears_everything_once_and_in_order_whenever_they_come(
    database: Database, looks: Looks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "_KEPT", 4)  # who is behind by more reads by itself
    dice = random.Random(20261125)
    runs = [submit(database, order(f"web{n}")).run_id for n in range(3)]
    told: dict[str, list[str]] = {run: [] for run in runs}
    heard: list[tuple[str, list[int], list[str]]] = []
    with looks.watching(runs[0]), looks.watching(runs[1]), looks.watching(runs[2]):
        for number in range(300):
            run = dice.choice(runs)
            if dice.random() < 0.3:
                heard.append((run, [0], []))
            told[run].append(f"{number}")
            tell(database, run, f"{number}")
            for watched, last, texts in dice.sample(heard, min(3, len(heard))):
                found = looks.look(watched, last[0])[1]
                assert all(one.run_id == watched and one.id > last[0] for one in found)
                texts += [one.text for one in found if one.kind == "detail"]
                last[0] = found[-1].id if found else last[0]
        for watched, last, texts in heard:
            texts += [one.text for one in looks.look(watched, last[0])[1] if one.kind == "detail"]
            assert texts == told[watched]
    assert looks._tails == {}, "nothing is kept of what nobody watches"


def test_an_event_whose_transaction_took_longer_is_not_lost(
    database: Database, looks: Looks
) -> None:
    """Its id is smaller than that of another run's event, which was there sooner."""
    slow, quick = (submit(database, order(f"web{n}")).run_id for n in range(2))
    with looks.watching(slow), looks.watching(quick):
        last = looks.look(slow, 0)[1][-1].id
        looks.look(quick, 0)
        row = {"at": 0.0, "kind": "detail"}
        with database.write() as connection:
            late = row | {"id": last + 50, "run_id": quick, "text": "quick"}
            connection.execute(insert(events).values(late))
        assert looks.look(quick, 0)[1][-1].text == "quick"
        with database.write() as connection:
            early = row | {"id": last + 40, "run_id": slow, "text": "slow"}
            connection.execute(insert(events).values(early))
        assert [one.text for one in looks.look(slow, last)[1]] == ["slow"]


def test_an_end_is_seen_with_all_that_was_before_it(database: Database, looks: Looks) -> None:
    run_id = submit(database, order()).run_id
    with looks.watching(run_id):
        last = looks.look(run_id, 0)[1][-1].id
        cancel(database, run_id, "anna")
        run, found = looks.look(run_id, last)
        assert (run.state, [one.text for one in found]) == (
            RunState.CANCELLED,
            ["cancelled, asked by anna"],
        )
        assert looks.look(run_id, found[-1].id) == (run, ())


def test_a_made_up_place_to_go_on_from_harms_nobody(database: Database, looks: Looks) -> None:
    mine, theirs = (submit(database, order(f"web{n}")).run_id for n in range(2))
    with looks.watching(theirs), looks.watching(mine):
        assert looks.look(theirs, 1 << 61)[1] == ()
        looks.look(mine, 0)
        tell(database, mine, "hello")
        tell(database, theirs, "hello")
        assert looks.look(mine, 0)[1][-1].text == "hello"
        assert looks.look(theirs, 0)[1][-1].text == "hello"


def test_two_hundred_watchers_cost_what_one_does(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "FRESH", 60.0)
    looks = Looks(database)
    run_id = submit(database, order()).run_id
    asked: list[str] = []
    happening.listen(
        database.engine, "before_cursor_execute", lambda *details: asked.append(details[2])
    )
    with looks.watching(run_id):
        last = looks.look(run_id, 0)[1][-1].id
        for _watcher in range(200):
            looks.look(run_id, last)
    statements = [one for one in asked if one.startswith("SELECT")]
    assert len(statements) < 10, statements
