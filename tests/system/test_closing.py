"""What a run's record and page say once its clone is gone, or its command was killed."""

from __future__ import annotations

import os
import time

import pytest

from sandbox.core.records import Phase, PhaseTime, RunRecord
from sandbox.rehearsal.recovery import PAGE, write_page
from tests.support.fakes.run_world import World
from tests.support.fakes.sample_records import passed
from tests.system.test_removing import keep


def test_after_rm_the_page_does_not_say_that_the_clone_is_up(world: World) -> None:
    folder = keep(world, passed())
    page = folder.artifacts / PAGE
    assert write_page(folder, world.store.load(folder)) == ""
    assert "The clone was kept" in page.read_text()
    world.invoke("rm", folder.id)
    assert "The clone was kept" not in page.read_text()
    assert "<h1>" in page.read_text()
    assert page.stat().st_mode & 0o777 == 0o600


def test_a_page_that_cannot_be_written_again_does_not_stay_as_it_was(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = keep(world, passed())
    write_page(folder, world.store.load(folder))

    def fail(*_: object) -> str:
        raise OSError("No space left on device")

    monkeypatch.setattr("sandbox.rehearsal.recovery.render", fail)
    assert world.invoke("rm", folder.id).exit_code == 0
    assert not (folder.artifacts / PAGE).exists()


def test_the_phase_that_a_run_was_killed_in_is_among_its_phases(
    world: World, running: RunRecord
) -> None:
    """It ended with the last thing that it wrote, whatever its clone went on writing."""
    now = time.time()
    boot = PhaseTime(phase=Phase.BOOT, started=now - 4000, seconds=500, ok=True)
    values = {"started": now - 4000, "phases": (boot,)}
    folder = world.run(running.model_copy(update=values))
    for name, age in (("run.json", 3000), ("upgrade.log", 2000), ("console.log", 10)):
        (folder.artifacts / name).touch()
        os.utime(folder.artifacts / name, (now - age, now - age))
    assert world.invoke("reap").exit_code == 0
    record = world.store.load(folder)
    assert record.finished == pytest.approx(now - 2000, abs=1)
    first, died = record.phases
    assert first == boot
    assert (died.phase, died.ok, died.started) == (Phase.UPGRADE, False, now - 3500)
    assert died.seconds == pytest.approx(1500, abs=1)
    assert "killed" in (folder.artifacts / PAGE).read_text()


def test_a_run_that_was_killed_between_two_phases_has_no_further_one(
    world: World, running: RunRecord
) -> None:
    last = running.phases[-1]
    folder = world.run(running.model_copy(update={"phase": last.phase}))
    world.invoke("reap")
    assert world.store.load(folder).phases == running.phases
