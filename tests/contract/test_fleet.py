"""What the fleet says of its guests, on every kind of database."""

from __future__ import annotations

from sandbox.core.records import Verdict
from workers.database import Database
from workers.database.states import RunState
from workers.gate.fleet import FleetAnswer, Standing, fleet, pending
from workers.queue.leases import claim, finish
from workers.queue.submission import submit
from workers.queue.values import Order, Outcome

EVIDENCE = {"packages": [["a", "1", "2"], ["b", "1", "2"]], "kernel": ["6.1", "6.2"]}


def ended(database: Database, verdict: Verdict, *wish: str, upgrade: str = "") -> str:
    """A run of (scenario, guest, host) that ended so; an `error` is not tried again."""
    run_id = submit(database, Order(*wish, upgrade=upgrade, most_attempts=1)).run_id
    held = claim(database, wish[2], "worker-a", 60.0, None)
    assert held is not None
    finish(database, held, Outcome(verdict, f"{verdict.value} of {wish[1]}", EVIDENCE))
    return run_id


def asked(database: Database) -> dict[tuple[str, str, str], Standing]:
    return {(one.scenario, one.guest, one.host): one for one in fleet(database)}


def test_a_fleet_of_nobody(database: Database) -> None:
    assert fleet(database) == ()
    assert pending(database, []) == {}


def test_every_guest_and_scenario_has_one_line(database: Database) -> None:
    wishes = [
        (scenario, guest, host)
        for host in ("xen1", "xen2", "a")
        for guest in ("web01", "web02", "Z")
        for scenario in ("security", "kernel")
    ]
    for wish in wishes:
        ended(database, Verdict.PASS, *wish)
        ended(database, Verdict.FAIL if wish[1] == "Z" else Verdict.PASS, *wish)
    found = asked(database)
    assert set(found) == set(wishes)
    assert len(fleet(database)) == len(wishes)
    assert {wish for wish, one in found.items() if one.answer is FleetAnswer.NO} == {
        wish for wish in wishes if wish[1] == "Z"
    }
    assert [one.guest for one in fleet(database)][:6] == ["Z"] * 6


def test_the_newest_verdict_answers_and_an_open_run_does_not(database: Database) -> None:
    wish = ("security", "web01", "xen1")
    ended(database, Verdict.FAIL, *wish)
    newest = ended(database, Verdict.PASS, *wish)
    open_one = submit(database, Order(*wish)).run_id
    (one,) = fleet(database)
    assert (one.answer, one.run_id, one.reason) == (FleetAnswer.YES, newest, "pass of web01")
    assert (one.newest_id, one.newest_state) == (open_one, RunState.QUEUED)
    change = pending(database, [newest])[newest]
    assert (change.packages, change.kernel) == (2, "6.2")


def test_no_evidence_is_neither_yes_nor_no(database: Database) -> None:
    for verdict in (Verdict.INCONCLUSIVE, Verdict.ERROR, Verdict.REJECTED):
        ended(database, verdict, "security", verdict.value, "xen1")
    submit(database, Order("security", "new", "xen1"))
    assert {one.answer for one in fleet(database)} == {FleetAnswer.UNKNOWN}
    assert asked(database)["security", "new", "xen1"].run_id is None


def test_what_was_asked_for_otherwise_is_another_question(database: Database) -> None:
    wish = ("security", "web01", "xen1")
    first = ended(database, Verdict.FAIL, *wish)
    ended(database, Verdict.PASS, *wish, upgrade="kernel")
    submit(database, Order(*wish, upgrade="all"))
    (one,) = fleet(database)
    assert (one.answer, one.run_id, one.newest_state) == (FleetAnswer.NO, first, None)
    ended(database, Verdict.PASS, "package", "web02", "xen2", upgrade="nginx")
    other = asked(database)["package", "web02", "xen2"]
    assert (other.answer, other.run_id, other.ended) == (FleetAnswer.UNKNOWN, None, None)
