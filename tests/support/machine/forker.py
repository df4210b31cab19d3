"""The process that :mod:`tests.support.machine.forked` forks commands of ours from.

It has imported what they need, and does nothing else. It ends when its socket is closed; what it
forked goes on.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import selectors
import signal
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any

# What takes time to import. None of them looks at the environment while it is imported.
HEAVY = (
    "alembic.command",
    "celery",
    "libvirt",
    "psycopg",
    "rich.live",
    "sandbox.cli.foreground",
    "sandbox.rehearsal.recipe",
    "sqlalchemy.dialects.postgresql",
    "sqlalchemy.dialects.sqlite",
    "workers.web.api.server",
    "workers.web.api.application",
    "workers.cli",
    "workers.worker.process",
    "workers.worker.rehearsal_executor",
    "workers.worker.tasks",
)
STATUS = struct.Struct("i")  # a child's pid, in the end its status as Popen.returncode
_REQUEST = 1 << 20  # bytes, at most
_KEPT_OPEN = 4096  # more descriptors than a child inherits


def serve(requests: socket.socket) -> Callable[[], object] | None:
    """Fork for each request. Returns None in the end, and in every child what it has to do."""
    waiting: dict[int, socket.socket] = {}
    woken, wake = socket.socketpair()
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    with selectors.DefaultSelector() as ready:
        ready.register(requests, selectors.EVENT_READ)
        ready.register(woken, selectors.EVENT_READ)
        while True:
            for key, _ in ready.select():
                if key.fileobj is woken:
                    woken.recv(4096)
                    _tell_ends(waiting)
                    continue
                data, descriptors, _, _ = socket.recv_fds(requests, _REQUEST, 4)
                if not data:
                    return None
                *streams, status = descriptors
                pid = os.fork()
                if pid == 0:
                    return _become(json.loads(data), streams, status)
                for descriptor in streams:
                    os.close(descriptor)
                waiting[pid] = socket.socket(fileno=status)


def _tell_ends(waiting: dict[int, socket.socket]) -> None:
    for pid in list(waiting):
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            with waiting.pop(pid) as told:
                try:
                    told.send(STATUS.pack(os.waitstatus_to_exitcode(status)))
                except BrokenPipeError:  # its session of pytest has ended
                    continue


def _become(request: dict[str, Any], streams: list[int], status: int) -> Callable[[], object]:
    """In the child: what a new process would have found."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    os.write(status, STATUS.pack(os.getpid()))  # from now on its group can be signalled
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
    os.closerange(3, _KEPT_OPEN)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = ["sandbox", *request["arguments"]]

    def work() -> object:
        module, _, name = request["entry"].partition(":")
        return getattr(importlib.import_module(module), name)(**request["options"])

    return work


def main() -> None:
    for name in HEAVY:
        importlib.import_module(name)
    gc.freeze()  # else every child looks through all of it when it ends: half a second
    work = serve(socket.socket(fileno=int(sys.argv[1])))
    if work is not None:
        work()


if __name__ == "__main__":
    main()
