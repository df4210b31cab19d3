"""Ends a clone before its writes can hurt the source.

A running QEMU guest's export keeps the blocks that the source overwrites meanwhile in a file of
the clone's folder; were that disk full, QEMU would fail the *source's* writes. A thin pool that is
full stops every guest in it. So a run is given up while there is still room.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from sandbox.deadline import Deadline
from sandbox.errors import SandboxError
from sandbox.hypervisors import Hypervisor
from sandbox.store import RunFolder
from sandbox.volumes import lvm

LEAST_FREE = 256 << 20  # bytes
_LOCAL_INTERVAL, _HOST_INTERVAL = 1.0, 15.0  # seconds


class SpaceGuard:
    """Asks for a danger again and again; at the first one it calls ``give_up`` once, from its
    own thread."""

    def __init__(
        self,
        danger: Callable[[], str],
        give_up: Callable[[str], None],
        *,
        interval: float = _LOCAL_INTERVAL,
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
                self._give_up(
                    f"{danger}: the clone was given up so that the running source can go on writing"
                )
                return


def space_guard(
    hypervisor: Hypervisor, folder: RunFolder, give_up: Callable[[str], None]
) -> SpaceGuard:
    """The guard of what a clone on this hypervisor fills."""
    if hypervisor.kind != "xen":
        return SpaceGuard(lambda: disk_danger(folder.clone), give_up)

    def pool_danger() -> str:
        deadline = Deadline(60, "looking at the thin pools")
        return lvm.survey(hypervisor.host, deadline).danger(folder.id)

    return SpaceGuard(pool_danger, give_up, interval=_HOST_INTERVAL)


def disk_danger(
    folder: Path,
    least: int = LEAST_FREE,
    free: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free,
) -> str:
    """Why a clone's writes beneath ``folder`` must end; "" while there is room."""
    left = free(folder)
    return f"{folder} has only {left >> 20} MiB free" if left < least else ""
