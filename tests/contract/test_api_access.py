"""Who may ask what: every route with every kind of token, on every kind of database."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import product

import pytest
from sqlalchemy import update

from tests.support.service.api_world import MANY, Api, api
from workers.database.clock import now
from workers.database.schema import tokens as table
from workers.web.auth import tokens
from workers.web.auth.tokens import Scope, TokenState

RUN = "20260101-000000-00000000"
# What each route needs; a new one has to be put here.
NEEDS: dict[tuple[str, str], Scope | None] = {
    ("get", "/v1/health"): None,
    ("get", "/v1/runs"): Scope.READ,
    ("get", "/v1/runs/{run_id}"): Scope.READ,
    ("get", "/v1/runs/{run_id}/events"): Scope.READ,
    ("get", "/v1/runs/{run_id}/stream"): Scope.READ,
    ("get", "/v1/runs/{run_id}/report/{format}"): Scope.READ,
    ("get", "/v1/runs/{run_id}/artifacts"): Scope.READ,
    ("get", "/v1/runs/{run_id}/artifacts/{attempt}/{name}"): Scope.READ,
    ("get", "/v1/scenarios"): Scope.READ,
    ("get", "/v1/hosts"): Scope.READ,
    ("get", "/v1/guests"): Scope.READ,
    ("get", "/v1/checks"): Scope.READ,
    ("get", "/v1/schedules"): Scope.READ,
    ("get", "/v1/gate"): Scope.READ,
    ("post", "/v1/runs"): Scope.SUBMIT,
    ("post", "/v1/runs/{run_id}/cancel"): Scope.SUBMIT,
    ("post", "/v1/runs/{run_id}/retry"): Scope.SUBMIT,
    ("get", "/v1/tokens"): Scope.ADMIN,
    ("delete", "/v1/tokens/{token_id}"): Scope.ADMIN,
}
ROUTES = [key for key, scope in NEEDS.items() if scope is not None]


@pytest.fixture
def served(database_url: str) -> Iterator[Api]:
    with api(DATABASE=database_url) as one:
        yield one


def path_of(template: str) -> str:
    """Of things that there are not: who may not ask must not learn even that."""
    named = {"run_id": RUN, "format": "json", "attempt": "1", "name": "x", "token_id": "0" * 12}
    return template.format(**named)


def bad_tokens(served: Api) -> dict[str, str]:
    """Some that were good, and some that never were."""
    database = served.there.database
    expired, expired_text = tokens.create(database, "old", Scope.ADMIN, 3600.0)
    with database.write() as connection:
        connection.execute(update(table).where(table.c.id == expired.id).values(expires=now() - 1))
    revoked, revoked_text = tokens.create(database, "gone", Scope.ADMIN, None)
    tokens.revoke(database, revoked.id)
    _good, text = tokens.create(database, "good", Scope.ADMIN, None)
    return {
        "is expired": expired_text,
        "is revoked": revoked_text,
        "is none": text[:-1] + ("A" if text[-1] != "A" else "B"),
        "is none ": "sbx_0123456789ab_" + "x" * 43,
        "is none  ": "' OR 1=1 --",
    }


def test_every_route_with_every_kind_of_token(served: Api) -> None:
    document = served.ask("/v1/openapi.json", None).json
    listed = {(m, path) for path, item in document["paths"].items() for m in item}
    assert listed == set(NEEDS)
    bad = bad_tokens(served)
    for method, template in ROUTES:
        path, needed = path_of(template), NEEDS[method, template]
        assert needed is not None
        nobody = served.ask(path, None, method=method.upper())
        assert nobody.status == 401, path
        assert nobody.headers["www-authenticate"].startswith("Bearer ")
        assert "sandbox token create" in nobody.problem["hint"]
        for why, text in bad.items():
            told = served.ask(path, text, method=method.upper())
            assert (told.status, why.strip() in told.problem["detail"]) == (401, True), (path, why)
        for scope in Scope:
            told = served.ask(path, scope, method=method.upper())
            if scope.includes(needed):
                assert told.status not in (401, 403), (path, scope)
            else:
                assert told.status == 403, (path, scope)
                assert needed.value in told.problem["detail"]
    assert served.ask("/v1/health", None).status == 200


def test_who_may_not_is_refused_before_the_body_is_understood(served: Api) -> None:
    for body in (b"{", b"[" * 9000, json.dumps({"scenario": 1}).encode()):
        headers = {"Content-Type": "application/json"}
        told = served.ask("/v1/runs", None, method="POST", body=body, headers=headers)
        assert told.status == 401
        told = served.ask("/v1/runs", Scope.READ, method="POST", body=body, headers=headers)
        assert told.status == 403


def test_other_ways_to_say_who_one_is_do_not_count(served: Api) -> None:
    text = served.token(Scope.READ)
    assert served.ask(f"/v1/runs?token={text}&access_token={text}", None).status == 401
    for headers in (
        {"Authorization": f"Basic {text}"},
        {"Authorization": text},
        {"Authorization": "Bearer "},
        {"Cookie": f"token={text}"},
        {"X-Api-Key": text},
    ):
        assert served.ask("/v1/runs", None, headers=headers).status == 401
    assert served.ask("/v1/runs", None, headers={"Authorization": f"bearer {text}"}).status == 200


def test_a_token_is_revoked_over_http_and_its_use_is_known(served: Api) -> None:
    served.ask("/v1/runs", Scope.READ)
    mine = served.made[Scope.READ][0]
    listed = {one["id"]: one for one in served.ask("/v1/tokens", Scope.ADMIN).json}
    assert listed[mine.id]["used"] is not None
    assert "digest" not in listed[mine.id]
    gone = served.ask(f"/v1/tokens/{mine.id}", Scope.ADMIN, method="DELETE")
    assert (gone.status, gone.json["state"]) == (200, "revoked")
    assert served.ask("/v1/runs", Scope.READ).status == 401
    assert served.ask(f"/v1/tokens/{'0' * 12}", Scope.ADMIN, method="DELETE").status == 404


def test_tokens_are_made_listed_and_taken_back_by_command(database_url: str) -> None:
    with api(DATABASE=database_url) as one:
        made = one.there.command("token", "create", "--name", "ci", "--scope", "submit")
        assert made.returncode == 0, made.stderr
        text = made.stdout.strip()
        assert tokens.FORM.fullmatch(text)
        assert one.ask("/v1/runs", text).status == 200
        assert one.ask("/v1/tokens", text).status == 403
        told = one.there.command("token", "list", "--json")
        (listed,) = [json.loads(line) for line in told.stdout.splitlines()]
        assert (listed["name"], listed["scope"], listed["state"]) == ("ci", "submit", "good")
        assert text not in told.stdout + one.there.command("token", "list").stdout + made.stderr
        with one.there.database.read() as connection:
            row = connection.execute(table.select()).one()
        assert text not in str(row)
        assert "revoked" in one.there.command("token", "revoke", "ci").stdout
        assert one.ask("/v1/runs", text).status == 401
        assert one.there.command("token", "revoke", "ci").returncode == 2
        for words in (("--expires", "soon"), ("--expires", "0d"), ("--name", "a\nb")):
            refused = one.there.command("token", "create", "--name", "x", *words)
            assert refused.returncode == 2, words


def test_names_may_be_given_twice_and_are_then_not_enough(served: Api) -> None:
    database = served.there.database
    first, _ = tokens.create(database, "ci", Scope.READ, None)
    second, _ = tokens.create(database, "ci", Scope.READ, None)
    with pytest.raises(Exception, match="the name of 2 tokens"):
        tokens.revoke(database, "ci")
    assert tokens.revoke(database, first.id).state is TokenState.REVOKED
    assert tokens.revoke(database, "ci").id == second.id


def test_scopes_include_those_before_them() -> None:
    order = list(Scope)
    for mine, needed in product(order, order):
        assert mine.includes(needed) == (order.index(mine) >= order.index(needed))
    assert MANY.isdigit()
