"""Who may see and do what on the pages: every route with every kind of visitor; forms of others."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

import pytest
from fastapi.routing import APIRoute
from sqlalchemy import select, update

from tests.contract.test_api_files import OUT, SECRET
from tests.support.fakes.sample_records import passed
from tests.support.service.api_world import HOST, Api
from tests.support.service.web_world import (
    COOKIE,
    FORM,
    Visitor,
    begun,
    dashboard,
    rehearsed,
    visitor,
)
from workers.database.clock import now
from workers.database.schema import sessions as table
from workers.database.schema import tokens as tokens_table
from workers.web.auth import sessions, tokens
from workers.web.auth.tokens import Scope
from workers.web.pages.application import ROUTERS

RUN = "20260101-000000-00000000"
# What each route needs; a new one has to be put here.
NEEDS: dict[tuple[str, str], Scope | None] = {
    ("GET", "/login"): None,
    ("POST", "/login"): None,
    ("GET", "/static/{version}/{name}"): None,
    ("POST", "/logout"): Scope.READ,
    ("GET", "/"): Scope.READ,
    ("GET", "/runs"): Scope.READ,
    ("GET", "/runs/{run_id}"): Scope.READ,
    ("GET", "/runs/{run_id}/stream"): Scope.READ,
    ("GET", "/runs/{run_id}/report/{format}"): Scope.READ,
    ("GET", "/runs/{run_id}/artifacts/{attempt}/{name:path}"): Scope.READ,
    ("GET", "/checks"): Scope.READ,
    ("GET", "/schedules"): Scope.READ,
    ("GET", "/hosts"): Scope.READ,
    ("GET", "/rehearse"): Scope.SUBMIT,
    ("POST", "/rehearse"): Scope.SUBMIT,
    ("POST", "/runs/{run_id}/cancel"): Scope.SUBMIT,
    ("POST", "/runs/{run_id}/retry"): Scope.SUBMIT,
}


@pytest.fixture(scope="module")
def served() -> Iterator[Api]:
    with dashboard() as one:
        yield one


def path_of(template: str) -> str:
    """Of things that there are not: who may not ask must not learn even that."""
    named = {"run_id": RUN, "format": "json", "attempt": "1", "version": "0"}
    return template.replace("{name:path}", "x").format(name="x", **named)


def ask(one: Visitor, method: str, path: str, csrf: str = "") -> int:
    return (one.get(path) if method == "GET" else one.post(path, {"csrf": csrf})).status


def test_every_route_says_what_it_needs() -> None:
    routes = [one for router in ROUTERS for one in router.routes if isinstance(one, APIRoute)]
    said = {(m, one.path): getattr(one, "needs", None) for one in routes for m in one.methods}
    assert said == NEEDS


def test_every_route_with_every_kind_of_visitor(served: Api) -> None:
    inside = {scope: visitor(served, scope) for scope in Scope}
    csrf = {scope: one.csrf() for scope, one in inside.items()}
    for (method, template), needed in NEEDS.items():
        path = path_of(template)
        if needed is None or path == "/logout":
            continue
        for nobody in strangers(served):
            told = nobody.get(path) if method == "GET" else nobody.post(path, {"csrf": "x"})
            assert told.status == (303 if method == "GET" else 401), (method, path)
            assert RUN.encode() not in told.body
            if method == "GET":
                assert told.headers["location"].startswith("/login?next=/")
        for scope, one in inside.items():
            told_status = ask(one, method, path, csrf[scope])
            if scope.includes(needed):
                assert told_status not in (401, 403), (method, path, scope)
            else:
                assert told_status == 403, (method, path, scope)


def strangers(served: Api) -> list[Visitor]:
    """Nobody, and who is not, or is no longer, who they say."""
    database = served.there.database
    expired, revoked = visitor(served), Visitor(served)
    digest = hashlib.sha256(expired.cookies[COOKIE].encode()).hexdigest()
    with database.write() as connection:
        changed = update(table).where(table.c.digest == digest).values(expires=now() - 1)
        assert connection.execute(changed).rowcount == 1
    gone, text = tokens.create(database, "gone", Scope.ADMIN, None)
    revoked.enter(text)
    tokens.revoke(database, gone.id)
    old, text = tokens.create(database, "old", Scope.ADMIN, 3600.0)
    ended = Visitor(served)
    ended.enter(text)
    with database.write() as connection:
        row = update(tokens_table).where(tokens_table.c.id == old.id)
        connection.execute(row.values(expires=now() - 1))
    said = ("x" * 43, "", "' OR 1=1 --", digest, served.token(Scope.ADMIN))
    return [Visitor(served), expired, revoked, ended, *(Visitor(served, {COOKIE: s}) for s in said)]


def test_a_token_of_the_api_opens_no_page_and_a_session_no_api(served: Api) -> None:
    assert served.ask("/", Scope.ADMIN).status == 303
    inside = visitor(served, Scope.ADMIN)
    for path in ("/v1/runs", "/v1/tokens", "/v1/hosts"):
        told = inside.get(path)
        assert (told.status, told.headers["content-type"]) == (401, "application/problem+json")


# -- the way in and out -----------------------------------------------------------------------


def test_a_session_is_a_strict_cookie_and_a_digest(served: Api) -> None:
    one = Visitor(served)
    told = one.enter(served.token(Scope.READ), "/runs?guest=web01")
    assert (told.status, told.headers["location"]) == (303, "/runs?guest=web01")
    cookie = told.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/", "Max-Age=43200"} <= set(cookie.split("; "))
    secret = one.cookies[COOKIE]
    assert len(secret) >= 43
    with served.there.database.read() as connection:
        rows = str(connection.execute(select(table)).all())
    assert secret not in rows
    assert one.csrf() not in rows
    assert secret not in one.get("/").body.decode()
    log = served.there.log.read_text()
    assert secret not in log
    assert served.token(Scope.READ) not in log


def test_over_tls_the_cookie_is_for_tls_alone() -> None:
    with dashboard(API_PROXIES="127.0.0.1") as served:
        one = Visitor(served)
        form, tls = {"token": served.token(Scope.READ)}, {"X-Forwarded-Proto": "https"}
        told = one.post("/login", form, {**tls, "Origin": f"https://127.0.0.1:{served.port}"})
        assert told.status == 303
        assert "Secure" in told.headers["set-cookie"].split("; ")
        assert told.headers["set-cookie"].startswith("__Host-sandbox=")
        assert one.get("/", tls).status == 200
        plain = Visitor(served, {COOKIE: one.cookies["__Host-sandbox"]})
        assert plain.get("/", tls).status == 303


def test_who_leaves_is_out_also_with_the_old_cookie(served: Api) -> None:
    one = visitor(served)
    before = dict(one.cookies)
    assert one.post("/logout", {"csrf": one.csrf()}).headers["location"] == "/login"
    assert one.cookies == {}
    assert Visitor(served, before).get("/").status == 303


def test_signing_in_again_ends_the_session_before(served: Api) -> None:
    one = visitor(served)
    before = dict(one.cookies)
    one.enter(served.token(Scope.SUBMIT))
    assert one.cookies != before, "a session that others could know is not taken over"
    assert Visitor(served, before).get("/").status == 303
    assert one.get("/rehearse").status == 200


def test_a_wrong_token_is_told_kindly_and_counted() -> None:
    with dashboard(API_FAILURES="3") as served:
        one, good = Visitor(served), visitor(served)
        for _ in range(3):
            told = one.enter("sbx_0123456789ab_" + "x" * 43)
            assert told.status == 401
            assert "not good any more" in told.body.decode()
        told = one.enter("sbx_0123456789ab_" + "y" * 43)
        assert told.status == 429
        assert int(told.headers["retry-after"]) > 0
        assert good.get("/").status == 200, "who is inside does not suffer from it"


def test_requests_are_counted_by_token() -> None:
    with dashboard(API_RATE="5") as served:
        one = visitor(served)
        statuses = [one.get("/runs").status for _ in range(8)]
        assert statuses[0] == 200
        assert statuses[-1] == 429


@pytest.mark.parametrize(
    "onward",
    ["//evil.example", "/\\evil.example", "https://evil.example/", "javascript:alert(1)", "/ //x"],
)
def test_the_way_in_leads_nowhere_else(served: Api, onward: str) -> None:
    assert Visitor(served).enter(served.token(Scope.READ), onward).headers["location"] == "/"


def test_a_link_from_elsewhere_finds_the_session(served: Api) -> None:
    """A strict cookie does not come with it; from a page of ours it does."""
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    told = Visitor(served).get(f"/runs/{RUN}?x=1", headers)
    assert told.status == 200
    assert f'content="0; url=/runs/{RUN}?x=1"' in told.body.decode()
    again = Visitor(served).get(f"/runs/{RUN}", {"Sec-Fetch-Site": "same-origin"})
    assert again.headers["location"] == f"/login?next=/runs/{RUN}"


# -- forms of others --------------------------------------------------------------------------


def test_forms_of_other_sites_do_nothing(served: Api) -> None:
    one = visitor(served, Scope.SUBMIT)
    held = begun(served, "csrf01")
    path, csrf = f"/runs/{held.run_id}/cancel", one.csrf()
    others = visitor(served, Scope.ADMIN).csrf()
    ours = f"http://127.0.0.1:{served.port}"
    for form, headers in (
        ({}, {}),
        ({"csrf": ""}, {}),
        ({"csrf": others}, {}),
        ({"csrf": csrf[:-1]}, {}),
        ({"csrf": csrf}, {"Origin": "https://evil.example"}),
        ({"csrf": csrf}, {"Origin": "null"}),
        ({"csrf": csrf}, {"Origin": ""}),
        ({"csrf": csrf}, {"Origin": "http://[bad"}),
        ({"csrf": csrf}, {"Origin": ours + "0"}),
        ({"csrf": csrf}, {"Sec-Fetch-Site": "cross-site"}),
        ({"csrf": csrf}, {"Sec-Fetch-Site": "same-site"}),
        ({"csrf": csrf}, {"Sec-Fetch-Site": "none"}),
    ):
        told = one.post(path, form, headers)
        assert told.status == 403, (form, headers)
    assert one.post("/login", {"token": "x"}, {"Origin": "https://evil.example"}).status == 403
    for kind in ("text/plain", "application/json", "multipart/form-data; boundary=x"):
        assert one.post(path, {"csrf": csrf}, {"Content-Type": kind}).status == 415
    assert one.get(path).status == 405, "nothing is done by a link"
    assert "running" in one.get(f"/runs/{held.run_id}").body.decode()
    assert one.post(path, {"csrf": csrf}).headers["location"] == f"/runs/{held.run_id}"
    assert "being cancelled" in one.get(f"/runs/{held.run_id}").body.decode()


def test_what_is_no_form_is_refused(served: Api) -> None:
    one = visitor(served, Scope.SUBMIT)
    headers = {"Content-Type": FORM, "Origin": f"http://127.0.0.1:{served.port}"}
    for body in (b"\xff=1", b"csrf=%ff", b"&".join(b"a%d=1" % n for n in range(50))):
        told = served.ask("/login", None, method="POST", body=body, headers=headers)
        assert told.status == 400, body
    assert one.post("/rehearse", {"csrf": one.csrf(), "guest": "x" * 70_000}).status == 413


# -- what pages never do ----------------------------------------------------------------------


def test_every_answer_has_the_headers_that_keep_a_page_in_its_place(served: Api) -> None:
    one = visitor(served, Scope.SUBMIT)
    run_id = rehearsed(served, passed(), guest="head01")
    for path in (
        "/login",
        "/",
        "/runs",
        f"/runs/{run_id}",
        "/hosts",
        "/schedules",
        "/rehearse",
        "/x",
    ):
        told = one.get(path)
        policy = dict(
            part.partition(" ")[::2] for part in told.headers["content-security-policy"].split("; ")
        )
        assert policy["default-src"] == "'none'", path
        assert {policy[name] for name in ("script-src", "style-src")} == {"'self'"}
        assert {policy[name] for name in ("base-uri", "frame-ancestors")} == {"'none'"}
        assert told.headers["x-content-type-options"] == "nosniff"
        assert told.headers["referrer-policy"] == "same-origin"
        assert told.headers["cache-control"] == "no-store"
        text = told.body.decode()
        assert not re.search(r"<style|style=|<script(?! src=\"/static/)|\son\w+=", text), path
        assert not re.search(r"(src|href|action)=\"(?!/|#|data:image/png)", text), path


def test_artifacts_lead_nowhere_else(served: Api) -> None:
    one = visitor(served)
    run_id = rehearsed(served, passed(), guest="files01")
    base = f"/runs/{run_id}/artifacts/1/"
    got = one.get(base + "console.log")
    assert got.status == 200
    assert got.headers["content-disposition"] == "attachment"
    assert got.headers["content-type"] == "application/octet-stream"
    assert "sandbox" in got.headers["content-security-policy"]
    for path in OUT:
        told = one.get(base + path)
        assert told.status == 404, path
        assert SECRET not in told.body.decode(errors="replace")
        assert "root:" not in told.body.decode(errors="replace")
    for attempt in ("0", "2", "-1", "x", "99999999999"):
        assert one.get(f"/runs/{run_id}/artifacts/{attempt}/console.log").status == 404
    other = f"/runs/{run_id[:-1]}{'0' if run_id[-1] != '0' else '1'}"
    assert one.get(f"{other}/artifacts/1/console.log").status == 404
    assert Visitor(served).get(base + "console.log").status == 303


def test_the_stored_report_can_do_nothing(served: Api) -> None:
    one = visitor(served)
    run_id = rehearsed(served, passed(), guest="report01")
    told = one.get(f"/runs/{run_id}/report/html")
    assert told.status == 200
    policy = told.headers["content-security-policy"]
    assert "sandbox" in policy
    assert "script-src" not in policy
    for kind in ("text", "json", "junit", "markdown"):
        assert one.get(f"/runs/{run_id}/report/{kind}").status == 200
    assert one.get(f"/runs/{run_id}/report/exe").status == 404


def test_problems_are_pages_here_and_json_there(served: Api) -> None:
    one = visitor(served)
    for path in ("/x", "/runs/x", f"/runs/{RUN}", "/static/x/style.css", "/docs", "/%00", "/runs/"):
        told = one.get(path)
        assert told.status == 404, path
        assert told.headers["content-type"] == "text/html; charset=utf-8"
        assert "<h1>Not Found</h1>" in told.body.decode()
    for path in (
        "/?page=x",
        "/?answer=maybe",
        "/runs?verdict=x",
        "/runs?cursor=x",
        "/runs?state=x",
    ):
        told = one.get(path)
        assert (told.status, told.headers["content-type"]) == (422, "text/html; charset=utf-8")
    assert served.ask("/v1/x", Scope.READ).problem["status"] == 404
    assert "Traceback" not in served.there.log.read_text()


def test_sessions_that_ended_are_removed(served: Api) -> None:
    database = served.there.database
    visitor(served)
    with database.write() as connection:
        connection.execute(update(table).values(expires=now() - 1))
    visitor(served)
    with database.read() as connection:
        assert len(connection.execute(select(table)).all()) == 1
    assert sessions.find(database, "\ud800") is None
    assert HOST
