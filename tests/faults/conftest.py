"""Rehearsals that are cut off: the guests of tests/vm, and the real command in its own process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from sandbox.demo.broken import build_deb
from tests.support.faults.chaos_cells import SEED, Cells
from tests.support.faults.commands import Command
from tests.support.faults.scenario_of_faults import PACKAGE, SCENARIO
from tests.support.faults.service_on_qemu import service, untouched
from tests.support.guests.guests import (
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
)
from tests.support.machine.forked import SANDBOX
from tests.support.service.servers import Postgres, Redis, postgres, redis_server

__all__ = [
    "archive",
    "base_image",
    "hypervisor",
    "image",
    "lab",
    "production",
    "resuming",
    "saved",
    "service",
    "settings",
    "state",
    "untouched",
]

CELLS = pytest.StashKey[Cells]()
CHECK = "def test_is_up(host):\n    assert host.file('/etc/hostname').exists\n"


@pytest.fixture
def scenario(lab: Lab, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A whole rehearsal that costs little: one small package, and a reboot."""
    request.getfixturevalue("archive").offer([build_deb(PACKAGE, "1.0", out=tmp_path / "deb")])
    return lab.scenario(SCENARIO, test_up=CHECK)


@pytest.fixture
def sandbox(lab: Lab, tmp_path: Path) -> Iterator[Callable[..., Command]]:
    """Starts `sandbox ARGUMENTS` with the test's state folder; ends what still runs."""
    environment = {name: value for name, value in os.environ.items() if "SANDBOX" not in name} | {
        "SANDBOX_STATE": str(lab.settings.state),
        "SANDBOX_CONTROL": lab.settings.control,
        "SANDBOX_WATCH": "0",
        "SANDBOX_CACHE": str(lab.settings.cache),
        "SANDBOX_UPSTREAM_PROXY": lab.settings.upstream_proxy,
        "SANDBOX_PROXY_ALLOW": " ".join(lab.settings.proxy_allow),
    }
    started: list[Command] = []

    def start(
        *arguments: object,
        entry: str = SANDBOX,
        program: Sequence[object] = (),
        **more: str,
    ) -> Command:
        output = tmp_path / f"output{len(started)}"
        given = environment | more
        started.append(Command(arguments, given, output, entry=entry, program=program))
        return started[-1]

    yield start
    for command in started:
        command.end()


# -- the chaos suite --------------------------------------------------------------------------


def pytest_report_header() -> str:
    return f"chaos: CHAOS_SEED={SEED}"


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    cells = config.stash.get(CELLS, None)
    if cells is not None:
        terminalreporter.section("chaos")
        terminalreporter.write(cells.table())


@pytest.fixture(scope="session")
def cells(pytestconfig: pytest.Config) -> Cells:
    return pytestconfig.stash.setdefault(CELLS, Cells())


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    with postgres() as server:
        yield server


@pytest.fixture
def redis_of_chaos() -> Iterator[Redis]:
    with redis_server() as server:
        yield server
