"""The fixtures are in labs.py and databases.py, which the tests import by those names.

Sample records are those of tests/unit.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "unit"))

from databases import database, database_url, postgres_server
from labs import (
    deadline,
    folder,
    lab,
    libvirt_lab,
    qemu_lab,
    store,
    this_run,
)

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
