"""kill -9 in every phase, then `sandbox reap`: nothing is left, and the source runs on."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox.core.deadline import Deadline
from sandbox.core.records import Phase
from sandbox.demo.guest import Production
from tests.support.circle import WIDE
from tests.support.faults.commands import PATIENCE, Command
from tests.support.faults.scenario_of_faults import SCENARIO
from tests.support.guests import leftovers
from tests.support.guests.guests import PRODUCTION, Lab, new_state
from tests.support.guests.resuming import environment
from tests.support.machine.forked import RESUMING

pytestmark = pytest.mark.vm

Start = Callable[..., Command]
WITHOUT_REBOOT = SCENARIO.replace("reboot: always", "reboot: never")
# Where nothing exists yet, or nothing any more, there is nothing to find.
EMPTY = (Phase.PLAN, Phase.CLEANUP)
# The real command, but for its end: at the so-manieth process that it would note down.
DIE_AT_REGISTERING = """
import os, signal, sys
from sandbox.core.store import RunFolder
from tests.support.guests.resuming import main
register, left = RunFolder.register, int(sys.argv.pop(1))
def die(*arguments):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    register(*arguments)
RunFolder.register = die
main()
"""


@pytest.fixture
def source_runs_on(production: Production) -> Iterator[None]:
    before = _boot_id(production)
    yield
    assert leftovers.backup_jobs([PRODUCTION]) == 0
    assert _boot_id(production) == before


def _boot_id(production: Production) -> str:
    argv = production.ssh("cat", "/proc/sys/kernel/random/boot_id")
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


# The clone of a running source boots; that of an image goes on from a saved boot. `make test` has
# every phase once, `make test-all` both ways.
BOOTED = list(Phase) if WIDE else [Phase.PLAN, Phase.CLONE, Phase.BOOT]
RESUMED = list(Phase)[1:] if WIDE else [phase for phase in Phase if phase not in BOOTED]


@pytest.mark.usefixtures("source_runs_on")
@pytest.mark.parametrize("phase", BOOTED)
def test_a_running_source(
    phase: Phase, sandbox: Start, scenario: Path, lab: Lab, production: Production
) -> None:
    if phase in (Phase.VERIFY, Phase.CLEANUP):  # the same without a reboot before
        (scenario / "scenario.yaml").write_text(WITHOUT_REBOOT)
    run = sandbox("run", scenario, "--guest", PRODUCTION, "--key", production.key)
    _kill_in(phase, run, sandbox, lab)


@pytest.mark.parametrize("phase", RESUMED)
def test_an_image(phase: Phase, sandbox: Start, scenario: Path, lab: Lab, saved: Path) -> None:
    if phase in (Phase.VERIFY, Phase.CLEANUP):
        (scenario / "scenario.yaml").write_text(WITHOUT_REBOOT)
    run = sandbox("run", scenario, *_image(lab), **_resumed(lab, saved))
    _kill_in(phase, run, sandbox, lab)


def _resumed(lab: Lab, saved: Path) -> dict[str, Any]:
    return {"entry": RESUMING, **environment(saved, lab.image.path)}


def _image(lab: Lab) -> tuple[object, ...]:
    return "--image", lab.image.path, "--format", "qcow2", "--key", lab.image.key


def _kill_in(phase: Phase, run: Command, sandbox: Start, lab: Lab) -> None:
    run.wait_for_phase(phase)
    run.kill()
    state = lab.settings.state
    assert leftovers.count(state) or phase in EMPTY, "this kill would prove nothing"
    (killed,) = sandbox("list", "--json").records()
    assert killed["verdict"] == "killed"
    reaped = sandbox("reap").succeed()
    assert killed["id"] in reaped
    assert leftovers.count(state) == {}, reaped
    (closed,) = sandbox("list", "--json").records()
    assert closed["state"] == "finished"
    if phase is not Phase.CLEANUP:  # by then everything may have been proved
        assert closed["verdict"] == "error"
        assert f"killed during {phase.value}" in closed["reason"]
    assert "nothing to remove" in sandbox("reap").succeed()


@pytest.mark.parametrize(
    ("number", "role"),
    [(1, "watches"), (2, "exports"), (3, "listeners"), (4, "masters")],
    ids=["watch", "nbd", "listener", "ssh"],
)
def test_before_a_process_was_noted_down(
    number: int, role: str, sandbox: Start, scenario: Path, lab: Lab, saved: Path
) -> None:
    """Too short a moment to be hit by luck: the command kills itself in it."""
    program = (sys.executable, "-c", DIE_AT_REGISTERING, number)
    resumed = environment(saved, lab.image.path)
    run = sandbox("run", scenario, *_image(lab), program=program, **resumed)
    assert run.finish() == -signal.SIGKILL, run.output
    assert leftovers.count(lab.settings.state)[role] == 1, "this kill would prove nothing"
    reaped = sandbox("reap").succeed()
    assert leftovers.count(lab.settings.state) == {}, reaped


def test_while_a_key_is_put_into_the_disk(sandbox: Start, scenario: Path, lab: Lab) -> None:
    """libguestfs' own machine runs by then; its sockets would be in everybody's /tmp."""
    with (scenario / "scenario.yaml").open("a") as file:
        file.write("login: {inject: true}\n")
    before = set(Path("/tmp").glob("libguestfs*"))
    run = sandbox("run", scenario, "--image", lab.image.path, "--format", "qcow2")
    own_tmp = "clones/*/tmp/libguestfs*/guestfsd.sock"
    deadline = Deadline(PATIENCE, "waiting for libguestfs")
    while not list(lab.settings.state.glob(own_tmp)):
        deadline.check(run.output)
        time.sleep(0.1)
    run.kill()
    assert leftovers.count(lab.settings.state)["processes"] > 2, "this kill would prove nothing"
    reaped = sandbox("reap").succeed()
    assert leftovers.count(lab.settings.state) == {}, reaped
    assert set(Path("/tmp").glob("libguestfs*")) == before


@pytest.mark.parametrize("attempt", range(12 if WIDE else 4))
def test_at_any_moment_while_the_clone_is_made(
    attempt: int, sandbox: Start, scenario: Path, lab: Lab
) -> None:
    """The moments between a thing's making and its being noted down, found by luck."""
    run = sandbox("run", scenario, *_image(lab))
    run.wait_for_phase(Phase.PLAN)
    time.sleep(random.Random(attempt).uniform(0, 1.2))
    run.kill()
    reaped = sandbox("reap").succeed()
    assert leftovers.count(lab.settings.state) == {}, reaped


def test_reaping_touches_neither_a_live_run_nor_a_kept_clone(
    sandbox: Start, scenario: Path, lab: Lab, saved: Path
) -> None:
    run = sandbox("run", scenario, *_image(lab), "--keep", **_resumed(lab, saved))
    for phase in Phase:
        run.wait_for_phase(phase)
        assert "nothing to remove" in sandbox("reap").succeed(), phase
    assert run.finish() == 0, run.output
    (kept,) = sandbox("list", "--json").records()
    assert kept["state"] == "kept"
    before = leftovers.count(lab.settings.state)
    assert before["domains"] == 1
    assert "nothing to remove" in sandbox("reap").succeed()
    with new_state() as other:
        assert "nothing to remove" in sandbox("reap", SANDBOX_STATE=str(other)).succeed()
    assert leftovers.count(lab.settings.state) == before
    enter = ("ssh", "-F", lab.settings.clones / kept["id"] / "ssh_config", "clone", "hostname")
    said = subprocess.run(enter, check=True, capture_output=True, text=True).stdout
    assert said == "web01\n"
    sandbox("rm", kept["id"]).succeed()
    assert leftovers.count(lab.settings.state) == {}
    assert "nothing to remove" in sandbox("reap").succeed()
