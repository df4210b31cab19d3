"""The fixtures are in labs.py, which the tests import by that name."""

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
    "deadline",
    "folder",
    "lab",
    "libvirt_lab",
    "qemu_lab",
    "store",
    "this_run",
]
