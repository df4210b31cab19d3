"""What a clone may do to its host's storage, and its storage to it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_FOR_PRODUCTION = "the clone was given up so that the running source can go on writing"
LEAST_FREE = 256 << 20  # bytes of this machine's disk


@dataclass(frozen=True)
class Danger:
    """Why a clone must go; empty while all is well."""

    to_production: str = ""  # its writes could soon stop production's
    to_clone: str = ""  # its disks are no copy of the source any more

    @property
    def why(self) -> str:
        """For people, with the consequence."""
        if self.to_clone:
            return f"{self.to_clone}: its result says nothing of the upgrade"
        if self.to_production:
            return f"{self.to_production}: {_FOR_PRODUCTION}"
        return ""


def disk_danger(
    folder: Path,
    least: int = LEAST_FREE,
    free: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free,
) -> str:
    """Why a clone's writes beneath ``folder`` must end; "" while there is room."""
    left = free(folder)
    return f"{folder} has only {left >> 20} MiB free" if left < least else ""
