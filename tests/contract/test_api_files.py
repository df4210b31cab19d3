"""Reports and artifacts over HTTP: what was left, and nothing that lies beside it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from lxml import etree
from sqlalchemy import update

from sandbox.core.records import Decision, RunRecord, Verdict
from sandbox.core.store import Store
from tests.support.service.api_world import HOST, Api, api
from workers.artifacts.places import NoSuchFile, Place, place_for
from workers.artifacts.worker_folders import keep_attempt
from workers.database.schema import attempts
from workers.queue.leases import claim, finish, note_folder
from workers.queue.submission import submit
from workers.queue.values import Order, Outcome
from workers.settings import read_service_settings

SECRET = "of the host, not of the run"
LOG = b"hello\n\0\xff" * 20_000
ODD = "before/häßlich & lang?.txt"
# What must never lead out: to a file beside the record, to the record's parent, or anywhere.
OUT = (
    "../secret",
    "../../secret",
    "..%2fsecret",
    "%2e%2e/secret",
    "%2e%2e%2fsecret",
    "..%5csecret",
    "..%c0%afsecret",
    "%252e%252e%252fsecret",
    "....//secret",
    "before/../../secret",
    "before/..%2f..%2fsecret",
    "./console.log",
    "before//../console.log",
    "/etc/passwd",
    "%2fetc%2fpasswd",
    "//etc/passwd",
    "link",
    "out/passwd",
    "console.log%00",
    "console.log%00.txt",
    "console.log/",
    "before",
    "",
    "C:%5cwindows",
    "~/.ssh/id_ed25519",
    "file:///etc/passwd",
    "x" * 900,
)


@pytest.fixture
def served() -> Iterator[Api]:
    with api() as one:
        yield one


def record(record_id: str, state: str = "finished") -> RunRecord:
    return RunRecord(
        id=record_id,
        tool_version="0",
        scenario="security",
        guest="web01",
        started=1_785_492_600.0,
        finished=1_785_492_900.0,
        state=state,
        decision=Decision(verdict=Verdict.PASS, reason="all is well"),
    )


def ended(served: Api) -> tuple[str, Path]:
    """A run with a record, artifacts and what a hostile guest might wish for; its folder."""
    there = served.there
    run_id = submit(there.database, Order("security", "web01", HOST)).run_id
    held = claim(there.database, HOST, "worker-a", 60.0, None)
    assert held is not None
    place = Store(there.settings.sandbox).create()
    note_folder(there.database, held, place.id)
    place.save(record(place.id))
    (place.artifacts / "console.log").write_bytes(LOG)
    (place.artifacts / "before").mkdir()
    (place.artifacts / ODD).write_text("units\n")
    for beside in (place.artifacts.parent, place.artifacts.parent.parent):
        (beside / "secret").write_text(SECRET)
    (place.artifacts / "link").symlink_to(place.artifacts.parent / "secret")
    (place.artifacts / "out").symlink_to("/etc")
    place.remove_clone()
    finish(there.database, held, Outcome(Verdict.PASS, "all is well"))
    keep_attempt(there.database, there.settings, held)
    return run_id, place.artifacts


def test_artifacts_are_listed_and_fetched_as_they_are(served: Api) -> None:
    run_id, _folder = ended(served)
    (left,) = served.ask(f"/v1/runs/{run_id}/artifacts").json
    assert left["state"] == "here"
    files = {one["name"]: one for one in left["files"]}
    assert set(files) == {"console.log", ODD, "run.json"}
    assert files["console.log"]["bytes"] == len(LOG)
    got = served.ask(files["console.log"]["url"])
    assert (got.status, got.body) == (200, LOG)
    assert got.headers["content-type"] == "application/octet-stream"
    assert got.headers["content-disposition"] == "attachment"
    assert got.headers["x-content-type-options"] == "nosniff"
    assert served.ask(files[ODD]["url"]).body == b"units\n"
    assert served.ask(files["console.log"]["url"], None).status == 401


def test_nothing_else_is_reached_however_it_is_written(served: Api) -> None:
    run_id, _folder = ended(served)
    for name in OUT:
        told = served.ask(f"/v1/runs/{run_id}/artifacts/1/{name}")
        assert told.status in (404, 405, 422), name
        assert SECRET.encode() not in told.body, name
        assert b"root:" not in told.body, name
        assert told.problem
    for path in (
        f"/v1/runs/{run_id}/artifacts/2/console.log",
        f"/v1/runs/{run_id}/artifacts/0/console.log",
        f"/v1/runs/{run_id}/artifacts/x/console.log",
        "/v1/runs/../runs",
        "/v1/runs/..%2f..%2fsecret/artifacts",
        f"/v1/runs/{run_id}/report/..%2f..%2fsecret",
    ):
        assert served.ask(path).status in (404, 422), path


def test_what_has_a_folder_between_is_gone_before_it_is_read(served: Api) -> None:
    """A place that somebody else writes to: what became a link since it was listed."""
    _run_id, folder = ended(served)
    place = place_for(dataclasses.replace(served.there.settings, artifacts=str(folder.parent)))
    assert place is not None
    (folder / "console.log").unlink()
    (folder / "console.log").symlink_to(folder.parent / "secret")
    with pytest.raises(NoSuchFile):
        place.stream(folder.name, "console.log")


def test_reports_in_every_format(served: Api) -> None:
    run_id, _folder = ended(served)
    report = f"/v1/runs/{run_id}/report"
    assert b"YES, upgrade web01" in served.ask(f"{report}/text").body
    assert served.ask(f"{report}/json").json["decision"]["verdict"] == "pass"
    assert etree.fromstring(served.ask(f"{report}/junit").body).tag == "testsuites"
    assert served.ask(f"{report}/markdown").headers["content-type"].startswith("text/markdown")
    page = served.ask(f"{report}/html")
    assert page.body.lstrip().startswith(b"<!")
    assert "sandbox" in page.headers["content-security-policy"]
    assert "script" not in page.headers["content-security-policy"]
    assert served.ask(f"{report}/pdf").status == 422


def test_what_was_copied_is_served_from_there() -> None:
    with api() as one:
        one.there.environment["SANDBOX_SERVICE_ARTIFACTS"] = str(one.there.folder / "place")
        one.there.settings = read_service_settings(one.there.environment)
        run_id, folder = ended(one)
        folder.rename(one.there.folder / "gone")
        assert one.ask(f"/v1/runs/{run_id}/artifacts").json[0]["state"] == "elsewhere"
        told = one.ask(f"/v1/runs/{run_id}/report/json")
        assert told.status == 404
        assert "SANDBOX_SERVICE_ARTIFACTS" in told.problem["hint"]
    with api(ARTIFACTS="/nonexistent") as one:
        place = one.there.folder / "place"
        one.there.kill(one.process)
        one.there.environment["SANDBOX_SERVICE_ARTIFACTS"] = str(place)
        one.there.settings = read_service_settings(one.there.environment)
        one.there.log.unlink()
        _serves_copies(one)


def _serves_copies(before: Api) -> None:
    from tests.support.service.api_world import started

    one = started(before.there)
    run_id, folder = ended(one)
    folder.rename(one.there.folder / "gone")
    (left,) = one.ask(f"/v1/runs/{run_id}/artifacts").json
    assert left["state"] == "stored"
    urls = {file["name"]: file["url"] for file in left["files"]}
    assert one.ask(urls["console.log"]).body == LOG
    assert one.ask(f"/v1/runs/{run_id}/report/json").json["decision"]["verdict"] == "pass"
    # Before that, on another machine: it comes in a moment; after that moment, it does not.
    for ended_before, status, said in ((0.0, 409, "is being copied"), (100.0, 404, "no report")):
        values = {"artifacts": "", "ended": attempts.c.ended - ended_before}
        with one.there.database.write() as connection:
            connection.execute(update(attempts).values(values))
        told = one.ask(f"/v1/runs/{run_id}/report/json")
        assert (told.status, said in told.problem["detail"]) == (status, True), told


def test_while_it_is_at_work_there_is_no_report(served: Api) -> None:
    database = served.there.database
    run_id = submit(database, Order("security", "web01", HOST)).run_id
    none = served.ask(f"/v1/runs/{run_id}/report/json")
    assert (none.status, none.problem["hint"]) == (404, "wait for its end")
    assert served.ask(f"/v1/runs/{run_id}/artifacts").json == []
    held = claim(database, HOST, "worker-a", 60.0, None)
    assert held is not None
    place = Store(served.there.settings.sandbox).create()
    note_folder(database, held, place.id)
    place.save(record(place.id, state="running"))
    assert served.ask(f"/v1/runs/{run_id}/report/json").status == 409
    assert len(served.ask(f"/v1/runs/{run_id}/artifacts").json) == 1
    finish(database, held, Outcome(Verdict.PASS, "all is well"))
    with database.write() as connection:
        connection.execute(update(attempts).values(artifacts="expired", folder="gone"))
    told = served.ask(f"/v1/runs/{run_id}/report/json")
    assert told.status == 404
    assert "age or size" in told.problem["hint"]


def test_a_name_is_quoted_in_its_url(served: Api) -> None:
    run_id, _folder = ended(served)
    text = json.dumps(served.ask(f"/v1/runs/{run_id}/artifacts").json)
    assert quote(ODD) in text
    assert Place.stream.__doc__
