"""`sandbox gate` without a service, on the hypervisor in memory; and its parts that ask nobody."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from sandbox.cli import foreground as terminal
from sandbox.core.errors import HostError, RequestError
from sandbox.core.records import Verdict
from sandbox.scenario.request import Request
from tests.support.fakes.stage import Stage
from workers.cli import main
from workers.database.states import RunState
from workers.gate import files, foreground, ways
from workers.gate.job import Job
from workers.gate.progress import ProgressLine
from workers.gate.server import body_of
from workers.gate.values import Away, Ending, GateEvent, GateRun
from workers.settings import read_server


@pytest.fixture(autouse=True)
def in_memory(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox.hosts.drivers.driver_for", lambda *_: stage.hypervisor)
    monkeypatch.setattr(terminal, "acceleration", lambda: "tcg")


def gate(stage: Stage, seconds: float, guest: str = "web01") -> tuple[Ending, str]:
    request = Request(str(stage.scenario("").path), guest=guest)
    console = Console(file=io.StringIO(), soft_wrap=True)
    ending = foreground.gate(request, stage.settings, seconds, console)
    assert isinstance(console.file, io.StringIO)
    return ending, console.file.getvalue()


def test_the_verdict_its_reports_and_what_a_person_sees(stage: Stage) -> None:
    ending, shown = gate(stage, 300.0)
    assert (ending.word, ending.code, ending.allowed) == ("inconclusive", 3, False)
    assert ending.reports["junit"].count("<failure") == 1
    assert "no SSH within 1 s" in shown
    text = files.markdown(ending, Request("security", guest="web01"))
    assert text.splitlines()[0].startswith("### ❔ May I upgrade web01? No (inconclusive): ")
    assert f"The whole report: `sandbox report {ending.run_id}`" in text
    assert stage.left() == []


def test_what_takes_too_long_is_ended_and_cleaned_up(stage: Stage) -> None:
    ending, _shown = gate(stage, 0.5)
    assert (ending.word, ending.code) == ("timeout", 124)
    assert stage.left() == []


def test_a_wrong_request_is_rejected_and_a_fault_of_the_hosts_is_an_error(stage: Stage) -> None:
    assert gate(stage, 60.0, "web10")[0].word == "rejected"
    assert Ending.of_problem(RequestError("x")).code == Verdict.REJECTED.exit_code
    assert Ending.of_problem(HostError("x")).code == Verdict.ERROR.exit_code


@pytest.mark.parametrize(
    "ending",
    [Ending.of(verdict, "because") for verdict in Verdict]
    + [Ending("timeout", 124, "because"), Ending("cancelled", 130, "because")],
    ids=lambda ending: ending.word,
)
def test_only_a_pass_opens_the_gate_and_there_is_always_something_to_show(
    ending: Ending, tmp_path: Path
) -> None:
    request = Request("security", guest="web01")
    passed = ending.word == "pass"
    assert (ending.code == 0) is passed is ending.allowed
    said: list[str] = []
    summary, missing = tmp_path / "summary", tmp_path / "none" / "x.xml"
    files.write(request, Job(summary=summary), missing, None, said.append, ending)
    assert "could not be written" in said[0]
    assert f"May I upgrade web01? {'Yes' if passed else 'No'}" in summary.read_text()
    junit = files.junit(ending, request)
    assert ("<failure" in junit or "<error" in junit) is not passed


def test_a_job_is_known_by_what_stays_when_it_is_started_again() -> None:
    github = {
        "GITHUB_REPOSITORY": "a/b",
        "GITHUB_RUN_ID": "1",
        "GITHUB_RUN_ATTEMPT": "1",
        "GITHUB_JOB": "x",
    }
    body = body_of(Request("security", guest="web01"), fresh=False)
    key = Job.read(github).key(body, fresh=False)
    assert key == Job.read(dict(github)).key(body, fresh=False)
    others = [
        Job.read({**github, "GITHUB_RUN_ATTEMPT": "2"}).key(body, fresh=False),
        Job.read(github).key({**body, "guest": "web02"}, fresh=False),
        Job.read(github).key(body, fresh=True),
        Job.read(github).key(body, fresh=True),
        Job.read({"CI_SERVER_URL": "x", "CI_JOB_ID": "1"}).key(body, fresh=False),
        Job.read({"JENKINS_URL": "x", "BUILD_TAG": "1"}).key(body, fresh=False),
        Job.read({}).key(body, fresh=False),
        Job.read({}).key(body, fresh=False),
    ]
    assert len({key, *others}) == len(others) + 1


@pytest.mark.parametrize(
    "request_",
    [
        Request("./scenarios/x", guest="web01"),
        Request("security", image=Path("x.qcow2")),
        Request("security", guest="web01", key=Path("/root/key")),
    ],
)
def test_files_of_ours_are_nothing_to_a_server(request_: Request) -> None:
    with pytest.raises(RequestError):
        body_of(request_, fresh=False)


def test_a_server_is_named_without_secrets_and_known_by_any_of_its_urls() -> None:
    for url in ("https://s.example.org", "https://s.example.org/", "https://s.example.org/v1"):
        told = read_server(url, {"SANDBOX_TOKEN": "sbx_secret"})
        assert told is not None
        assert told.url == "https://s.example.org"
        assert "sbx_secret" not in repr(told)
    assert read_server(None, {}) is None
    for url in ("s.example.org", "https://me:pw@s.example.org", "https://s.example.org?x=1"):
        with pytest.raises(RequestError):
            read_server(url, {"SANDBOX_TOKEN": "t"})
    for token in ("", "a b", "a\nb"):
        with pytest.raises(RequestError):
            read_server("https://s.example.org", {"SANDBOX_TOKEN": token})


@pytest.mark.parametrize("text", ["", "0", "soon", "1w", "-5m"])
def test_a_time_that_is_none_is_refused(text: str) -> None:
    told = CliRunner().invoke(main, ["gate", "security", "--guest", "web01", "--wait", text])
    assert told.exit_code == 2
    assert "--wait" in told.stderr


def test_a_terminal_has_a_line_that_lives_and_a_log_has_one_for_each_phase() -> None:
    said: dict[bool, str] = {}
    for terminal_ in (True, False):
        console = Console(file=io.StringIO(), force_terminal=terminal_, width=100)
        with ProgressLine(console) as tell:
            tell.heard(GateEvent(1, "phase", "boot", None))
            tell.heard(GateEvent(2, "detail", "sshd answers\x1b[31m", 40.0))
            tell.heard(None)
            tell.away(Away("nobody answers"))
            tell.away(Away("nobody answers"))
            tell.back()
        assert isinstance(console.file, io.StringIO)
        said[terminal_] = console.file.getvalue()
    assert "▸ boot the clone: sshd answers 40 %" in said[True]
    assert [line[9:] for line in said[False].splitlines()] == [
        "boot the clone",
        "nobody answers; trying again",
        "the connection is back",
    ]


def test_a_phase_that_a_look_told_is_not_told_again_when_its_event_comes() -> None:
    console = Console(file=io.StringIO(), width=100)
    looked = GateRun("r", "s", "web01", "h", RunState.RUNNING, None, "", "reboot", "", 0.0, None)
    with ProgressLine(console) as tell:
        tell.heard(GateEvent(1, "phase", "boot", None))
        tell.seen(looked)
        tell.seen(looked)
        tell.heard(GateEvent(2, "phase", "upgrade", None))
        tell.heard(GateEvent(3, "phase", "reboot", None))
        tell.heard(GateEvent(4, "phase", "boot", None))  # of a second attempt
    assert isinstance(console.file, io.StringIO)
    told = [line[9:] for line in console.file.getvalue().splitlines()]
    assert told == ["boot the clone", "reboot", "upgrade", "boot the clone"]


def test_a_fault_of_ours_opens_no_gate_and_is_told_to_ci(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(ways.Ways, "chosen", fault)
    junit = tmp_path / "junit.xml"
    told = CliRunner().invoke(main, ["gate", "x", "--guest", "web01", "--junit", str(junit)])
    assert told.exit_code == 4
    assert "a fault of this program: ZeroDivisionError" in junit.read_text()
