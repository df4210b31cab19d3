"""What a phase inside the guest needs of the connection: three verbs and a proxy.

:class:`sandbox.clone.guest.Guest` is the real one. Scripts tell their own words from the guest's
by a mark that is new each time.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from sandbox.core.deadline import Deadline
from sandbox.core.process import Completed


class Shell(Protocol):
    """Runs POSIX shell scripts inside the clone, as root (through ``sudo -n`` if need be).

    A script is text for ``sh -s``, sent over standard input; values are passed as ``args``
    (``$1``, ``$2`` …), never pasted into the script. Every verb raises
    :class:`~sandbox.core.errors.ConnectionLost` when the connection broke and
    :class:`~sandbox.core.errors.DeadlineExceeded` when the time is over; a script's own non-zero
    status is a result, not an exception.
    """

    def run(self, script: str, deadline: Deadline, *, args: Sequence[str] = ()) -> Completed:
        """Run ``script`` and wait for it: one round trip."""

    def follow(
        self,
        script: str,
        deadline: Deadline,
        on_line: Callable[[str], None],
        *,
        args: Sequence[str] = (),
    ) -> int:
        """Run ``script`` detached in the guest, so that a broken connection does not end it.

        Calls ``on_line`` with every line of its output as it comes (standard error included),
        reconnects by itself within the deadline, and returns the script's exit status.
        """

    def put(self, local: Path, remote: str, deadline: Deadline) -> None:
        """Copy a file into the guest (mode 0600, parent folders made)."""

    def proxy_url(self) -> str:
        """The package proxy as the guest sees it, e.g. ``http://127.0.0.1:43217``."""


def new_mark() -> str:
    """A word that no output can contain by accident or by guessing."""
    return f"%%{secrets.token_hex(16)}%%"
