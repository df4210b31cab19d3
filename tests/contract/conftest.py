"""Fixtures that several files share; what they make is in tests/support."""

from __future__ import annotations

from tests.support.hosts.labs import (
    deadline,
    folder,
    lab,
    libvirt_lab,
    qemu_lab,
    store,
    this_run,
)
from tests.support.service.databases import database, database_url, postgres_server

__all__ = [
    "database",
    "database_url",
    "deadline",
    "folder",
    "lab",
    "libvirt_lab",
    "postgres_server",
    "qemu_lab",
    "store",
    "this_run",
]
