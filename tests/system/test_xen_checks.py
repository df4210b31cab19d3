"""doctor of a Xen host: what the host says is read, and judged for people."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from sandbox.core.settings import Settings
from sandbox.doctor import xen_checks as checks
from sandbox.doctor.host_checks import State
from sandbox.doctor.xen_report import parse_report, script
from sandbox.hosts.inventory import KnownHost
from tests.unit.test_xen_checks import TEXT, names


def test_the_script_runs_on_a_host_that_is_no_xen_host() -> None:
    """This one: nothing is missed, and what is not there is said."""
    done = subprocess.run(["sh", "-s"], input=script(), capture_output=True, text=True, timeout=60)
    read = parse_report(done.stdout)
    assert read.clock is not None
    assert read.root
    assert read.space is not None
    assert read.problem
    assert checks.xen(read).state is State.BAD
    assert read.version == ""


def test_of_a_host_that_answers_everything_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "script", lambda: f"cat <<'E'\n{TEXT}\nE\n")
    found = names(Settings(state=tmp_path), KnownHost("a", "xen:///system"))
    assert {"clock", "Xen", "vg0/thin", "pygrub", "libvirt", "guest types", "dead runs"} < set(
        found
    )
    assert "reachable ok" in found
    assert len(found) == len(set(found))
