"""Checks in a process of their own, against a real sshd: however they end, we know how."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.checks import CheckSettings
from sandbox.core.errors import DeadlineExceeded
from sandbox.core.records import CheckEnd, CheckResult, Outcome
from tests.support.fakes.check_sessions import Rehearsal, by_name, gone
from tests.support.machine.sshd import Sshd, running_sshd


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with running_sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture
def rehearse(sshd: Sshd, tmp_path: Path) -> Rehearsal:
    return Rehearsal(sshd, tmp_path)


def test_every_outcome_is_told_apart_with_a_message_for_people(rehearse: Rehearsal) -> None:
    seen: list[CheckResult] = []
    session = rehearse(
        {
            "test_web.py": """
                import pytest

                def test_runs(host):
                    assert host.check_output("echo %s", "it's alive") == "it's alive"

                @pytest.mark.parametrize("number", [1, 2])
                def test_number(host, number):
                    print("shown", number)
                    assert number == 1, "number is two\\nand more"

                def test_command(host):
                    host.check_output("echo sorry >&2; exit 3")

                @pytest.fixture
                def broken():
                    raise ValueError("no such thing")

                def test_fixture(broken): ...

                @pytest.mark.skip(reason="not here")
                def test_skipped(): ...

                @pytest.mark.xfail(reason="known", strict=True)
                def test_known():
                    assert False
            """
        },
        on_result=seen.append,
    )
    assert session.end is CheckEnd.COMPLETE, session.message
    assert session.message == ""
    assert tuple(seen) == session.results
    results = by_name(session)
    outcomes = {name: result.outcome.value for name, result in results.items()}
    assert outcomes == {
        "test_web.py::test_runs": "passed",
        "test_web.py::test_number[1]": "passed",
        "test_web.py::test_number[2]": "failed",
        "test_web.py::test_command": "failed",
        "test_web.py::test_fixture": "error",
        "test_web.py::test_skipped": "skipped",
        "test_web.py::test_known": "skipped",
    }
    assert results["test_web.py::test_number[2]"].message == "number is two"
    assert "shown 2" in results["test_web.py::test_number[2]"].detail
    assert "assert 2 == 1" in results["test_web.py::test_number[2]"].detail
    assert "Unexpected exit code 3" in results["test_web.py::test_command"].message
    assert results["test_web.py::test_fixture"].message == (
        "set-up failed: ValueError: no such thing"
    )
    assert results["test_web.py::test_skipped"].message == "not here"
    assert results["test_web.py::test_known"].message == "expected to fail: known"


def test_names_are_the_same_in_both_phases_and_the_fixtures_know_the_phase(
    rehearse: Rehearsal,
) -> None:
    files = {
        "test_a.py": """
            def test_phase(phase, before, now, settings):
                assert before == now
                assert settings.filesystems_max_percent == 95
                print("phase is", phase)
        """,
        "deeper/test_a.py": "def test_phase(): pass",
    }
    first, second = rehearse(files), rehearse(files, phase="after")
    assert list(by_name(first)) == list(by_name(second))
    assert list(by_name(first)) == ["test_a.py::test_phase", "deeper/test_a.py::test_phase"]
    assert "phase is before" in first.results[0].detail
    assert "phase is after" in second.results[0].detail


def test_results_come_while_the_session_goes_on(rehearse: Rehearsal, tmp_path: Path) -> None:
    go_on = tmp_path / "go-on"
    session = rehearse(
        {
            "test_a.py": f"""
                import time, pathlib

                def test_first(): ...

                def test_second():
                    while not pathlib.Path({str(go_on)!r}).exists():
                        time.sleep(0.01)
            """
        },
        seconds=30,
        on_result=lambda result: go_on.touch(),
    )
    assert [result.outcome for result in session.results] == [Outcome.PASSED, Outcome.PASSED]


def test_no_checks_is_complete_without_results(rehearse: Rehearsal) -> None:
    empty = rehearse({"test_a.py": "X = 1"})
    assert (empty.end, empty.results) == (CheckEnd.COMPLETE, ())
    none = rehearse({})
    assert (none.end, none.results) == (CheckEnd.COMPLETE, ())


def test_the_environment_is_clean_and_limited(
    rehearse: Rehearsal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", "/tmp/agent")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    monkeypatch.setenv("PYTEST_ADDOPTS", "--collect-only")
    (tmp_path / "conftest.py").write_text("raise RuntimeError('not mine')")
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --nonsense\n")
    session = rehearse(
        {
            "helpers.py": "ANSWER = 42",
            "conftest.py": """
                import pytest

                @pytest.fixture
                def answer():
                    return 42
            """,
            "test_a.py": """
                import os, resource, tempfile
                from helpers import ANSWER

                def test_environment(answer):
                    assert ANSWER == answer
                    kept = {name for name in os.environ if not name.startswith("PYT")}
                    kept -= {"UPGRADE_SANDBOX_CHECKS"}
                    assert kept == {"PATH", "HOME", "LANG", "TMPDIR"}
                    assert tempfile.gettempdir().startswith(os.environ["HOME"])

                def test_limits():
                    assert resource.getrlimit(resource.RLIMIT_AS)[1] == 2 << 30
                    assert resource.getrlimit(resource.RLIMIT_CORE)[1] == 0
                    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == 256 << 20

                def test_memory():
                    bytearray(3 << 30)

                def test_own_group():
                    assert os.getpgid(0) == os.getpid()
            """,
        }
    )
    assert session.end is CheckEnd.COMPLETE, session.message
    outcomes = [result.outcome.value for result in session.results]
    assert outcomes == ["passed", "passed", "failed", "passed"], session.results
    assert session.results[2].message == "MemoryError:"
    assert not list((tmp_path / "scenario").glob("**/__pycache__"))
    log = tmp_path / "run" / "checks-before.log"
    assert log.stat().st_mode & 0o777 == 0o600


def test_output_is_capped(rehearse: Rehearsal) -> None:
    session = rehearse(
        {"test_a.py": 'def test_a():\n    print("x" * 1_000_000)\n    assert 0, "y" * 100_000\n'}
    )
    assert session.end is CheckEnd.COMPLETE
    assert len(session.results[0].detail) <= 64 * 1024
    assert len(session.results[0].message) <= 500


def test_odd_bytes_in_a_failure_do_no_harm(rehearse: Rehearsal) -> None:
    session = rehearse(
        {
            "test_a.py": r"""
                def test_a():
                    print("\x1b[31m\udc80")
                    assert 0, "a\x1b[31m\x00\udc80\u2028b"
            """
        }
    )
    assert session.end is CheckEnd.COMPLETE, session.message
    assert session.results[0].outcome is Outcome.FAILED
    assert session.results[0].message.isprintable()


def test_sudo_is_used_when_asked_for(rehearse: Rehearsal) -> None:
    files = {"test_a.py": "def test_a(host):\n    print(host.backend.get_command('id'))\n"}
    with_sudo = rehearse(files, settings=CheckSettings(sudo=True))
    assert "sudo /bin/sh -c id" in with_sudo.results[0].detail
    assert "sudo" not in rehearse(files).results[0].detail


def test_a_command_that_fails_is_named_as_a_person_would(rehearse: Rehearsal) -> None:
    files = {
        "test_a.py": """
            def test_listed(host):
                host.check_output("ls /nowhere")

            def test_scheduled(host):
                assert host.file("/nowhere/cron").contains("backup")
        """
    }
    listed, scheduled = (result.message for result in rehearse(files).results)
    assert re.fullmatch(r"Unexpected exit code 2 for `ls /nowhere`: ls: .*/nowhere.*", listed)
    assert scheduled == "Unexpected exit code 2 for `grep -qs -- backup /nowhere/cron`"


def test_two_hundred_checks_go_over_one_connection(rehearse: Rehearsal) -> None:
    session = rehearse(
        {
            "test_a.py": """
                import pytest

                @pytest.mark.parametrize("number", range(200))
                def test_a(host, number):
                    assert host.run("true").rc == 0
            """
        },
        seconds=600,
    )
    assert session.end is CheckEnd.COMPLETE
    assert sum(result.outcome is Outcome.PASSED for result in session.results) == 200


def test_no_time_left_is_said_before_anything_starts(rehearse: Rehearsal, tmp_path: Path) -> None:
    with pytest.raises(DeadlineExceeded):
        rehearse({"test_a.py": "def test_a(): ..."}, seconds=0)
    assert not (tmp_path / "run").exists()


def test_an_interrupt_leaves_no_process_behind(rehearse: Rehearsal, tmp_path: Path) -> None:
    pid = tmp_path / "pid"

    def interrupt(result: CheckResult) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rehearse(
            {
                "test_a.py": f"""
                    import os, time

                    def test_a():
                        with open({str(pid)!r}, "w") as file:
                            file.write(str(os.getpid()))

                    def test_b():
                        time.sleep(1000)
                """
            },
            on_result=interrupt,
        )
    assert gone(pid.read_text())
