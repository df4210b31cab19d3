"""Runs over HTTP: asked for once, listed in pages, taken back, decided on; on every database."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import func, select, update

from sandbox.core.records import Verdict
from tests.support.service.api_world import GUEST, HOST, Answer, Api, api
from workers.database.clock import now
from workers.database.schema import idempotency_keys, runs
from workers.queue import idempotency
from workers.queue.leases import claim, finish
from workers.queue.submission import submit
from workers.queue.values import Order, Outcome
from workers.web.auth.tokens import Scope


@pytest.fixture
def served(database_url: str) -> Iterator[Api]:
    with api(DATABASE=database_url) as one:
        yield one


def rehearsed(served: Api, guest: str, verdict: Verdict, **more: Any) -> str:
    """A run that has ended."""
    database = served.there.database
    run_id = submit(database, Order("security", guest, HOST, most_attempts=1, **more)).run_id
    held = claim(database, HOST, "worker-a", 60.0, None)
    assert held is not None
    assert held.run_id == run_id
    finish(database, held, Outcome(verdict, f"because of {verdict.value}"))
    return run_id


def counted(served: Api) -> int:
    with served.there.database.read() as connection:
        return int(connection.execute(select(func.count()).select_from(runs)).scalar_one())


def pages(served: Api, path: str) -> Iterator[list[dict[str, Any]]]:
    cursor = ""
    while True:
        told = served.ask(f"{path}{'&cursor=' if cursor else ''}{cursor}")
        assert told.status == 200, told
        yield told.json["items"]
        cursor = told.json["next"]
        if cursor is None:
            return


# -- asking for one ---------------------------------------------------------------------------


def test_a_run_is_queued_and_joined(served: Api) -> None:
    first = served.submit(upgrade="nginx,openssl=3.0.20-1", priority="gate")
    assert first.status == 202
    run = first.json["run"]
    assert first.headers["location"] == f"/v1/runs/{run['id']}"
    assert (run["guest"], run["host"], run["state"]) == (GUEST, HOST, "queued")
    assert (run["upgrade"], run["priority"]) == ("nginx,openssl=3.0.20-1", "gate")
    assert served.made[Scope.SUBMIT][0].id in run["origin"]
    assert served.ask(first.headers["location"]).json == run
    again = served.submit(upgrade="nginx,openssl=3.0.20-1", priority="gate")
    assert (again.json["run"]["id"], again.json["joined"]) == (run["id"], True)
    apart = served.submit(upgrade="nginx,openssl=3.0.20-1", fresh=True)
    assert apart.json["run"]["id"] != run["id"]


WRONG: list[dict[str, Any]] = [
    {"scenario": "nonsense"},
    {"scenario": "../security"},
    {"scenario": "/etc"},
    {"scenario": "."},
    {"scenario": "scenario.yaml"},
    {"host": "nowhere"},
    {"host": "qemu:///system"},
    {"host": "xen+ssh://root@evil.example.org/system"},
    {"guest": "-oProxyCommand=x"},
    {"guest": "a\0b"},
    {"guest": "\ud800"},
    {"guest": ""},
    {"guest": 1},
    {"upgrade": "./x.deb"},
    {"upgrade": "x.deb"},
    {"upgrade": "/etc/passwd"},
    {"upgrade": "nginx, x.rpm "},
    {"user": "root; rm"},
    {"key": "id_ed25519"},
    {"key": "../key"},
    {"priority": "first"},
    {"fresh": "yes"},
    {"image": "/srv/web01.qcow2"},
    {"origin": "cli root"},
]


def test_what_is_wrong_is_refused_and_nothing_queued(served: Api) -> None:
    for more in WRONG:
        told = served.submit(**more)
        assert told.status == 422, more
        assert told.problem["hint"], more
    assert counted(served) == 0


def test_keys_are_lent_from_one_folder_by_name(database_url: str) -> None:
    with api(DATABASE=database_url, API_KEYS="/nonexistent/keys") as served:
        told = served.submit(key="id_ed25519")
        assert told.status == 422
        assert "/nonexistent/keys/id_ed25519" in told.problem["detail"]


# -- asking twice -----------------------------------------------------------------------------


def test_the_same_key_is_the_same_run_also_when_it_has_ended(served: Api) -> None:
    first = served.submit(fresh=True, idempotency_key="build-1")
    run_id = first.json["run"]["id"]
    served.ask(f"/v1/runs/{run_id}/cancel", Scope.SUBMIT, method="POST")
    again = served.submit(fresh=True, idempotency_key="build-1")
    assert (again.status, again.json["run"]["id"]) == (202, run_id)
    assert again.json["run"]["state"] == "cancelled"
    assert again.json["joined"] is False
    assert served.submit(fresh=True, idempotency_key="build-2").json["run"]["id"] != run_id
    assert counted(served) == 2


def test_the_same_key_with_another_body_is_refused(served: Api) -> None:
    run_id = served.submit(idempotency_key="k").json["run"]["id"]
    other = served.submit("web02", idempotency_key="k")
    assert other.status == 422
    assert run_id in other.problem["detail"]
    retried = served.ask(
        f"/v1/runs/{run_id}/retry",
        Scope.SUBMIT,
        method="POST",
        headers={"Idempotency-Key": "k"},
    )
    assert retried.status == 422
    assert counted(served) == 1


def test_a_key_is_its_tokens_own(served: Api) -> None:
    body = {"scenario": "security", "guest": GUEST, "host": HOST, "fresh": True}
    headers = {"Idempotency-Key": "k"}
    mine = served.submit(fresh=True, idempotency_key="k").json["run"]["id"]
    theirs = served.ask("/v1/runs", Scope.ADMIN, method="POST", body=body, headers=headers)
    assert theirs.json["run"]["id"] != mine


def test_many_at_once_with_one_key_queue_one_run(served: Api) -> None:
    served.token(Scope.SUBMIT)

    def ask(_number: int) -> Answer:
        return served.submit(fresh=True, idempotency_key="k")

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(16)))
    assert {one.status for one in answers} == {202}
    assert len({one.json["run"]["id"] for one in answers}) == 1
    assert counted(served) == 1


def test_a_request_that_failed_leaves_no_key_and_odd_keys_are_refused(served: Api) -> None:
    assert served.submit(scenario="nonsense", idempotency_key="k").status == 422
    assert served.submit(idempotency_key="k").status == 202
    for key in ("two words", "x" * 201):
        assert served.submit(idempotency_key=key).status == 422


def test_old_keys_are_forgotten(served: Api) -> None:
    for key in ("old", "new"):
        served.submit(fresh=True, idempotency_key=key)
    database = served.there.database
    with database.write() as connection:
        connection.execute(
            update(idempotency_keys)
            .where(idempotency_keys.c.key == "old")
            .values(created=now() - idempotency.KEPT - 1)
        )
    assert idempotency.forget(database) == 1
    with database.read() as connection:
        assert connection.execute(select(idempotency_keys.c.key)).scalars().all() == ["new"]


# -- looking ----------------------------------------------------------------------------------


def test_pages_have_each_run_once_while_others_come(served: Api) -> None:
    database = served.there.database
    made = [submit(database, Order("security", f"web{n}", HOST)).run_id for n in range(7)]
    with database.write() as connection:  # some at the same instant
        connection.execute(update(runs).where(runs.c.id.in_(made[2:5])).values(submitted=1.5))
    seen: list[str] = []
    for page in pages(served, "/v1/runs?limit=2"):
        seen += [run["id"] for run in page]
        submit(database, Order("security", f"late{len(seen)}", HOST))
    assert sorted(seen) == sorted(made)
    assert set(seen[-3:]) == set(made[2:5])


def test_runs_are_filtered(served: Api) -> None:
    passed = rehearsed(served, "web01", Verdict.PASS)
    failed = rehearsed(served, "web02", Verdict.FAIL)
    queued = submit(served.there.database, Order("kernel", "web01", "xen2")).run_id
    for query, wanted in {
        "": {passed, failed, queued},
        "guest=web01": {passed, queued},
        "host=xen2": {queued},
        "scenario=security": {passed, failed},
        "verdict=fail": {failed},
        "state=queued": {queued},
        "state=queued&state=finished": {passed, failed, queued},
        "guest=web01&verdict=pass": {passed},
        "guest=%25": set(),
    }.items():
        told = served.ask(f"/v1/runs?{query}")
        assert {run["id"] for run in told.json["items"]} == wanted, query
    for query in ("verdict=maybe", "state=done", "limit=0", "limit=1000", "guest=%00", "cursor=x"):
        assert served.ask(f"/v1/runs?{query}").status == 422, query


def test_a_cursor_of_somebodys_own_is_refused(served: Api) -> None:
    from workers.web.api.paging import cursor_of

    for cursor in (
        cursor_of("x", "y"),
        cursor_of(1.0),
        cursor_of(1.0, "a\0b"),
        cursor_of(1.0, "a", "b"),
        "A",
        "____",
    ):
        told = served.ask(f"/v1/runs?cursor={cursor}")
        assert told.status == 422, cursor
        assert "cursor" in told.problem["detail"]


def test_guests_have_their_last_verdict(served: Api) -> None:
    rehearsed(served, "web01", Verdict.PASS)
    last = rehearsed(served, "web01", Verdict.FAIL)
    rehearsed(served, "web02", Verdict.PASS)
    submit(served.there.database, Order("security", "web01", HOST))
    submit(served.there.database, Order("security", "new", HOST))
    found = [one for page in pages(served, "/v1/guests?limit=1") for one in page]
    assert [(one["guest"], one["verdict"]) for one in found] == [
        ("new", None),
        ("web01", "fail"),
        ("web02", "pass"),
    ]
    assert (found[1]["run"], found[1]["reason"]) == (last, "because of fail")


def test_hosts_scenarios_and_schedules(served: Api) -> None:
    submit(served.there.database, Order("security", "web01", HOST))
    hosts = {one["name"]: one for one in served.ask("/v1/hosts").json}
    assert set(hosts) == {"xen1", "xen2"}
    assert (hosts[HOST]["queued"], hosts[HOST]["kind"], hosts[HOST]["workers"]) == (1, "xen", [])
    assert "example.org" not in str(hosts), "how a host is reached is nobody's business"
    named = {one["name"] for one in served.ask("/v1/scenarios").json}
    assert {"security", "kernel", "everything"} <= named
    assert served.ask("/v1/schedules").json == {"items": [], "problems": {}}


# -- the gate ---------------------------------------------------------------------------------

GATE = f"/v1/gate?scenario=security&guest=web01&host={HOST}"


def test_only_a_pass_opens_the_gate(served: Api) -> None:
    for verdict in Verdict:
        run_id = rehearsed(served, "web01", verdict)
        told = served.ask(GATE).json
        assert told["allowed"] is (verdict is Verdict.PASS)
        assert (told["verdict"], told["run"]["id"]) == (verdict.value, run_id)
        assert told["reason"] == f"because of {verdict.value}"


def test_the_gate_asks_for_the_newest_verdict_of_just_this(served: Api) -> None:
    nothing = served.ask(GATE).json
    assert (nothing["allowed"], nothing["verdict"], nothing["run"]) == (False, None, None)
    rehearsed(served, "web01", Verdict.PASS)
    other = rehearsed(served, "web01", Verdict.FAIL, upgrade="nginx")
    assert served.ask(GATE).json["allowed"] is True
    told = served.ask(f"{GATE}&upgrade=nginx").json
    assert (told["allowed"], told["run"]["id"]) == (False, other)
    rehearsed(served, "web01", Verdict.ERROR)
    assert served.ask(GATE).json["allowed"] is False
    for query in ("scenario=kernel&guest=web01", "scenario=security&guest=web02"):
        assert served.ask(f"/v1/gate?{query}&host={HOST}").json["allowed"] is False
    assert served.ask("/v1/gate?scenario=security&guest=web01&host=nowhere").status == 422
    assert served.ask("/v1/gate?scenario=security").status == 422


def test_an_old_verdict_may_not_be_enough(served: Api) -> None:
    rehearsed(served, "web01", Verdict.PASS)
    with served.there.database.write() as connection:
        connection.execute(update(runs).values(ended=now() - 7200))
    assert served.ask(f"{GATE}&max_age=86400").json["allowed"] is True
    told = served.ask(f"{GATE}&max_age=3600").json
    assert (told["allowed"], told["verdict"]) == (False, "pass")
    assert "2.0 hours old" in told["reason"]


# -- taking back, once more -------------------------------------------------------------------


def test_cancel_and_retry(served: Api) -> None:
    run_id = served.submit().json["run"]["id"]
    early = served.ask(f"/v1/runs/{run_id}/retry", Scope.SUBMIT, method="POST")
    assert early.status == 409
    cancelled = served.ask(f"/v1/runs/{run_id}/cancel", Scope.SUBMIT, method="POST")
    assert (cancelled.status, cancelled.json["state"]) == (202, "cancelled")
    late = served.ask(f"/v1/runs/{run_id}/cancel", Scope.SUBMIT, method="POST")
    assert late.status == 409
    assert late.problem["hint"]
    again = served.ask(f"/v1/runs/{run_id}/retry", Scope.SUBMIT, method="POST")
    assert again.status == 202
    assert again.json["run"]["origin"] == f"retry of {run_id}"
    for what in ("", "/events", "/stream", "/artifacts", "/report/json"):
        assert served.ask(f"/v1/runs/20200101-000000-00000000{what}").status == 404
        assert served.ask(f"/v1/runs/latest{what}").status == 422
