"""The fixtures are in labs.py and databases.py, which the tests import by those names.

Sample records are those of tests/unit.
"""

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
