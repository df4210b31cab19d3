"""The fixtures are in guests.py: tests/faults uses them as well."""

from tests.support.guests.guests import (
    PRODUCTION,
    Lab,
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
    "PRODUCTION",
    "Lab",
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
