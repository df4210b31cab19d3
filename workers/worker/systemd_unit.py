"""The systemd unit of a worker on a hypervisor host."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from sandbox.core.errors import ToolMissing

UNIT = Path(__file__).resolve().parent / "data" / "upgrade-sandbox-worker.service"


def worker_unit() -> str:
    """Its text, starting the program that was called."""
    called = shutil.which(sys.argv[0]) or shutil.which("sandbox")
    if called is None:
        raise ToolMissing("the `sandbox` command is not in PATH", "call it by its whole path")
    # Percent and dollar signs mean something to systemd.
    path = str(Path(called).absolute()).replace("%", "%%").replace("$", "$$")
    return UNIT.read_text().replace("@COMMAND@", path)
