"""Room on a host's file systems in which clones' files lie beside production's.

A reflink copy shares all blocks with production's file: from then on each of production's own
writes needs a new one, and a file system that is full fails them. An overlay takes the same room
by what the clone writes. So there has to be some before a clone is made, and while it lives.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from sandbox.core.deadline import Deadline
from sandbox.core.errors import NoRoom
from sandbox.hosts.transport import Host

LEAST_AT_START = 1536 << 20  # bytes: what a rehearsal writes, and what is left to production
LEAST = 512 << 20  # below it a clone is given up
# One line of `df -P -k`; names before and after the figures may hold spaces.
_LINE = re.compile(r"\s\d+\s+\d+\s+(-?\d+)\s+(?:\d+%|-)\s+(/.*)$")
_FREE = 'for place; do df -P -k -- "$place" | tail -n 1; done'
_LISTED = """[ -e "$1" ] || exit 0
while IFS= read -r place; do
    [ ! -d "$place" ] || df -P -k -- "$place" | tail -n 1
done <"$1"
"""


@dataclass(frozen=True)
class FileSystem:
    """A mounted file system and what is free in it, in bytes."""

    mount: str
    free: int


def parse_df(text: str) -> tuple[FileSystem, ...]:
    """Lines of ``df -P -k`` without their title, each file system once; pure."""
    return tuple(dict.fromkeys(_lines(text)))


def _lines(text: str) -> Iterator[FileSystem]:
    for line in text.splitlines():
        found = _LINE.search(line)
        if found:
            yield FileSystem(found[2], max(0, int(found[1])) << 10)


def require_room(
    host: Host, folders: Iterable[PurePosixPath], least: int, deadline: Deadline
) -> None:
    """Raise :class:`HostError` before anything is made on a file system that is nearly full."""
    argv = ["sh", "-c", _FREE, "sh", *map(str, dict.fromkeys(folders))]
    for system in parse_df(host.run(argv, deadline).stdout):
        if system.free < least:
            raise NoRoom(
                f"the file system {system.mount} of the host has {system.free >> 20} MiB free, a "
                f"clone of disks in it needs {least >> 20} MiB: full, it would fail production's "
                "writes, too",
                "free some space there, or move the guest's disks",
            )


def danger(host: Host, places: PurePosixPath, deadline: Deadline) -> str:
    """Why a clone's files must go before production cannot write; "" when all is well.

    ``places`` is the run's list of their folders on the host.
    """
    shown = host.run(["sh", "-c", _LISTED, "sh", str(places)], deadline).stdout
    for system in parse_df(shown):
        if system.free < LEAST:
            return (
                f"the file system {system.mount} of the host has only {system.free >> 20} MiB free "
                f"(limit {LEAST >> 20} MiB)"
            )
    return ""
