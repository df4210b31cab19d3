"""`sandbox up` and `sandbox down`: the service of one machine, started, kept alive, ended."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import redis

from sandbox.core.errors import HostError, RequestError, SandboxError
from sandbox.core.store import is_alive, this_process
from workers.database import Database, migrate, open_database
from workers.queue.presence import present
from workers.queue.terminal import known_hosts
from workers.settings import ServiceSettings
from workers.standalone import programs
from workers.standalone.lines import Lines
from workers.standalone.supervisor import Kept, Pipe, Supervisor

_START = 120.0  # seconds; a long append-only file takes a while to be read
_LOOK = 0.2  # seconds


def up(settings: ServiceSettings, hosts: Sequence[str], slots: int) -> int:
    """Run the service until a signal ends it; returns the exit status.

    Raises :class:`RequestError` where it runs already.
    """
    serving = known_hosts(settings, hosts)
    redis_program = programs.broker(settings) if own_broker(settings) else None
    lines = Lines(sys.stderr)
    with locked(settings, lines) as lock:
        database = open_database(settings.database)
        migrate(database)
        supervisor = Supervisor(lines)
        ours, clients = Pipe(), Pipe()
        with supervisor.listening(), contextlib.ExitStack() as undo:
            undo.callback(database.close)
            # Redis ends after all its clients, independent of which process was killed.
            if redis_program is not None:
                kept = Kept(redis_program, clients, [lock])
                undo.callback(supervisor.stop, kept)
                _start_broker(supervisor, kept, settings)
            worker = programs.worker(settings, serving, slots)
            for program in (programs.beat(), programs.api(), worker):
                client = Kept(program, ours, [lock, clients.write])
                undo.callback(supervisor.stop, client)
                if not supervisor.asked:
                    supervisor.start(client)
            _serve(supervisor, lines, database, settings, serving)
        lines.say("the service has ended")
        for pipe in (ours, clients):
            pipe.close()
    return 0


def own_broker(settings: ServiceSettings) -> bool:
    """Whether the broker is the one that we start."""
    return settings.broker == f"redis+socket://{settings.embedded}/redis.sock"


def _start_broker(supervisor: Supervisor, kept: Kept, settings: ServiceSettings) -> None:
    supervisor.start(kept)
    server = redis.Redis(unix_socket_path=str(settings.embedded / "redis.sock"))
    with server:
        answered = supervisor.until(lambda: _answers(server), _START)
    if not answered and not supervisor.asked:
        raise HostError("Redis does not start", "its last lines, above, say why")


def _answers(server: redis.Redis) -> bool:
    with contextlib.suppress(redis.RedisError, OSError):  # not yet, or it still reads its file
        return bool(server.ping())
    return False


def _serve(
    supervisor: Supervisor,
    lines: Lines,
    database: Database,
    settings: ServiceSettings,
    hosts: Sequence[str],
) -> None:
    begun = database.now()
    up_to_now = {worker.name for worker in present(database)}

    def works() -> bool:
        with contextlib.suppress(SandboxError):  # a database that is busy: we look again
            fresh = (one for one in present(database) if one.name not in up_to_now)
            return any(one.started >= begun - 1 and one.state == "up" for one in fresh)
        return False

    while not supervisor.asked and not supervisor.until(works, _START):
        if not supervisor.asked:
            lines.say("no worker is ready yet; going on", "warning")
    if not supervisor.asked:
        lines.say(
            "the service runs; queue rehearsals with: sandbox submit security --guest NAME",
            pid=os.getpid(),
            hosts=list(hosts),
            database=database.url,
        )
    while not supervisor.asked:
        supervisor.turn()
    lines.say(
        "draining: rehearsals may finish, what does not is queued again; "
        "Ctrl-C again gives all back now",
        seconds=settings.drain,
    )


# -- one on a machine -------------------------------------------------------------------------


@contextlib.contextmanager
def locked(settings: ServiceSettings, lines: Lines) -> Iterator[int]:
    """The service's lock. All that we start holds it as well: it is free when all is gone."""
    folder = settings.embedded
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    fd = os.open(folder / "up.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        waits = False
        end = time.monotonic() + settings.drain + 2 * programs.UNDO
        while not _taken(fd):
            _refuse_a_second(folder)
            if not waits:
                lines.say("what a killed `sandbox up` left is still ending; waiting", "warning")
            waits = True
            if time.monotonic() > end:
                raise HostError(
                    "what a killed `sandbox up` left does not end",
                    "look for it with: pgrep -af workers.cli",
                )
            time.sleep(_LOOK)
        os.ftruncate(fd, 0)
        os.pwrite(fd, this_process().encode(), 0)
        yield fd
    finally:
        os.close(fd)


def _refuse_a_second(folder: Path) -> None:
    owner = _owner(folder)
    if is_alive(owner):
        raise RequestError(
            f"the service already runs here: {_described(owner)}, in {folder}",
            "`sandbox status` shows its queue, `sandbox down` ends it",
        )


def down(settings: ServiceSettings, say: Callable[[str], None]) -> None:
    """End the service of this machine, and wait for that. Nothing runs: nothing to do."""
    lock = settings.embedded / "up.lock"
    if not lock.exists():
        say("the service does not run here")
        return
    fd = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    try:
        if _taken(fd):
            say("the service does not run here")
            return
        owner = _owner(settings.embedded)
        if is_alive(owner):
            os.kill(_pid(owner), signal.SIGTERM)
            say(f"{_described(owner)} drains; waiting for its end")
        else:
            say("its `sandbox up` was killed; waiting for the end of what that left")
        while not _taken(fd):
            time.sleep(_LOOK)
        say("the service has ended")
    finally:
        os.close(fd)


def _taken(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _owner(folder: Path) -> str:
    return (folder / "up.lock").read_text(errors="replace").strip()


def _pid(owner: str) -> int:
    return int(owner.partition(":")[0])


def _described(owner: str) -> str:
    return f"`sandbox up`, pid {_pid(owner)}"
