"""`sandbox gate` against a service: its answers, what it leaves for CI, how it ends early."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from lxml import etree
from markdown_it import MarkdownIt

from sandbox.core.records import Decision, RunRecord, Verdict
from sandbox.core.store import Store
from tests.support.service.api_world import HOST
from tests.support.service.gate_world import GITHUB, Ci, answer, between, ci
from workers.queue.leases import claim, finish, note_folder
from workers.queue.values import Outcome
from workers.web.auth.tokens import Scope

NO_WORKER = "xen2"
HOSTILE = (
    "@octocat #1 <img src=x onerror=alert(1)> ![i](http://evil.example/i.png)\n"
    "### Yes\n::set-output name=verdict::pass\n##[add-mask]x [a](http://evil.example)"
)


@pytest.fixture(scope="module")
def at() -> Iterator[Ci]:
    with ci() as one:
        yield one


@pytest.mark.parametrize(
    ("guest", "word", "code", "answered", "tag"),
    [
        ("good", "pass", 0, "Yes: all pretended checks hold.", None),
        ("db-fail", "fail", 1, "No: the pretended service does not start.", "failure"),
        ("db-error", "error", 4, "No (error): the pretended mirror did not answer.", "error"),
    ],
)
def test_the_verdict_is_the_exit_code_and_ci_has_its_files(
    at: Ci, tmp_path: Path, guest: str, word: str, code: int, answered: str, tag: str | None
) -> None:
    junit, markdown = tmp_path / "junit.xml", tmp_path / "comment.md"
    summary, outputs = tmp_path / "summary", tmp_path / "outputs"
    summary.write_text("from the step before\n")
    done = at.gate(
        *("--junit", str(junit), "--markdown", str(markdown)),
        guest=guest,
        GITHUB_STEP_SUMMARY=str(summary),
        GITHUB_OUTPUT=str(outputs),
    )
    told = done.json
    assert (done.code, told["verdict"], told["allowed"]) == (code, word, code == 0)
    assert told["way"] == "server"
    assert told["report"] == f"http://127.0.0.1:{at.served.port}/v1/runs/{told['run']}/report/html"
    text = markdown.read_text()
    assert text.splitlines()[0].endswith(f" May I upgrade {guest}? {answered}")
    assert f"](<{told['report']}>)" in text
    assert summary.read_text() == f"from the step before\n\n{text}"
    assert outputs.read_text() == f"verdict={word}\nallowed={told['allowed']!s}\n".lower() + (
        f"run={told['run']}\n"
    )
    cases = etree.fromstring(junit.read_bytes()).findall(".//testcase")
    assert [child.tag for child in cases[0] if child.tag != "system-out"] == ([tag] if tag else [])
    for phase in ("boot the clone", "upgrade", "reboot"):
        assert done.err.count(f"  {phase}\n") == 1
    assert f"added to {summary}" in done.err
    assert at.run(told["run"])["priority"] == "gate"


def test_what_is_wrong_is_rejected_and_ci_is_told(at: Ci, tmp_path: Path) -> None:
    junit, markdown = tmp_path / "junit.xml", tmp_path / "comment.md"
    files = ("--junit", str(junit), "--markdown", str(markdown))
    for arguments, env, said in (
        (("--upgrade", "./x.deb"), {}, "pattern"),
        ((), {"SANDBOX_TOKEN": "sbx_wrong"}, "is none of this service's"),
        ((), {"SANDBOX_TOKEN": ""}, "wants a token"),
        ((), {"SANDBOX_TOKEN_FILE": "/x"}, "are both set"),
        ((), {"SANDBOX_SERVER": "ftp://x"}, "is no URL of a server"),
        ((), {"SANDBOX_TOKEN": at.served.token(Scope.READ)}, "needs the scope submit"),
        (("--key", "/root/.ssh/id"), {}, "takes no file of ours"),
    ):
        done = at.gate(*files, *arguments, guest="wrong", **env)
        assert (done.code, done.json["ending"]) == (2, "rejected"), done
        assert said in done.json["reason"], done
        assert " May I upgrade wrong? No (rejected): " in markdown.read_text().splitlines()[0]
        assert etree.fromstring(junit.read_bytes()).find(".//error") is not None
        junit.unlink()
        markdown.unlink()
    assert at.runs_of("wrong") == []
    nowhere = at.gate("--junit", "/nonexistent/x.xml")
    assert nowhere.code == 2
    assert "cannot write /nonexistent/x.xml" in nowhere.err


def test_a_job_that_is_started_again_goes_on_with_its_run(at: Ci, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(at.served.token(Scope.SUBMIT) + "\n")
    job = {**GITHUB, "SANDBOX_TOKEN": "", "SANDBOX_TOKEN_FILE": str(token)}
    first = at.start(guest="again", GITHUB_RUN_ID="1", **job)
    first.said("queued")
    first.signal(signal.SIGKILL)
    second = at.gate(guest="again", GITHUB_RUN_ID="1", **job)
    assert second.code == 0
    assert "queued" in second.err  # its own, not somebody else's
    third = at.gate(guest="again", GITHUB_RUN_ID="1", **job)
    assert (third.code, third.json["run"]) == (0, second.json["run"])
    assert len(at.runs_of("again")) == 1


def test_a_cancelled_job_cancels_its_run(at: Ci, tmp_path: Path) -> None:
    junit = tmp_path / "junit.xml"
    gate = at.start("--junit", str(junit), guest="long-one")
    gate.said("  plan\n")
    done = gate.signal(signal.SIGTERM)
    assert (done.code, done.json["ending"]) == (130, "cancelled")
    assert "cancelling run" in done.err
    assert "cancel" in done.json["note"]
    assert at.until(done.json["run"], "cancelled", "finished")["state"] == "cancelled"
    assert etree.fromstring(junit.read_bytes()).find(".//error") is not None


def test_a_run_that_others_asked_for_too_is_not_cancelled(at: Ci) -> None:
    first = at.start(guest="shared", host=NO_WORKER)
    first.said("queued")
    second = at.start(guest="shared", host=NO_WORKER)
    second.said("joined a run that is open")
    left = second.signal(signal.SIGTERM)
    assert (left.code, left.json["note"]) == (
        130,
        "the run goes on for the others that asked for it",
    )
    (run,) = at.runs_of("shared")
    assert run["state"] == "queued"
    third = at.start(guest="shared", host=NO_WORKER)
    third.said("joined a run that is open")
    done = first.signal(signal.SIGTERM)
    assert done.json["note"] == "the run is cancelled and its clone removed"
    assert at.run(run["id"])["state"] == "cancelled"
    # Whoever joined it still wants an answer.
    third.said("asking anew")
    third.said(": queued")
    own = third.signal(signal.SIGTERM).json
    assert own["run"] != run["id"]
    assert at.run(own["run"])["state"] == "cancelled"


def test_without_a_verdict_in_time_the_gate_stays_shut(at: Ci, tmp_path: Path) -> None:
    markdown = tmp_path / "comment.md"
    done = at.gate("--wait", "1", "--markdown", str(markdown), guest="late", host=NO_WORKER)
    assert (done.code, done.json["ending"], done.json["verdict"]) == (124, "timeout", None)
    assert at.run(done.json["run"])["state"] == "cancelled"
    assert "No (timeout): there was no verdict within 1.0 s." in markdown.read_text()
    left = at.gate("--wait", "1", "--leave", guest="late", host=NO_WORKER)
    assert left.code == 124
    assert at.run(left.json["run"])["state"] == "queued"
    assert "the run goes on" in left.json["note"]
    gone = at.served.ask(f"/v1/runs/{left.json['run']}/cancel", Scope.SUBMIT, method="POST")
    assert gone.status == 202


def test_a_job_that_was_killed_is_cancelled_by_its_next_step(at: Ci, tmp_path: Path) -> None:
    junit = tmp_path / "junit.xml"
    junit.write_text("<testsuites/>")  # of the time before, when all was well
    job = {"CI_SERVER_URL": "https://gitlab.example.org", "CI_JOB_ID": "7"}
    gate = at.start("--junit", str(junit), guest="killed", host=NO_WORKER, **job)
    gate.said("queued")
    gate.signal(signal.SIGKILL)
    (error,) = etree.fromstring(junit.read_bytes()).findall(".//error")
    assert "killed before it had an answer" in str(error.get("message"))
    (run,) = at.runs_of("killed")
    assert at.gate("--cancel", guest="killed", host=NO_WORKER, **job).code == 0
    assert at.run(run["id"])["state"] == "cancelled"
    assert at.gate("--cancel", guest="killed", host=NO_WORKER, **job).code == 0
    assert len(at.runs_of("killed")) == 1
    for arguments, env in (((), {}), (("--fresh",), job)):  # whose run would that be?
        outputs = {"GITHUB_OUTPUT": str(tmp_path / "outputs")}
        assert at.gate("--cancel", *arguments, guest="nobody", **env, **outputs).code == 2
    assert at.runs_of("nobody") == []
    assert not (tmp_path / "outputs").exists()


def test_a_server_that_fails_for_a_while_is_waited_for(at: Ci) -> None:
    problem = json.dumps({"detail": "this token has 1 requests a minute", "hint": "wait"})
    with between(
        at.served.port,
        answer("502 Bad Gateway", body="<html>nginx</html>"),
        answer("429 Too Many Requests", "Retry-After: 1", body=problem),
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
    ) as way:
        done = at.gate(guest="patient", SANDBOX_SERVER=way.url)
    assert (done.code, way.answers) == (0, [])
    for said in ("answers with 502", "429: this token has", "was lost"):
        assert said in done.err
    assert "the connection is back" in done.err
    assert len(at.runs_of("patient")) == 1


def test_a_connection_that_is_cut_costs_nothing(at: Ci) -> None:
    with between(at.served.port) as way:
        gate = at.start(guest="slow-cut", SANDBOX_SERVER=way.url)
        gate.said("boot the clone")
        way.cut()
        gate.said("upgrade\n")
        way.cut()
        done = gate.done()
    assert done.code == 0
    for phase in ("boot the clone", "upgrade", "reboot", "look and check again"):
        assert done.err.count(f"  {phase}\n") == 1  # none is missed, none is told twice


def test_a_server_that_sends_us_elsewhere_gets_no_token_there(at: Ci) -> None:
    with (
        between(at.served.port) as elsewhere,
        between(at.served.port, answer("307 Moved", f"Location: {elsewhere.url}/v1/runs")) as way,
    ):
        done = at.gate(guest="moved", SANDBOX_SERVER=way.url)
        assert (done.code, elsewhere.asked) == (2, 0)
    assert "sends us on to" in done.json["reason"]
    for body in ("<html>a page</html>", '{"run": "another service\'s"}'):
        with between(at.served.port, answer("200 OK", body=body)) as way:
            page = at.gate(guest="moved", SANDBOX_SERVER=way.url)
        assert (page.code, page.json["ending"]) == (2, "rejected"), page


def test_the_runs_own_report_is_what_ci_gets_and_a_guest_says_nothing_in_it(
    at: Ci, tmp_path: Path
) -> None:
    junit, markdown = tmp_path / "junit.xml", tmp_path / "comment.md"
    outputs = tmp_path / "outputs"
    there = at.served.there
    gate = at.start(
        *("--junit", str(junit), "--markdown", str(markdown)),
        guest="evil",
        host=NO_WORKER,
        GITHUB_OUTPUT=str(outputs),
        **GITHUB,
        GITHUB_RUN_ID="3",
    )
    gate.said("queued")
    held = claim(there.database, NO_WORKER, "worker-a", 60.0, None)
    assert held is not None
    assert held.guest == "evil"
    place = Store(there.settings.sandbox).create()
    note_folder(there.database, held, place.id)
    decision = Decision(verdict=Verdict.FAIL, reason=HOSTILE, findings=(HOSTILE, "nginx broke"))
    place.save(
        RunRecord(
            id=place.id,
            tool_version="0",
            scenario="security",
            guest="evil",
            started=1_785_492_600.0,
            state="finished",
            decision=decision,
        )
    )
    place.remove_clone()
    finish(there.database, held, Outcome(Verdict.FAIL, HOSTILE))
    done = gate.done()
    assert done.code == 1
    text = markdown.read_text()
    assert "nginx broke" in text
    assert [line for line in text.splitlines() if line.startswith("### ")] == [text.splitlines()[0]]
    html = MarkdownIt("commonmark").enable("table").render(text)
    assert "<img" not in html
    assert "@octocat" not in html
    assert html.count("<a ") == 1  # ours, to the report
    assert etree.fromstring(junit.read_bytes()).find(".//failure") is not None
    assert outputs.read_text().splitlines()[0] == "verdict=fail"
    # What the guest says on the log stands between two lines that only we can write.
    lines = done.err.splitlines()
    word = lines[0].removeprefix("::stop-commands::")
    assert (len(word), lines[-1]) == (32, f"::{word}::")


def test_the_server_is_started_anew_while_a_run_goes_on(at: Ci) -> None:
    """The last test: its server is another one."""
    gate = at.start(guest="slow-restart")
    gate.said("boot the clone")
    at.served.there.kill(at.served.process)
    gate.said("trying again")
    listen = f"127.0.0.1:{at.served.port}"
    at.served.process = at.served.there.start("api", "--listen", listen)
    done = gate.done()
    assert (done.code, done.json["verdict"]) == (0, "pass")
    assert "the connection is back" in done.err
    assert len(at.runs_of("slow-restart")) == 1
    assert at.run(done.json["run"])["host"] == HOST
