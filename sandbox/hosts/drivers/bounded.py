"""Calls of libvirt's that end in time: each runs in a thread that is given up when it hangs.

Measured with libvirt-python 12.8 on libvirt 9.0 against a libvirtd of our own on a unix socket,
stopped by SIGSTOP in the middle of a session:

- Without more, a call waits until the daemon goes on, for ever if need be; so do `getLibVersion`
  and `close`. `isAlive` says that all is well.
- `virConnect.setKeepAlive` is refused ("the caller doesn't support keepalive protocol") unless an
  event loop is registered and runs in this process. With one, `setKeepAlive(2, 3)` ends the call
  after 2 x (3 + 1) seconds with "connection closed due to keepalive timeout".
- But of two threads with a call each on that connection one alone was told: the other waited on,
  and took the process along (SIGSEGV in libvirt) after the connection was closed. We have such
  threads. The loop does not survive a fork either, and a daemon that hangs in a driver (libxl
  waiting for a domain) answers keep-alive messages as ever.

So there is no keep-alive: the caller stops waiting. The call may still take effect when the daemon
goes on; that is safe, because everything of ours carries its mark and removal can be repeated.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from sandbox.core.deadline import Deadline
from sandbox.hosts.transport import HostLost

# Of calls that are given no deadline. Xen takes a minute to end a domain of some hundred GiB.
CALL_SECONDS = 120.0
_inside = threading.local()

P = ParamSpec("P")
R = TypeVar("R")


class Abandoning(Protocol):
    """A driver whose connection can be given up, with the calls that hang in it."""

    uri: str

    def abandon(self) -> None: ...


S = TypeVar("S", bound=Abandoning)


def bounded(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Let a driver's method raise :class:`HostLost` when it takes longer than the deadline that is
    among its arguments, else than two minutes."""

    def call(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        if getattr(_inside, "call", False):
            return method(self, *args, **kwargs)  # of another method's, and in its time
        given = [one.remaining() for one in (*args, *kwargs.values()) if isinstance(one, Deadline)]
        result, problem = list[R](), list[BaseException]()

        def attempt() -> None:
            _inside.call = True
            try:
                result.append(method(self, *args, **kwargs))
            except BaseException as raised:
                problem.append(raised)
            finally:
                ended.set()

        ended = threading.Event()  # Thread.join takes an interruption for the thread's end
        thread = threading.Thread(target=attempt, name=f"libvirt-{method.__name__}", daemon=True)
        thread.start()
        # A second more: the method's own word on its deadline is better than ours.
        interrupted = _wait(ended, Deadline(min(given or [CALL_SECONDS]) + 1, method.__name__))
        if not ended.is_set():
            self.abandon()
            problem = [_lost(self.uri, method.__name__)]
        if interrupted is not None:
            raise interrupted
        if problem:
            raise problem[0]
        return result[0]

    functools.update_wrapper(call, method)
    return call


def _wait(ended: threading.Event, deadline: Deadline) -> BaseException | None:
    """Wait; an interruption (whatever a signal's handler raises) is returned when the call has
    ended, since what it makes has to be there before it can be removed."""
    interrupted: BaseException | None = None
    while not ended.is_set() and not deadline.expired():
        try:
            ended.wait(deadline.remaining())
        except BaseException as signal:
            interrupted = signal
    return interrupted


def _lost(uri: str, doing: str) -> HostLost:
    where = uri.partition("?")[0]
    return HostLost(
        f"libvirt at {where} does not answer ({doing})",
        "does it hang? systemctl restart libvirtd on the host; guests run on meanwhile",
    )
