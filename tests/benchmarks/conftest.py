"""Ratios measured in one run: shown as a table at the end, kept as JSON in ``.benchmarks/``.

``session.json`` is what the last session measured and is not committed. For numbers worth
quoting, on a machine that does nothing else: ``pytest tests/benchmarks --publish`` also puts
them into ``latest.json``, which is.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.core.deadline import Deadline
from sandbox.core.settings import Settings
from sandbox.demo.guest import Production, start_production, stop_production
from sandbox.demo.image import DemoImage, build_image
from sandbox.hosts.drivers import Hypervisor, driver_for
from tests.support.benchmarks.table import Measurement, Results, as_table, write
from tests.support.paths import ROOT

RESULTS = ROOT / ".benchmarks"
PRODUCTION = "sbbench01"
TIB = 1 << 40
MEASURED = pytest.StashKey[list[Measurement]]()
LOAD_BEFORE = os.getloadavg()[0]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--publish", action="store_true", help="keep the measurements in .benchmarks/latest.json"
    )


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    measurements = config.stash.get(MEASURED, [])
    if not measurements:
        return
    terminalreporter.section("benchmarks")
    terminalreporter.write(as_table(measurements))
    session = RESULTS / "session.json"
    session.unlink(missing_ok=True)
    write(session, measurements, LOAD_BEFORE)
    # Absent when pytest was started for all tests: the option is known here only.
    if config.getoption("--publish", default=False):
        write(RESULTS / "latest.json", measurements, LOAD_BEFORE)


@pytest.fixture(scope="session")
def results(pytestconfig: pytest.Config) -> Results:
    return Results(pytestconfig.stash.setdefault(MEASURED, []))


@pytest.fixture(scope="session")
def base_image() -> DemoImage:
    return build_image(print)


@pytest.fixture(scope="session")
def production(base_image: DemoImage) -> Iterator[Production]:
    """A running guest with a disk of 2 GiB and a sparse one of 1 TiB."""
    try:
        yield start_production(PRODUCTION, image=base_image, extra_disk_bytes=TIB)
    finally:
        stop_production(PRODUCTION)


@pytest.fixture(scope="session")
def hypervisor() -> Iterator[Hypervisor]:
    driver = driver_for("qemu:///system", Deadline(20, "connecting"))
    yield driver
    driver.close()


@pytest.fixture
def state() -> Iterator[Path]:
    """A state folder of the test's own: short, since sockets live beneath it."""
    folder = Path(tempfile.mkdtemp(prefix="sbbench-", dir="/tmp"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def settings(state: Path) -> Settings:
    return Settings(state=state)
