"""The fixtures are in xenlab.py and its like, which the tests import by that name."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "vm"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "faults"))

from wire import capture
from xencommand import sandbox
from xenlab import administrator, archive, host, left, settings, state, xen

__all__ = [
    "administrator",
    "archive",
    "capture",
    "host",
    "left",
    "sandbox",
    "settings",
    "state",
    "xen",
]
