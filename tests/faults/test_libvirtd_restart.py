"""libvirtd on this machine is restarted while the service rehearses: guests run on without it, and
so does the run. What else asks it just then hears a refusal, so `make test` runs this alone."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from sandbox.core.deadline import Deadline
from sandbox.core.records import Phase, Verdict
from sandbox.core.store import start_time
from tests.support.faults.chaos_cells import dice
from tests.support.faults.service_on_qemu import WINDOW, Service, expect_pass

pytestmark = pytest.mark.vm


# For each phase: seconds after its beginning until which it happens.
MOMENTS = {Phase.CLONE: 1.0, Phase.BOOT: WINDOW, Phase.UPGRADE: WINDOW}


def test_libvirtd_is_restarted_while_the_clone_is_made_boots_and_is_upgraded(
    service: Service, request: pytest.FixtureRequest
) -> None:
    """A clone cannot be made just then: the next attempt's can. Once made it needs no libvirtd."""
    chance = dice(request.node.name)
    service.start_worker()
    service.upgrade_takes(3 * int(WINDOW))
    run_id = service.submit(running=True)
    for phase, window in MOMENTS.items():
        service.wait_for_moment(run_id, phase, chance, window)
        assert service.is_in(phase, run_id) or phase is Phase.CLONE, "this would prove nothing"
        restart_libvirtd()
    service.wait_for_end(run_id)
    *failed, _last = outcomes = service.outcomes(run_id)
    assert failed in ([], [Verdict.ERROR]), service.logs()
    expect_pass(service, run_id, outcomes)


def restart_libvirtd() -> None:
    """As `.ci/setup` starts it."""
    before = daemons()
    if Path("/run/systemd/system").is_dir():
        subprocess.run(["systemctl", "restart", "libvirtd"], check=True)
    else:
        for pid in before:
            os.kill(pid, signal.SIGTERM)
        deadline = Deadline(60, "waiting for libvirtd to end")
        while daemons() & before:
            deadline.sleep(0.05)
        subprocess.run(["libvirtd", "-d"], check=True, stdin=subprocess.DEVNULL)
    after = daemons()
    assert after, "libvirtd does not run"
    assert after.isdisjoint(before), "it was not restarted"


def daemons() -> set[int]:
    """Those that live: an ended one may wait to be collected."""
    said = subprocess.run(["pgrep", "-x", "libvirtd"], capture_output=True, text=True, check=False)
    return {pid for pid in map(int, said.stdout.split()) if start_time(pid)}
