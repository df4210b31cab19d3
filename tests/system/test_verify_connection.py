"""The one SSH connection of the checks: shared by all, and its loss is never a failed check."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.checks.connection import CheckConnection
from sandbox.core.deadline import Deadline
from sandbox.core.records import CheckEnd, CheckResult, Outcome
from tests.support.fakes.check_sessions import Rehearsal
from tests.support.machine.sshd import Sshd, running_sshd
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with running_sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture
def rehearse(sshd: Sshd, tmp_path: Path) -> Rehearsal:
    return Rehearsal(sshd, tmp_path)


def test_a_remote_command_may_exit_255(rehearse: Rehearsal) -> None:
    session = rehearse(
        {
            "test_a.py": """
                def test_status(host):
                    assert host.run("exit 255").rc == 255

                def test_failing(host):
                    host.check_output("exit 255")

                def test_next(host):
                    assert host.run("true").rc == 0
            """
        }
    )
    assert session.end is CheckEnd.COMPLETE, session.message
    assert [r.outcome.value for r in session.results] == ["passed", "failed", "passed"]


@pytest.mark.parametrize(
    "body",
    [
        'assert host.run("sleep 15").rc == 0',
        'try:\n        host.run("sleep 15")\n    except Exception:\n        pass',
        'try:\n        host.run("sleep 15")\n    except BaseException:\n        pass',
        'import time\n    time.sleep(2)\n    assert host.run("true").rc == 0',
        'import time\n    time.sleep(2)\n    assert False, "measured otherwise"',
    ],
)
def test_a_lost_connection_is_never_a_failed_check(
    rehearse: Rehearsal, tmp_path: Path, body: str
) -> None:
    seen: list[CheckResult] = []
    (tmp_path / "sshd").mkdir()
    with running_sshd(tmp_path / "sshd") as server:

        def drop(result: CheckResult) -> None:
            seen.append(result)
            threading.Timer(0.5, server.drop_sessions).start()

        session = rehearse(
            {
                "test_a.py": "def test_good(host):\n    assert host.run('true').rc == 0\n\n"
                f"def test_cut(host):\n    {body}\n\ndef test_never(): ...\n"
            },
            server=server,
            on_result=drop,
        )
    assert session.end is CheckEnd.CONNECTION_LOST, session
    assert "test_a.py::test_cut" in session.message
    assert [result.name for result in session.results] == ["test_a.py::test_good"]
    assert tuple(seen) == session.results


def test_no_connection_to_begin_with_is_a_lost_one(rehearse: Rehearsal, tmp_path: Path) -> None:
    (tmp_path / "sshd").mkdir()
    with running_sshd(tmp_path / "sshd") as server:
        assert server.master is not None
        server.master.terminate()
        server.master.wait()
        session = rehearse({"test_a.py": "def test_a(): ..."}, server=server)
    assert session.end is CheckEnd.CONNECTION_LOST


def test_a_guest_that_refuses_one_more_session_for_a_moment_is_asked_again(
    rehearse: Rehearsal, tmp_path: Path
) -> None:
    """The only session that there may be is taken until the check has begun, and a second more."""
    (tmp_path / "sshd").mkdir()
    taken, begun = tmp_path / "taken", tmp_path / "begun"
    hold = f"touch {taken}; until [ -e {begun} ]; do sleep 0.1; done; sleep 1"
    with running_sshd(tmp_path / "sshd", "MaxSessions 1\n") as server:
        busy = subprocess.Popen(["ssh", "-F", str(server.ssh_config), "-n", "clone", hold])
        try:
            wait_until(taken.exists, "the session to be taken")
            session = rehearse(
                {
                    "test_a.py": f"""
                        import time
                        from pathlib import Path

                        def test_a(host):
                            Path({str(begun)!r}).touch()
                            started = time.monotonic()
                            assert host.run("echo there").stdout == "there\\n"
                            print("waited", time.monotonic() - started > 0.5)
                    """
                },
                server=server,
            )
        finally:
            begun.touch()
            busy.wait()
    assert session.end is CheckEnd.COMPLETE, session.message
    assert session.results[0].outcome is Outcome.PASSED
    assert "waited True" in session.results[0].detail


def test_every_command_goes_over_the_one_connection(rehearse: Rehearsal, tmp_path: Path) -> None:
    (tmp_path / "sshd").mkdir()
    with running_sshd(tmp_path / "sshd", "LogLevel VERBOSE\n") as server:
        log = tmp_path / "sshd" / "sshd.log"
        logins = log.read_text().count("Accepted publickey")
        session = rehearse(
            {"test_a.py": "def test_a(host):\n    for n in range(5): host.check_output('true')\n"},
            server=server,
        )
        assert session.results[0].outcome is Outcome.PASSED
        assert log.read_text().count("Accepted publickey") == logins


def test_trouble_says_nothing_on_a_good_line_and_something_on_another_master(sshd: Sshd) -> None:
    good = CheckConnection(sshd.ssh_config, "clone")
    master = good.find_master(Deadline(10, "test"))
    assert sshd.master is not None
    assert master == sshd.master.pid
    assert good.trouble() == ""
    assert "replaced" in CheckConnection(sshd.ssh_config, "clone", os.getpid()).trouble()
