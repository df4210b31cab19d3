"""External programs: what they leave, how they fail, and that their deadline holds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.core.deadline import Deadline
from sandbox.core.errors import CommandFailed, DeadlineExceeded, ToolMissing
from sandbox.core.process import TAIL_LINES, kill_group, run, start, tail
from tests.support.machine.processes import is_running
from tests.support.waiting import holds_soon, soon


def test_output_status_and_arguments_as_they_are() -> None:
    done = run(["printf", "%s|", "a b", "$(id)", "", "'"], soon())
    assert done.ok
    assert done.argv == ("printf", "%s|", "a b", "$(id)", "", "'")
    assert done.stdout == "a b|$(id)||'|"


def test_input_environment_and_folder(tmp_path: Path) -> None:
    done = run(
        ["sh", "-c", 'cat; echo "$X"; pwd; echo "${HOME-none}"'],
        soon(),
        input=b"in\n",
        env={"X": "y", "PATH": os.defpath},
        cwd=tmp_path,
    )
    assert done.stdout.splitlines() == ["in", "y", str(tmp_path), "none"]


def test_without_input_nothing_is_read_from_ours() -> None:
    assert run(["cat"], soon()).stdout == ""


def test_bytes_that_are_no_text_do_not_raise() -> None:
    done = run([sys.executable, "-c", "import os; os.write(1, b'\\xff\\0ok')"], soon())
    assert done.stdout == "\ufffd\0ok"


def test_a_failure_carries_command_status_and_both_outputs() -> None:
    with pytest.raises(CommandFailed) as caught:
        run(["sh", "-c", "echo said; echo complained >&2; exit 3"], soon(), hint="do this")
    problem = caught.value
    assert (problem.argv[0], problem.status, problem.hint) == ("sh", 3, "do this")
    assert "sh exited with 3" in problem.message
    assert "complained" in problem.tail
    assert run(["false"], soon(), check=False).status == 1


def test_a_program_that_is_killed_has_a_negative_status() -> None:
    assert run(["sh", "-c", "kill -9 $$"], soon(), check=False).status == -signal.SIGKILL


@pytest.mark.parametrize(("program", "hint"), [("qemu-nbd-x", "install it"), ("nft", "nftables")])
def test_a_missing_program_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, program: str, hint: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolMissing, match=program) as caught:
        run([program], soon())
    assert hint in caught.value.hint
    with (tmp_path / "log").open("wb") as log, pytest.raises(ToolMissing):
        start([program], log)


def test_the_deadline_kills_the_whole_group(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded) as caught:
        run(["sh", "-c", f"sleep 60 & echo $! >{pid}; wait"], Deadline(0.5, "boot"))
    assert time.monotonic() - started < 30
    assert caught.value.phase == "boot: sh"
    assert holds_soon(lambda: not is_running(int(pid.read_text())))


def test_the_deadline_holds_although_somebody_else_has_the_output_open(tmp_path: Path) -> None:
    """As the SSH master has that of a multiplexed command."""
    pid = tmp_path / "pid"
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        run(["sh", "-c", f"setsid sleep 60 & echo $! >{pid}; wait"], Deadline(0.5, "test"))
    try:
        assert time.monotonic() - started < 30
    finally:
        os.kill(int(pid.read_text()), signal.SIGKILL)


def test_input_that_nobody_takes_does_not_outlive_the_deadline() -> None:
    with pytest.raises(DeadlineExceeded):
        run(["sleep", "60"], Deadline(0.5, "test"), input=bytes(1 << 20))


def test_ctrl_c_kills_the_program(tmp_path: Path) -> None:
    """In a process of its own, which really gets the signal."""
    pid = tmp_path / "pid"
    program = f"""
import signal
from sandbox.core.deadline import Deadline
from sandbox.core.process import run
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    run(["sh", "-c", "echo $$ >{pid}; sleep 60"], Deadline(30, "test"))
except KeyboardInterrupt:
    print("interrupted")
"""
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert holds_soon(lambda: pid.exists() and pid.read_text().strip() != "")
    child.send_signal(signal.SIGINT)
    out, _ = child.communicate(timeout=10)
    assert out == "interrupted\n"
    assert holds_soon(lambda: not is_running(int(pid.read_text())))


def test_a_background_program_runs_on_in_a_group_of_its_own(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        child = start(["sh", "-c", "echo out; echo err >&2; sleep 60"], log)
    assert os.getpgid(child.pid) == child.pid != os.getpgrp()
    assert holds_soon(lambda: (tmp_path / "log").read_text() == "out\nerr\n")
    kill_group(child.pid)
    assert child.wait() == -signal.SIGKILL
    kill_group(child.pid)  # gone already: silent


def test_from_any_thread() -> None:
    said: list[str] = []
    threads = [
        threading.Thread(target=lambda n=n: said.append(run(["echo", str(n)], soon()).stdout))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(said) == [f"{n}\n" for n in range(8)]


@settings(max_examples=100)
@given(st.lists(st.text("ab \t", max_size=5)), st.integers(1, 20))
def test_a_tail_is_the_last_lines_that_say_something(lines: list[str], count: int) -> None:
    kept = tail("\n".join(lines), count).splitlines()
    said = [line.rstrip() for line in lines if line.strip()]
    assert kept == said[-count:]


def test_a_tail_is_short_whatever_a_program_says() -> None:
    assert len(tail("x" * 10_000)) < 400
    assert len(tail("x\n" * 1000).splitlines()) == TAIL_LINES
