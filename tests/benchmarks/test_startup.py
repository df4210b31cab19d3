"""`sandbox --help` answers at once: shells complete with it, people wait for it."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.benchmarks.table import Measurement, Results

pytestmark = pytest.mark.benchmark

ROUNDS = 10
ALLOWED = 0.25  # seconds of CPU, of all the command's processes


def test_help_costs_little_cpu(results: Results) -> None:
    command = str(Path(sys.executable).with_name("sandbox"))
    helps, empties = [], []
    cpu_of([command, "--help"])  # the byte code of a fresh checkout is compiled once
    for _ in range(ROUNDS):
        helps.append(cpu_of([command, "--help"]))
        empties.append(cpu_of([sys.executable, "-c", "pass"]))
    took, empty = statistics.median(helps), statistics.median(empties)
    results.add(
        Measurement(
            name="help-against-python",
            what="CPU time of `sandbox --help` against Python that does nothing",
            ratio=took / empty,
            seconds={"sandbox --help": took, "python -c pass": empty},
        )
    )
    results.add(
        Measurement(
            name="help-against-allowance",
            what=f"CPU time of `sandbox --help` against the {ALLOWED} s that it may take",
            ratio=took / ALLOWED,
            most=1.0,
            seconds={"sandbox --help": took},
        )
    )


def cpu_of(command: Sequence[str]) -> float:
    """Seconds of CPU, user and system, of a command and of what it waited for."""
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0, f"{command} failed"
    return usage.ru_utime + usage.ru_stime
