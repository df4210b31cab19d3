"""Checks over the run's one SSH connection, against testinfra's own ssh backend."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from sandbox.checks import CheckSettings
from sandbox.checks.runner import run_checks
from sandbox.clone.ssh import HOST, GuestLogin, SshConnection
from sandbox.core.deadline import Deadline
from sandbox.core.process import run
from sandbox.core.records import CheckEnd, Observation, Outcome
from sandbox.demo.guest import Production
from tests.support.benchmarks.table import Measurement, Results

pytestmark = [pytest.mark.benchmark, pytest.mark.vm]

OURS = 200
THEIRS = 10  # 200 take six minutes under emulation; each of them costs the same
CHECK = """\
import pytest


@pytest.mark.parametrize("number", range({count}))
def test_true(host, number):
    assert host.run("true").rc == 0
"""
# What a person writes to reach the guest at all; everything else is testinfra's default.
PLAIN_CONFIG = """\
Host guest
  HostName {address}
  User root
  IdentityFile {key}
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
  LogLevel ERROR
"""


@pytest.fixture
def connection(production: Production, state: Path) -> Iterator[SshConnection]:
    """The clone's way in, here to a guest that is up already."""
    opened = SshConnection(state, GuestLogin("root", production.key), lambda _pid, _role: None)
    opened.open(production.address, Deadline(120, "connecting"))
    yield opened
    opened.close()


def test_shared_connection_against_testinfras_own(
    results: Results, connection: SshConnection, production: Production, tmp_path: Path
) -> None:
    theirs = [per_check_by_testinfra(production, tmp_path / "first")]
    ours = per_check_over_shared_connection(connection, tmp_path / "ours")
    theirs.append(per_check_by_testinfra(production, tmp_path / "second"))
    each = sum(theirs) / len(theirs)
    results.add(
        Measurement(
            name="checks-connection",
            what=f"{OURS} trivial checks: testinfra's own ssh backend against our one connection",
            ratio=each / ours,
            least=5.0,
            seconds={
                "testinfra, a check": each,
                "ours, a check": ours,
                f"ours, all {OURS}": ours * OURS,
                f"testinfra, {OURS} of them": each * OURS,
            },
            note=f"testinfra's {OURS} are scaled up from {2 * THEIRS} measured, half before ours"
            " and half after; ours with the start of pytest, testinfra's without",
        )
    )


def per_check_over_shared_connection(connection: SshConnection, folder: Path) -> float:
    """Seconds for one of OURS, in a whole session as a rehearsal has two of."""
    checks = written(folder, OURS)
    session = run_checks(
        files=[checks],
        shared=[],
        ssh_config=connection.config,
        host=HOST,
        phase="before",
        baseline=None,
        current=Observation(boot_id="", kernel=""),
        settings=CheckSettings(),
        work_dir=folder / "work",
        deadline=Deadline(900, "our checks"),
        on_result=lambda _result: None,
    )
    assert session.end is CheckEnd.COMPLETE, session.message
    assert [one.outcome for one in session.results] == [Outcome.PASSED] * OURS
    return session.seconds / OURS


def per_check_by_testinfra(production: Production, folder: Path) -> float:
    """Seconds for one of THEIRS, without the start of pytest."""
    checks = written(folder, THEIRS)
    config = folder / "ssh_config"
    address = production.address.replace("%", "%%")  # ssh expands % itself
    config.write_text(PLAIN_CONFIG.format(address=address, key=production.key))
    report = folder / "report.xml"
    run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", folder),
            *("-p", "no:cacheprovider", f"--junitxml={report}"),
            *("--hosts=ssh://guest", f"--ssh-config={config}", checks),
        ],
        Deadline(900, "testinfra's checks"),
    )
    cases = list(ElementTree.parse(report).iter("testcase"))
    assert len(cases) == THEIRS
    return sum(float(case.attrib["time"]) for case in cases) / THEIRS


def written(folder: Path, count: int) -> Path:
    folder.mkdir()
    file = folder / "test_trivial.py"
    file.write_text(CHECK.format(count=count))
    return file
