"""For all tests: patience with a busy machine, and what explains a failure.

``python -m tests.run`` names a folder by TEST_ARTIFACTS: what a failed test worked on (console
logs, run folders, logs of services) is copied there before its fixtures remove it, and its report
is written to TEST_SHOW, a file descriptor, at once.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

ARTIFACTS = os.environ.get("TEST_ARTIFACTS", "")
SHOW = os.environ.get("TEST_SHOW", "")
LARGEST = 8 << 20  # bytes of a file that is kept: logs and records, no disks
DISKS = (".qcow2", ".raw", ".vmdk", ".img", ".deb")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and ARTIFACTS and isinstance(item, pytest.Function):
        _keep(report, _folders(item.funcargs.values()))
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Also in the parent of pytest-xdist, which has TEST_SHOW open."""
    if report.failed and SHOW and "PYTEST_XDIST_WORKER" not in os.environ:
        kept = [text for title, text in report.sections if title == _KEPT]
        text = f"\n--- {report.when} of {report.nodeid} failed\n{report.longreprtext}\n"
        text += "".join(f"what explains it: {folder}\n" for folder in kept) + "\n"
        with contextlib.suppress(OSError):  # the one who reads it may have ended
            os.write(int(SHOW), text.encode(errors="replace"))


_KEPT = "kept"


def _keep(report: pytest.TestReport, folders: Iterator[Path]) -> None:
    name = re.sub(r"[^\w.-]+", "_", report.nodeid.rpartition("/")[2])[:120]
    place = Path(ARTIFACTS) / name / report.when
    for number, folder in enumerate(dict.fromkeys(folders)):
        with contextlib.suppress(OSError, shutil.Error):  # some of it may vanish meanwhile
            shutil.copytree(
                folder, place / f"{number}-{folder.name}", ignore=_unreadable, symlinks=True
            )
    if place.is_dir():
        report.sections.append((_KEPT, str(place)))


def _folders(fixtures: Any) -> Iterator[Path]:
    """The folders among a test's fixtures, and those that its objects call theirs."""
    for value in fixtures:
        own = (value, getattr(value, "folder", None), getattr(value, "state", None))
        state = getattr(getattr(value, "settings", None), "state", None)
        for folder in (*own, state):
            if isinstance(folder, Path) and folder.is_dir() and len(folder.parts) > 2:
                yield folder


def _unreadable(folder: str, names: list[str]) -> list[str]:
    """What is no log or record: sockets, devices, disks, what is too large."""
    left = []
    for name in names:
        path = Path(folder, name)
        with contextlib.suppress(OSError):
            small = path.is_file() and path.stat().st_size <= LARGEST
            if path.is_symlink() or path.is_dir() or (small and path.suffix not in DISKS):
                continue
        left.append(name)
    return left


TOLD = pytest.StashKey[list[str]]()


@pytest.fixture
def tell(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Say something in the summary at the end, whatever the outcome: "n of m tries"."""
    return pytestconfig.stash.setdefault(TOLD, []).append


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    for line in config.stash.get(TOLD, []):
        terminalreporter.write_line(line)
