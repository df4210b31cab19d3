"""What `sandbox up` is made of: the leash, the lines, the pauses, what a health check says."""

from __future__ import annotations

import fcntl
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import insert

from sandbox.core.errors import HostError
from workers.database import migrate, open_database
from workers.database.clock import now
from workers.database.schema import workers
from workers.monitoring import health
from workers.settings import read_service_settings
from workers.standalone import leash
from workers.standalone.lines import Lines, understood
from workers.standalone.programs import Program
from workers.standalone.supervisor import LONGEST_PAUSE, Kept, Pipe
from workers.worker.process import worker_name

# Says when it is there, and does not care for SIGTERM when asked not to.
PROGRAM = """
import signal, sys, time
if "deaf" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("here", flush=True)
time.sleep(300)
"""


@dataclass
class Leashed:
    """A program on a leash, and our end of its pipe."""

    process: subprocess.Popen[bytes]
    pipe: int

    def line(self) -> bytes:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def let_go(self) -> None:
        os.close(self.pipe)
        self.pipe = -1


class Kennel:
    def __init__(self) -> None:
        self.all: list[Leashed] = []

    def start(self, *argv: str, grace: float = 60, lock: str = "") -> Leashed:
        read, write = os.pipe()
        words = (sys.executable, "-I", "-S", leash.__file__, str(read), str(grace), lock)
        process = subprocess.Popen([*words, *argv], stdout=subprocess.PIPE, pass_fds=(read,))
        os.close(read)
        self.all.append(Leashed(process, write))
        return self.all[-1]

    def program(self, *options: str, grace: float = 60, lock: str = "") -> Leashed:
        started = self.start(sys.executable, "-c", PROGRAM, *options, grace=grace, lock=lock)
        assert started.line() == b"here\n"
        return started


@pytest.fixture
def kennel() -> Iterator[Kennel]:
    kennel = Kennel()
    yield kennel
    for one in kennel.all:
        if one.pipe >= 0:
            one.let_go()
        one.process.wait(60)
        assert one.process.stdout is not None
        one.process.stdout.close()


def test_a_leash_ends_as_its_program_does(kennel: Kennel) -> None:
    assert kennel.start("sh", "-c", "exit 7").process.wait(60) == 7
    assert kennel.start("sh", "-c", "kill -9 $$").process.wait(60) == 128 + signal.SIGKILL


@pytest.mark.parametrize("how", ["pipe", "signal"])
def test_who_holds_the_pipe_or_asks_ends_the_program(kennel: Kennel, how: str) -> None:
    one = kennel.program()
    if how == "pipe":
        one.let_go()
    else:
        one.process.terminate()
    assert one.process.wait(60) == 128 + signal.SIGTERM
    assert one.line() == b"", "nobody has its output open any more"


def test_a_program_that_does_not_listen_is_killed(kennel: Kennel) -> None:
    one = kennel.program("deaf", grace=0.2)
    one.let_go()
    assert one.process.wait(60) == 128 + signal.SIGKILL
    assert one.line() == b""


def test_the_kernel_ends_the_program_of_a_killed_leash(kennel: Kennel) -> None:
    one = kennel.program()
    one.process.kill()
    assert one.line() == b"", "the end of its output is the program's end"


def test_there_are_never_two_of_what_is_locked(kennel: Kennel, tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    first = kennel.program(lock=str(lock))
    second = kennel.start(sys.executable, "-c", PROGRAM, lock=str(lock))
    with lock.open() as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    first.process.kill()  # its program holds the lock until the kernel has ended it
    assert second.line() == b"here\n"
    third = kennel.start(sys.executable, "-c", PROGRAM, lock=str(lock))
    third.let_go()  # while it waits
    assert third.process.wait(60) == 128 + signal.SIGTERM


def test_what_dies_again_and_again_is_started_less_and_less_often() -> None:
    pipe = Pipe()
    kept = Kept(Program("none", (sys.executable, "-c", "print('no')"), 1.0), pipe, ())
    pauses = []
    for _ in range(3):
        kept.start()
        status = kept.collect()
        pauses.append(kept.pause)
        assert status == 0
        assert not kept.running
    pipe.close()
    assert pauses == [0.5, 1.0, 2.0]
    kept._deaths = 1000
    assert kept.pause == LONGEST_PAUSE


REDIS = "4242:M 25 Nov 2026 03:56:51.678"


@pytest.mark.parametrize(
    ("text", "event", "level"),
    [
        ('{"event": "ready", "level": "error", "run": "x"}', "ready", "error"),
        (f"{REDIS} * Ready to accept connections", "Ready to accept connections", "debug"),
        (f"{REDIS} # Server initialized", "Server initialized", "debug"),
        (f"{REDIS} # WARNING Memory overcommit must be enabled! Or fail", None, "debug"),
        (f"{REDIS} # Can't open the append-only file", None, "warning"),
        (f"{REDIS} * Background saving error", "Background saving error", "warning"),
        ("Traceback (most recent call last):", None, "info"),
        ("{no json", "{no json", "info"),
        ('{"an": "object of others"}', '{"an": "object of others"}', "info"),
    ],
)
def test_every_line_becomes_an_event(text: str, event: str | None, level: str) -> None:
    said = understood(text)
    assert said["event"] == (event or text.partition(" # ")[2] or text)
    assert said["level"] == level


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_lines_say_who_says_them(stream: io.StringIO) -> None:
    lines = Lines(stream)
    lines.say("begins", hosts=["xen1"])
    lines.pass_on("worker", b'{"event": "ready", "level": "info", "timestamp": "t"}')
    lines.pass_on("redis", f"{REDIS} * a step of many".encode())
    lines.pass_on("redis", b"\x1b]0;a title\x07 failed \xff\r")
    lines.pass_on("beat", b"  ")
    told = stream.getvalue().splitlines()
    assert len(told) == 3
    if stream.isatty():
        assert [("up" in told[0], "worker" in told[1], "redis" in told[2])] == [(True,) * 3]
        assert "\x07" not in told[2]
    else:
        said = [json.loads(line) for line in told]
        assert [one["process"] for one in said] == ["up", "worker", "redis"]
        assert said[0]["hosts"] == ["xen1"]


def test_a_worker_that_hangs_is_no_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_ask_broker", lambda _settings: None)
    settings = read_service_settings({"SANDBOX_SERVICE_DATABASE": f"sqlite:///{tmp_path}/t.db"})
    database = open_database(settings.database)
    with pytest.raises(HostError, match="schema"):
        health.examine(settings, database, needs_worker=False)
    migrate(database)
    with pytest.raises(HostError, match="no worker of this machine"):
        health.examine(settings, database, needs_worker=True)
    mine, elsewhere = worker_name(), f"other-{os.getpid()}"
    for name, silent in ((elsewhere, 0.0), (mine, 1000.0)):
        row = {"name": name, "hosts": [], "slots": 1, "version": "1", "state": "up"}
        with database.write() as connection:
            seen = now() - silent
            connection.execute(insert(workers).values(**row, started=seen, seen=seen))
    with pytest.raises(HostError) as told:
        health.examine(settings, database, needs_worker=True)
    assert mine in told.value.hint
    with database.write() as connection:
        connection.execute(workers.update().values(seen=now()))
    assert f"worker: {mine} is up" in health.examine(settings, database, needs_worker=True)
    database.close()
