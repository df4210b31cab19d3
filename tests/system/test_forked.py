"""A forked command is a process like any other: its streams, environment, group, end."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from tests.support.machine import forked
from tests.support.machine.forked import Forked

HERE = f"{__name__}:"  # what the entries below are found by


def says() -> None:
    import sys

    print(os.environ["SAID"], Path.cwd(), sorted(os.environ), sys.argv[1:])
    print("an error", file=sys.stderr)
    sys.exit(7)


def waits() -> None:
    print("at work", flush=True)
    signal.pause()


def test_it_has_its_own_streams_environment_folder_and_status(tmp_path: Path) -> None:
    done = forked.run(
        ["a", 1], environment={"SAID": "hello"}, cwd=tmp_path, entry=f"{HERE}says", timeout=60
    )
    assert done.stdout == f"hello {tmp_path} ['SAID'] ['a', '1']\n"
    assert done.stderr == "an error\n"
    assert done.returncode == 7


def _waiting(tmp_path: Path) -> Forked:
    path = tmp_path / f"{len(list(tmp_path.iterdir()))}"
    with path.open("wb") as output:
        process = Forked([], environment={}, output=output, entry=f"{HERE}waits")
    while "at work" not in path.read_text():
        assert process.poll() is None
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_it_and_that_is_known(number: signal.Signals, tmp_path: Path) -> None:
    process = _waiting(tmp_path)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.01)
    process.send_signal(number)
    assert process.wait(60) == process.wait() == process.poll() == -number
    process.kill()  # nothing is there any more: silent


def test_it_leads_a_group_of_its_own(tmp_path: Path) -> None:
    first, second = _waiting(tmp_path), _waiting(tmp_path)
    assert os.getpgid(first.pid) == os.getsid(first.pid) == first.pid
    os.killpg(first.pid, signal.SIGTERM)
    assert first.wait(60) == -signal.SIGTERM
    assert second.poll() is None
    second.terminate()
    assert second.wait(60) == -signal.SIGTERM


def test_none_holds_the_files_of_another(tmp_path: Path) -> None:
    """What reads from a process would else wait for its neighbours, too."""
    reading, writing = os.pipe()
    with open(writing, "wb") as output, open(reading, "rb") as said:
        first = Forked([], environment={}, output=output, entry=f"{HERE}waits")
        second = _waiting(tmp_path)
        output.close()
        first.kill()
        assert said.read() in (b"", b"at work\n")
        assert second.poll() is None
    second.kill()
    second.wait(60)


def test_many_are_started_at_once() -> None:
    found = []

    def one(number: int) -> None:
        environment = {"SAID": f"{number}"}
        done = forked.run([], environment=environment, entry=f"{HERE}says", timeout=60)
        found.append((done.stdout.split()[0] == str(number), done.returncode))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [(True, 7)] * 20


def test_the_command_is_the_real_one() -> None:
    done = forked.run(["--version"], environment={}, timeout=60)
    assert done.stdout.startswith("sandbox, version ")
    wrong = forked.run(["nonsense"], environment={}, timeout=60)
    assert wrong.returncode == 2
    assert "No such command 'nonsense'" in wrong.stderr
