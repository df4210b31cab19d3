"""Protect production from a full disk: a running source's QEMU keeps what it overwrites in a
scratch file next to the clone, and a scratch file that cannot grow breaks the source's writes.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

LEAST_FREE = 256 << 20  # bytes
_INTERVAL = 1.0  # seconds


class SpaceGuard:
    """Watches the free space; below the limit it calls ``give_up`` once, from its own thread."""

    def __init__(
        self,
        folder: Path,
        give_up: Callable[[str], None],
        *,
        least: int = LEAST_FREE,
        interval: float = _INTERVAL,
        free: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free,
    ) -> None:
        self._folder = folder
        self._give_up = give_up
        self._least = least
        self._interval = interval
        self._free = free
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
            free = self._free(self._folder)
            if free < self._least:
                self._give_up(
                    f"{self._folder} has only {free >> 20} MiB free: the clone was given up "
                    "so that the running source can go on writing"
                )
                return
