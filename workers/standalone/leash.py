"""Keeps one program on a leash: it has to end when no process holds a pipe's other end.

A process that is killed with -9 cannot send a message. But the kernel closes its end of the pipe.
The leash waits for that, and then ends the program as a SIGTERM to itself would. If the leash is
killed as well, the kernel sends the program a SIGTERM. That signal is requested in a process
without threads, between fork and exec, with a check whether it is too late already.

Small on purpose: the standard library, no threads, nothing of ours. Started with
``python -I -S leash.py PIPE GRACE LOCK PROGRAM [ARGUMENT ...]``

PIPE   number of the file descriptor to watch
GRACE  seconds from the first SIGTERM on, after which the program is killed
LOCK   a file that the program keeps locked while it lives, so that there are never two; or ""
"""

from __future__ import annotations

import ctypes
import fcntl
import math
import os
import select
import signal
import subprocess
import sys
import time

PR_SET_PDEATHSIG = 1
KILLED = 128  # and the signal's number: the exit status for a program that a signal ended
ASKING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def main(pipe: int, grace: float, lock: str, argv: list[str]) -> int:
    """The program's exit status."""
    asking = Asking(pipe)
    kept = _locked(lock, asking) if lock else ()
    child = _start(argv, kept)
    for fd in kept:
        os.close(fd)  # the program has it now, and keeps it as long as it lives
    kill_at = math.inf
    while child.poll() is None:
        if asking.heard_within(max(0.0, min(1.0, kill_at - time.monotonic()))):
            child.send_signal(signal.SIGTERM)
            kill_at = min(kill_at, time.monotonic() + grace)
        if time.monotonic() >= kill_at:
            os.killpg(child.pid, signal.SIGKILL)
            kill_at = math.inf
    status = child.returncode
    return KILLED - status if status < 0 else status


class Asking:
    """Hears who asks for the end: a signal, or the pipe."""

    def __init__(self, pipe: int) -> None:
        self._signals, wake = os.pipe()
        for end in (self._signals, wake):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for number in (*ASKING, signal.SIGCHLD):
            signal.signal(number, lambda _number, _frame: None)
        self._pipe = pipe
        self._watched = [self._signals, pipe]

    def heard_within(self, seconds: float) -> bool:
        """Whether the end is asked for; returns early for that, and when the program ends."""
        readable, _, _ = select.select(self._watched, [], [], seconds)
        numbers = os.read(self._signals, 64) if self._signals in readable else b""
        if self._pipe in readable:
            self._watched.remove(self._pipe)
            return True
        return any(number in ASKING for number in numbers)


def _locked(path: str, asking: Asking) -> tuple[int, ...]:
    """The lock's file descriptor, once the program's forerunner is gone."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if asking.heard_within(0.1):
                sys.exit(KILLED + signal.SIGTERM)
            continue
        return (fd,)


def _start(argv: list[str], kept: tuple[int, ...]) -> subprocess.Popen[bytes]:
    libc, leash = ctypes.CDLL(None, use_errno=True), os.getpid()

    def die_with_the_leash() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != leash:
            os._exit(KILLED + signal.SIGTERM)

    return subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        pass_fds=kept,
        process_group=0,
        preexec_fn=die_with_the_leash,
    )


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3], sys.argv[4:]))
