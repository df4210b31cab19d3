"""What `sandbox up` starts, and how each ends."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sandbox.core.errors import ToolMissing
from workers.settings import ServiceSettings

# A rehearsal that has to be given back is interrupted, and its clone removed: that takes a while.
UNDO = 360.0  # seconds after SANDBOX_SERVICE_DRAIN: a clean-up may take five minutes


@dataclass(frozen=True)
class Program:
    """One process of the service."""

    name: str
    argv: tuple[str, ...]
    grace: float  # seconds from SIGTERM on, after which it is killed
    lock: Path | None = None  # held while it lives


def broker(settings: ServiceSettings) -> Program:
    """A Redis that only this user reaches: a socket in a folder of mode 0700, no TCP port.

    What it is told to keep is on disk within a second; a full memory refuses, it forgets nothing.
    """
    program = shutil.which("redis-server")
    if program is None:
        raise ToolMissing("redis-server is not installed on this host", "apt install redis-server")
    folder = settings.embedded
    options = {
        "port": "0",
        "unixsocket": str(folder / "redis.sock"),
        "unixsocketperm": "700",
        "dir": str(folder),
        "save": "",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
        "logfile": "",
    }
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    return Program("redis", (program, *words), grace=30.0, lock=folder / "redis.lock")


def worker(settings: ServiceSettings, hosts: Sequence[str], slots: int) -> Program:
    named = [word for host in hosts for word in ("--host", host)]
    argv = _ourselves("worker", "--slots", str(slots), *named)
    return Program("worker", argv, grace=settings.drain + UNDO)


def beat() -> Program:
    return Program("beat", _ourselves("beat"), grace=15.0)


def api() -> Program:
    return Program("api", _ourselves("api"), grace=30.0)


def _ourselves(*words: str) -> tuple[str, ...]:
    # -P: a folder named workers where we are called must not come before ours.
    return (sys.executable, "-P", "-m", "workers.cli", *words)
