"""Fixtures that several files share; what they make is in tests/support/xen."""

from __future__ import annotations

from tests.support.xen.wire import capture
from tests.support.xen.xencommand import sandbox
from tests.support.xen.xenlab import administrator, archive, host, left, settings, state, xen

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
