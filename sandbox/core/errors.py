"""Exceptions: the type says whose fault it is, the text says what to do.

Every exception a user can meet derives from :class:`SandboxError` and carries a
``message`` (what happened, with the value at fault) and a ``hint`` (what to do next).
Library code raises; only the entry points print or exit.
"""

from __future__ import annotations


class SandboxError(Exception):
    """Base of all our errors."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class RequestError(SandboxError):
    """The request is wrong (unknown guest, bad scenario): verdict ``rejected``."""


class HostError(SandboxError):
    """The sandbox itself failed (host, disk, mirror, tool): verdict ``error``; retryable."""


class NoRoom(HostError):
    """The host may not take one more clone now: a later try may well go through."""


class ToolMissing(HostError):
    """A program that we need is not installed on the host."""


class CommandFailed(HostError):
    """An external program failed; carries its command line, status and the output's tail."""

    def __init__(self, argv: tuple[str, ...], status: int, tail: str, hint: str = "") -> None:
        super().__init__(f"{argv[0]} exited with {status}: {tail or 'no output'}", hint)
        self.argv = argv
        self.status = status
        self.tail = tail


class ConnectionLost(HostError):
    """The SSH connection to the clone broke: says nothing about the upgrade."""


class DeadlineExceeded(HostError):
    """A phase ran out of its time. ``phase`` names it, ``doing`` what it was about."""

    def __init__(self, phase: str, seconds: float, hint: str = "", *, doing: str = "") -> None:
        late = f"{phase} took longer than {seconds:.0f} s"
        super().__init__(f"{late}; {doing}" if doing else late, hint)
        self.phase = phase
        self.seconds = seconds


class NotFetched(DeadlineExceeded):
    """What the upgrade needs was not fetched in time, so nothing was upgraded: ``error``."""


class GuestBusy(DeadlineExceeded):
    """Another package manager in the guest held its lock all the time: ``inconclusive``."""


class GuestUnreachable(SandboxError):
    """The clone runs but cannot be entered (no boot, no sshd, key refused).

    Before the upgrade this is ``inconclusive`` (``rejected`` when the guest ``refused`` the
    login that it was asked with), after it ``fail``: the caller knows which.
    """

    def __init__(self, message: str, hint: str = "", *, refused: bool = False) -> None:
        super().__init__(message, hint)
        self.refused = refused

    def amid(self, doing: str) -> GuestUnreachable:
        """The same, with what the guest did meanwhile."""
        return GuestUnreachable(f"{self.message}; {doing}", self.hint, refused=self.refused)


class GuestRestarted(GuestUnreachable):
    """The clone restarted by itself. ``when`` says what we did meanwhile, ``doing`` what it did."""

    def __init__(self, when: str = "", *, doing: str = "") -> None:
        what = " ".join(("the guest restarted by itself", when)).rstrip()
        super().__init__(f"{what}; {doing}" if doing else what, "see its console for the reason")
        self.doing = doing

    def amid(self, doing: str) -> GuestRestarted:
        return GuestRestarted(doing=doing)
