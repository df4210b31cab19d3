"""Ends a clone before its writes can hurt the source.

A running QEMU guest's export keeps the blocks that the source overwrites meanwhile in a file of
the clone's folder; were that disk full, QEMU would fail the *source's* writes. A thin pool that is
full stops every guest in it, and so does a file system in which clones' files lie beside
production's. So a run is given up while there is still room. And a thick snapshot that is full
breaks the clone: what that does then is no verdict on the upgrade.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from sandbox.core.deadline import Deadline
from sandbox.core.errors import SandboxError
from sandbox.core.records import Disk
from sandbox.core.store import RunFolder
from sandbox.hosts.drivers import Hypervisor
from sandbox.hosts.volumes.storage import storage_of


class SpaceGuard:
    """Asks for a danger again and again; at the first one it calls ``give_up`` once, from its
    own thread."""

    def __init__(
        self,
        danger: Callable[[], str],
        give_up: Callable[[str], None],
        *,
        interval: float,
    ) -> None:
        self._danger = danger
        self._give_up = give_up
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="space-guard", daemon=True)

    def __enter__(self) -> SpaceGuard:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(self._interval):
            try:
                danger = self._danger()
            except SandboxError:
                continue  # a host that does not answer is the recipe's trouble
            if danger:
                self._give_up(danger)
                return


def space_guard(
    hypervisor: Hypervisor,
    folder: RunFolder,
    disks: Sequence[Disk],
    give_up: Callable[[str], None],
) -> SpaceGuard:
    """The guard of what a clone of these disks fills."""
    storage = storage_of(hypervisor)
    volumes = any(disk.store == "lvm" for disk in disks)
    files = any(disk.store != "lvm" for disk in disks)

    def danger() -> str:
        deadline = Deadline(60, "looking at the clone's storage")
        return storage.danger(folder, deadline, volumes=volumes, files=files).why

    return SpaceGuard(danger, give_up, interval=storage.guard_interval(files=files))
