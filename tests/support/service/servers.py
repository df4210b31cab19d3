"""Real servers for tests, each in a folder of its own: PostgreSQL and Redis on unix sockets.

Used by tests/contract, tests/faults and tests/benchmarks.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import redis
from sqlalchemy import create_engine, text

from sandbox.core.deadline import Deadline

PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
PATIENCE = 60.0


@contextlib.contextmanager
def short_folder(prefix: str) -> Iterator[Path]:
    """Sockets live here: their paths may not be long."""
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@dataclass
class Postgres:
    """A PostgreSQL server of the tests' own."""

    folder: Path
    process: subprocess.Popen[bytes] | None = None
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def url(self, name: str) -> str:
        return f"postgresql+psycopg://postgres@/{name}?host={self.folder}"

    def start(self) -> None:
        data = self.folder / "data"
        if not data.exists():
            self._as_postgres("initdb", "-D", data, "-A", "trust", "-U", "postgres", "--no-sync")
        argv = [
            *(PROGRAMS[-1] / "postgres", "-D", data, "-k", self.folder),
            *("-c", "listen_addresses=", "-c", "max_connections=200"),
            # Processes are killed here, machines are not: what was written survives that. Guests
            # beside it keep the disk busy: a checkpoint took longer than a statement may.
            *("-c", "fsync=off", "-c", "full_page_writes=off"),
        ]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                argv, user="postgres", stdout=log, stderr=log, env=_ENVIRONMENT, cwd="/"
            )
        deadline = Deadline(PATIENCE, "starting PostgreSQL")
        while not self._answers():
            assert self.process.poll() is None, (self.folder / "log").read_text()
            deadline.sleep(0.1)

    def _answers(self) -> bool:
        argv = [PROGRAMS[-1] / "pg_isready", "-q", "-h", self.folder]
        return subprocess.run(argv, check=False).returncode == 0

    def kill(self) -> None:
        """As a power cut would."""
        assert self.process is not None
        self.process.send_signal(signal.SIGQUIT)  # immediate shutdown: all its processes end
        self.process.wait()

    def hang(self, seconds: float) -> None:
        """Its processes stand still: connections stay open, and nobody answers."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        everyone = [self.process.pid, *map(int, children.split())]
        for number in (signal.SIGSTOP, signal.SIGCONT):
            for pid in everyone:
                with contextlib.suppress(ProcessLookupError):  # a connection that has ended
                    os.kill(pid, number)
            if number == signal.SIGSTOP:
                time.sleep(seconds)

    def new_database(self) -> str:
        """The URL of a new, empty database."""
        name = f"test{next(self._numbers)}"
        engine = create_engine(self.url("postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        engine.dispose()
        return self.url(name)

    def _as_postgres(self, program: str, *arguments: object) -> None:
        argv = [str(word) for word in (PROGRAMS[-1] / program, *arguments)]
        subprocess.run(
            argv, user="postgres", check=True, capture_output=True, env=_ENVIRONMENT, cwd="/"
        )


_ENVIRONMENT = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}


@contextlib.contextmanager
def postgres() -> Iterator[Postgres]:
    """A server, started; gone with its data in the end."""
    assert PROGRAMS, "PostgreSQL's server is missing: .ci/setup --with-tests installs it"
    with short_folder("sbpg-") as folder:
        user = pwd.getpwnam("postgres")
        os.chown(folder, user.pw_uid, user.pw_gid)
        server = Postgres(folder)
        try:
            server.start()
            yield server
        finally:
            if server.process is not None and server.process.poll() is None:
                server.kill()  # what it would write is removed anyway


@dataclass
class Redis:
    """A Redis server of the tests' own."""

    folder: Path
    durable: bool  # with an append-only file
    process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        return self.folder / "redis.sock"

    @property
    def url(self) -> str:
        return f"redis+socket://{self.socket}"

    def client(self) -> redis.Redis:
        return redis.Redis(unix_socket_path=str(self.socket))

    def start(self) -> None:
        argv = [
            *("redis-server", "--port", "0", "--unixsocket", self.socket, "--dir", self.folder),
            *("--save", "", "--appendonly", "yes" if self.durable else "no"),
            *("--maxmemory-policy", "noeviction", "--daemonize", "no"),
            *("--appendfsync", "no"),  # as with PostgreSQL's fsync
        ]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([str(a) for a in argv], stdout=log, stderr=log)
        deadline = Deadline(PATIENCE, "starting Redis")
        while not self._answers():
            assert self.process.poll() is None, (self.folder / "log").read_text()
            deadline.sleep(0.05)

    def _answers(self) -> bool:
        with contextlib.suppress(redis.RedisError, OSError):
            return bool(self.client().ping())
        return False

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def restart(self, pause: float = 0.0) -> None:
        self.kill()
        time.sleep(pause)
        self.start()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait()


@contextlib.contextmanager
def redis_server(*, durable: bool = True, size: str = "") -> Iterator[Redis]:
    """``size``: of its own file system, so that it can be filled up (``4m``)."""
    with short_folder("sbredis-") as folder, _file_system(folder, size):
        server = Redis(folder, durable)
        try:
            server.start()
            yield server
        finally:
            server.stop()


@contextlib.contextmanager
def _file_system(folder: Path, size: str) -> Iterator[None]:
    if not size:
        yield
        return
    argv = ["mount", "-t", "tmpfs", "-o", f"size={size}", "sbtest", str(folder)]
    subprocess.run(argv, check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
