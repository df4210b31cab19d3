"""The real ``sandbox`` command, whose clones of TEST_SAVED_IMAGE go on from a saved boot."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import sandbox.hosts.drivers.libvirt_qemu as driver
from tests.support.guests.saved import ResumingQemu
from tests.support.paths import ROOT

PROGRAM = (sys.executable, "-m", "tests.support.guests.resuming")


def environment(saved: Path, image: Path) -> dict[str, str]:
    """What the program needs besides."""
    return {
        "TEST_SAVED_BOOTS": str(saved),
        "TEST_SAVED_IMAGE": str(image),
        "PYTHONPATH": str(ROOT),
    }


def main() -> None:
    from workers.cli import main as sandbox

    os.environ.pop("PYTHONPATH", None)  # it is for this process only
    driver.LibvirtQemu = ResumingQemu  # type: ignore[misc]
    sandbox(prog_name="sandbox")


if __name__ == "__main__":
    main()
