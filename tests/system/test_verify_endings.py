"""Checks that hang, die, lie or cannot be loaded: the session says so, and nothing stays."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.checks import CheckSettings
from sandbox.checks.runner import run_checks
from sandbox.core.deadline import Deadline
from sandbox.core.records import CheckEnd, CheckResult, Outcome
from tests.support.fakes.check_sessions import OBSERVED, Rehearsal, by_name, gone
from tests.support.machine.sshd import Sshd, running_sshd
from tests.support.paths import ROOT
from tests.support.waiting import holds_soon


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with running_sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture
def rehearse(sshd: Sshd, tmp_path: Path) -> Rehearsal:
    return Rehearsal(sshd, tmp_path)


@pytest.mark.parametrize(
    ("code", "how"),
    [
        ("os._exit(0)", "exit status 0 in the middle of the session"),
        ("os._exit(5)", "exit status 5 in the middle of the session"),
        ("ctypes.string_at(0)", "killed by SIGSEGV"),
        ("os.kill(os.getpid(), 9)", "killed by SIGKILL"),
    ],
)
def test_a_check_that_ends_the_process_is_named_and_the_others_results_survive(
    rehearse: Rehearsal, code: str, how: str
) -> None:
    seen: list[CheckResult] = []
    session = rehearse(
        {
            "test_a.py": f"""
                import ctypes, os

                def test_good(): ...
                def test_bad(): {code}
                def test_never(): ...
            """
        },
        on_result=seen.append,
    )
    assert session.end is CheckEnd.DIED
    assert "test test_a.py::test_bad ended the checks' process" in session.message
    assert how in session.message
    outcomes = [(result.name, result.outcome.value) for result in session.results]
    assert outcomes == [("test_a.py::test_good", "passed"), ("test_a.py::test_bad", "error")]
    assert tuple(seen) == session.results


def test_a_segmentation_fault_shows_where_it_happened(rehearse: Rehearsal) -> None:
    session = rehearse({"test_a.py": "import ctypes\ndef test_bad():\n    ctypes.string_at(0)\n"})
    assert "in test_bad" in session.results[-1].detail


@pytest.mark.parametrize("code", ["pytest.exit('enough', returncode=0)", "raise KeyboardInterrupt"])
def test_a_check_cannot_end_the_session_early_as_a_success(rehearse: Rehearsal, code: str) -> None:
    session = rehearse(
        {
            "test_a.py": f"""
                import pytest

                def test_good(): ...
                def test_bad(): {code}
                def test_never(): ...
            """
        }
    )
    assert session.end is CheckEnd.DIED
    assert "stopped at test_a.py::test_bad" in session.message


@pytest.mark.parametrize(
    ("hook", "end"),
    [
        ("pytest_runtest_teardown(item): item.session.shouldstop = 'enough'", CheckEnd.DIED),
        ("pytest_runtest_logfinish(): raise SystemExit(0)", CheckEnd.BROKEN),
        ("pytest_sessionfinish(session): session.exitstatus = 0; session.items.clear()", None),
    ],
)
def test_a_conftest_cannot_hide_checks_that_did_not_run(
    rehearse: Rehearsal, hook: str, end: CheckEnd | None
) -> None:
    session = rehearse(
        {
            "conftest.py": f"def {hook}",
            "test_a.py": "def test_a(): ...\ndef test_b(): assert False",
        }
    )
    if end is None:  # every check ran: the hook came too late to hide anything
        assert by_name(session)["test_a.py::test_b"].outcome is Outcome.FAILED
    else:
        assert session.end is end


def test_an_end_that_differs_from_what_was_announced_is_noticed(rehearse: Rehearsal) -> None:
    session = rehearse(
        {
            "test_a.py": """
                import os

                def test_a():
                    end = os._exit
                    os._exit = lambda status: end(7)
            """
        }
    )
    assert session.end is CheckEnd.DIED
    assert session.message == "the checks' process ended badly (exit status 7)"


def test_leaving_while_a_file_is_loaded_is_noticed(rehearse: Rehearsal) -> None:
    session = rehearse({"test_a.py": "import os\nos._exit(0)"})
    assert session.end is CheckEnd.DIED
    assert session.message == "loading test_a.py ended the checks' process (exit status 0)"


def test_a_hung_check_is_named_and_nothing_of_it_stays(rehearse: Rehearsal, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    started = time.monotonic()
    session = rehearse(
        {
            "test_a.py": f"""
                import os, signal, subprocess, time

                def test_good(): ...

                def test_hangs():
                    quiet = {{"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}}
                    near = subprocess.Popen(["sleep", "1000"], **quiet)
                    far = subprocess.Popen(["sleep", "1000"], start_new_session=True, **quiet)
                    with open({str(pids)!r}, "w") as file:
                        file.write(f"{{os.getpid()}} {{near.pid}} {{far.pid}}")
                    time.sleep(1000)
            """
        },
        seconds=rehearse.long_enough(),
    )
    assert session.end is CheckEnd.TIMEOUT
    # What was left of the phase when its checks began, rounded.
    assert re.search(r"test test_a\.py::test_hangs did not end within the \d+ s", session.message)
    assert [result.outcome.value for result in session.results] == ["passed", "error"]
    assert "in test_hangs" in session.results[-1].detail
    assert time.monotonic() - started < 100
    for pid in pids.read_text().split():
        assert holds_soon(lambda pid=pid: gone(pid)), f"process {pid} is still there"


def test_a_check_that_ignores_the_polite_request_is_killed(rehearse: Rehearsal) -> None:
    started = time.monotonic()
    session = rehearse(
        {
            "test_a.py": """
                import signal, time

                def test_hangs():
                    signal.signal(signal.SIGTERM, signal.SIG_IGN)
                    time.sleep(1000)
            """
        },
        seconds=rehearse.long_enough(),
    )
    assert session.end is CheckEnd.TIMEOUT
    assert time.monotonic() - started < 100


def test_checks_end_with_the_sandbox_that_is_killed(sshd: Sshd, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    hang = f"""
        import os, pathlib, time

        def test_hangs():
            pathlib.Path({str(pid)!r}).write_text(f"{{os.getpid()}}.")
            time.sleep(1000)
    """
    script = f"""
        import sys
        from pathlib import Path
        sys.path.insert(0, {str(ROOT)!r})
        from tests.support.fakes.check_sessions import Rehearsal
        from tests.support.machine.sshd import Sshd
        Rehearsal(Sshd(Path({str(sshd.folder)!r})), Path({str(tmp_path)!r}))(
            {{"test_a.py": {textwrap.dedent(hang)!r}}}
        )
    """
    killed = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)])
    try:
        assert holds_soon(lambda: pid.exists() and pid.read_text().endswith("."), 30)
    finally:
        killed.kill()
        killed.wait()
    assert holds_soon(lambda: gone(pid.read_text().rstrip(".")))


def test_a_file_that_hangs_while_it_is_loaded_is_named(rehearse: Rehearsal) -> None:
    hangs = {"test_a.py": "import time\ntime.sleep(1000)"}
    session = rehearse(hangs, seconds=rehearse.long_enough())
    assert session.end is CheckEnd.TIMEOUT
    assert "loading test_a.py did not end" in session.message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def test_a(:\n    pass\n", "test_a.py:1: SyntaxError: invalid syntax"),
        ("\nimport nowhere_at_all\n", "test_a.py:2: ModuleNotFoundError: No module named"),
        ("x = 1\nundefined\n", "test_a.py:2: NameError: name 'undefined' is not defined"),
        ("\n\ndef test_a(hots): pass\n", "test_a.py:3: fixture “hots” not found"),
    ],
)
def test_checks_that_cannot_run_are_broken_with_file_and_line(
    rehearse: Rehearsal, text: str, message: str
) -> None:
    session = rehearse({"test_a.py": text, "test_b.py": "def test_b(): ..."})
    assert session.end is CheckEnd.BROKEN
    assert message in session.message
    assert "\n" not in session.message


def test_a_conftest_that_cannot_be_loaded_is_broken(rehearse: Rehearsal) -> None:
    session = rehearse({"conftest.py": "import nowhere_at_all", "test_a.py": "def test_a(): ..."})
    assert session.end is CheckEnd.BROKEN
    assert session.message == (
        "conftest.py:1: ModuleNotFoundError: No module named 'nowhere_at_all'"
    )


def test_a_file_that_is_not_there_is_broken(
    rehearse: Rehearsal, sshd: Sshd, tmp_path: Path
) -> None:
    session = run_checks(
        files=[tmp_path / "test_nope.py"],
        shared=[],
        ssh_config=sshd.ssh_config,
        host="clone",
        phase="before",
        baseline=None,
        current=OBSERVED,
        settings=CheckSettings(),
        work_dir=tmp_path / "run",
        deadline=Deadline(60, "checks"),
        on_result=lambda result: None,
    )
    assert session.end is CheckEnd.BROKEN
    assert "test_nope.py" in session.message


FORGE = """
    import json, os

    def channels():
        for name in os.listdir("/proc/self/fd"):
            try:
                if os.readlink(f"/proc/self/fd/{name}").startswith("pipe:"):
                    os.fstat(int(name))
                    yield int(name)
            except OSError:
                pass

    def send(text):
        for fd in channels():
            try:
                os.write(fd, text)
            except OSError:
                pass

"""


@pytest.mark.parametrize(
    "code",
    [
        'send(b"garbage\\n")',
        'send(b"no newline")',
        'send(b"\\xff\\xfe\\n")',
        'send(b"\\n")',
        'send(json.dumps({"token": "x", "number": 3, "event": "finish"}).encode() + b"\\n")',
        'send(json.dumps({"name": "test_a.py::test_bad", "outcome": "passed"}).encode() + b"\\n")',
    ],
)
def test_garbage_among_the_results_is_never_a_success(rehearse: Rehearsal, code: str) -> None:
    session = rehearse(
        {
            "test_a.py": textwrap.dedent(FORGE)
            + f"def test_bad():\n    {code}\n\ndef test_next(): ...\n"
        }
    )
    assert session.end is CheckEnd.BROKEN
    assert session.message.startswith("the checks' results cannot be trusted")
    assert "test_a.py::test_bad" not in by_name(session)


def test_a_check_that_closes_every_file_is_not_a_success(rehearse: Rehearsal) -> None:
    session = rehearse(
        {"test_a.py": "import os\ndef test_bad():\n    os.closerange(3, 1000)\n"}, seconds=20
    )
    assert session.end is CheckEnd.DIED
