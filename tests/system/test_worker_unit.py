"""The systemd unit of a worker: what systemd says of it, and that it fits the worker."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from workers import cli
from workers.commands.service import worker
from workers.settings import VARIABLES
from workers.standalone.programs import UNDO
from workers.worker.systemd_unit import UNIT

NAME = UNIT.name
MOST_EXPOSED = 60  # of 100, as `systemd-analyze security` counts


@pytest.fixture
def unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As `sandbox worker --systemd-unit` prints it, for a program that is there."""
    program = tmp_path / "bin" / "sandbox"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setattr("sys.argv", [str(program)])
    printed = CliRunner().invoke(cli.main, ["worker", "--systemd-unit"])
    assert printed.exit_code == 0, printed.output
    path = tmp_path / NAME
    path.write_text(printed.stdout)
    assert f"ExecStart={program} worker " in printed.stdout
    return path


def values(unit: Path, name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", unit.read_text(), re.MULTILINE)


def analyze(*argv: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *argv],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/sbin:/usr/bin", "SYSTEMD_LOG_LEVEL": "warning"},
    )


def test_systemd_understands_every_line(unit: Path) -> None:
    done = analyze("verify", "--man=no", unit)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if NAME in line] == []


def test_a_mistake_in_it_would_be_told(unit: Path) -> None:
    unit.write_text(unit.read_text().replace("KillMode=mixed", "KillMode=mixt"))
    assert f"{NAME}:" in analyze("verify", "--man=no", unit).stderr


def test_it_is_hardened(unit: Path) -> None:
    done = analyze("security", "--offline=true", f"--threshold={MOST_EXPOSED}", "--no-pager", unit)
    assert done.returncode == 0, done.stdout


def test_it_may_make_the_namespaces_that_a_run_needs(unit: Path) -> None:
    """A network for stand-ins, mounts for libguestfs (sandbox.clone.key_injection)."""
    assert [set(value.split()) for value in values(unit, "RestrictNamespaces")] == [{"net", "mnt"}]


def test_it_stops_later_than_the_worker_drains(unit: Path) -> None:
    given = dict(line.split("=", 1) for line in values(unit, "Environment"))
    assert float(values(unit, "TimeoutStopSec")[0]) >= float(given["SANDBOX_SERVICE_DRAIN"]) + UNDO
    assert values(unit, "KillMode") == ["mixed"]
    assert values(unit, "Restart") == ["on-failure"]


def test_its_environment_and_its_options_are_the_workers(unit: Path) -> None:
    given = dict(line.split("=", 1) for line in values(unit, "Environment"))
    for name in given:
        bare = name.removeprefix("SANDBOX_SERVICE_").removesuffix("_FILE")
        assert bare in VARIABLES or name == "WORKER_OPTIONS"
    examples = re.findall(r"WORKER_OPTIONS=(--host .*?)  ", unit.read_text())
    above = click.Context(cli.main, **cli.main.context_settings)
    for options in (given["WORKER_OPTIONS"], *examples):
        worker.make_context("worker", shlex.split(options), parent=above)
