"""Fixtures that several files share; what they make is in tests/support/guests."""

from __future__ import annotations

from tests.support.guests.guests import (
    archive,
    base_image,
    hypervisor,
    image,
    lab,
    production,
    resuming,
    saved,
    settings,
    state,
    when,
)

__all__ = [
    "archive",
    "base_image",
    "hypervisor",
    "image",
    "lab",
    "production",
    "resuming",
    "saved",
    "settings",
    "state",
    "when",
]
