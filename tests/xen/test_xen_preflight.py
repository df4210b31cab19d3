"""The preflight asks a real PV guest what it runs on, and whether that can boot."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import pytest

from sandbox.core.process import Completed
from sandbox.managers import UpgradeRequest
from sandbox.preflight.judge import look_ahead
from sandbox.preflight.parse import parse
from sandbox.preflight.points import PreflightSeverity
from tests.support.xen.xenlab import GUEST, Administrator

pytestmark = pytest.mark.xen


def test_a_guest_on_xen_says_what_it_runs_on(administrator: Administrator) -> None:
    answers: list[tuple[str, str]] = []

    def ask(script: str, arguments: Sequence[str]) -> Completed:
        command = shlex.join(("sh", "-s", "--", *arguments))
        answer = administrator.inside(command, input=script.encode())
        answers.append((answer.stdout, arguments[0]))
        return answer

    found = look_ahead(ask, GUEST, UpgradeRequest("kernel"))
    ((text, mark),) = answers
    seen = parse(text, mark)
    assert (seen.xen["type"], seen.xen["guest_type"]) == ("xen", "PV")
    assert int(seen.xen["version/major"]) >= 4
    assert any(disk.startswith("xvd") for disk in seen.disks), seen.disks
    assert seen.kernel in seen.kernels
    drivers = {driver.replace("-", "_") for kernel, driver in seen.drivers if kernel == seen.kernel}
    assert "xen_blkfront" in drivers
    blocked = [point for point in found.points if point.severity is PreflightSeverity.BLOCKER]
    assert [point for point in blocked if point.topic == "boot chain"] == []
    assert found.reboot_seconds > 0
