"""The process that watches the disk once a clone's command has ended."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from sandbox.clone.reaper import remove_run
from sandbox.core.errors import HostError
from sandbox.core.records import RunRecord, Verdict
from sandbox.core.store import RunFolder, this_process
from sandbox.hosts import drivers
from sandbox.rehearsal import disk_watch
from sandbox.report import render
from tests.support.fakes.run_world import DEAD, World
from tests.support.fakes.sample_records import passed
from tests.support.fakes.stage import Stage, commands_with

FULL, EMPTY = 1 << 62, 0  # bytes that have to be free: more than there are, and none
URI = "qemu:///system"


def kept(world: World, *, owner: str = DEAD) -> RunFolder:
    values = {"state": "kept", "ssh_command": "ssh -F x clone"}
    folder = world.run(passed().model_copy(update=values), owner=owner)
    folder.note(kept="yes")
    world.start_clone(folder)
    return folder


@pytest.mark.parametrize("owner", [DEAD, this_process()], ids=["dead", "alive"])
def test_a_kept_clone_is_removed_before_the_disk_is_full(world: World, owner: str) -> None:
    """Whether or not the command still lives, which may be writing its report."""
    folder = kept(world, owner=owner)
    disk_watch.watch(URI, folder.clone, FULL)
    assert world.clones() == []
    assert not folder.clone.exists()
    record = world.store.load(folder)
    assert (record.state, record.ssh_command) == ("finished", "")
    assert record.decision == passed().decision, "what was found out stays true"
    assert record.source is not None
    (warning,) = record.source.warnings
    assert "MiB free: the clone was removed so that the source can write" in warning
    assert "the clone was removed so that" in render(record, folder.artifacts, "markdown")


def test_the_clone_of_a_killed_run_is_removed_as_well(world: World, running: RunRecord) -> None:
    folder = world.run(running)
    world.start_clone(folder)
    disk_watch.watch(URI, folder.clone, FULL)
    assert world.clones() == []
    decision = world.store.load(folder).decision
    assert decision is not None
    assert decision.verdict is Verdict.ERROR


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], None]]:
    """What happens meanwhile: one of these each time that the watch sleeps."""
    waiting: list[Callable[[], None]] = []
    clock = SimpleNamespace(sleep=lambda _seconds: waiting.pop(0)())
    monkeypatch.setattr(disk_watch, "time", clock)
    return waiting


def nothing() -> None:
    return


def test_a_run_that_lives_is_left_to_its_own_guard(
    world: World, running: RunRecord, turns: list[Callable[[], None]], alive: str
) -> None:
    folder = world.run(running, owner=alive)
    world.start_clone(folder)
    turns += [nothing, nothing, lambda: folder.remove_clone()]
    disk_watch.watch(URI, folder.clone, FULL)
    assert turns == [], "it ends with the clone's folder, and not before"
    assert len(world.clones()) == 2
    assert world.store.load(folder).state == "running"
    remove_run(world.hypervisor, folder)


def test_with_room_nothing_happens(world: World, turns: list[Callable[[], None]]) -> None:
    folder = kept(world)
    turns += [nothing, nothing, lambda: folder.remove_clone()]
    disk_watch.watch(URI, folder.clone, EMPTY)
    assert turns == []
    assert len(world.clones()) == 2
    remove_run(world.hypervisor, folder)


def test_a_hypervisor_that_does_not_answer_is_asked_again(
    world: World, turns: list[Callable[[], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, answering = kept(world), drivers.driver_for
    problems = [HostError("libvirtd restarts")] * 2

    def driver_for(*arguments: object) -> object:
        if problems:
            raise problems.pop()
        return answering(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("sandbox.hosts.drivers.driver_for", driver_for)
    turns += [nothing, nothing]
    disk_watch.watch(URI, folder.clone, FULL)
    assert (world.clones(), problems, turns) == ([], [], [])


# -- the process ------------------------------------------------------------------------------


def test_it_is_there_as_long_as_a_clone_is_kept(stage: Stage) -> None:
    stage.rehearse(keep=True)
    folder = stage.folders[-1]
    (watcher,) = [p for p in folder.processes() if p.role == "disk watch"]
    assert os.readlink(f"/proc/{watcher.pid}/cwd") == "/"
    assert [
        c for c in commands_with(str(folder.clone)) if "sandbox.rehearsal.disk_watch fake:///" in c
    ]
    assert f"disk watch process {watcher.pid}" in remove_run(stage.hypervisor, folder).removed
    assert stage.left() == []


def test_one_that_was_not_noted_down_is_found(stage: Stage) -> None:
    stage.rehearse(keep=True)
    folder = stage.folders[-1]
    (folder.clone / "processes").unlink()
    removed = remove_run(stage.hypervisor, folder).removed
    assert [what for what in removed if what.startswith("python")], removed
    assert stage.left() == []


def test_it_is_small_and_ends_by_itself(tmp_path: Path) -> None:
    """It may be there for weeks."""
    clone = tmp_path / "clone"
    clone.mkdir()
    argv = [sys.executable, "-P", "-m", "sandbox.rehearsal.disk_watch", URI, f"{clone}/", "0"]
    child = subprocess.Popen(argv)
    try:
        for _ in range(200):
            status = Path(f"/proc/{child.pid}/status").read_text()
            if os.readlink(f"/proc/{child.pid}/cwd") == "/":
                break
            time.sleep(0.05)
        (line,) = [row for row in status.splitlines() if row.startswith("VmRSS")]
        assert int(line.split()[1]) < 20_000, line
        clone.rmdir()
        assert child.wait(10) == 0
    finally:
        child.kill()
        child.wait()


# -- what it costs ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "method", "told"),
    [
        ("kept", "backup export", True),
        ("kept", "read-only export", False),
        ("finished", "backup export", False),
    ],
)
def test_the_price_of_keeping_a_clone_of_a_running_guest_is_said(
    tmp_path: Path, state: str, method: str, told: bool
) -> None:
    record = passed()
    assert record.source is not None
    source = record.source.model_copy(update={"method": method})
    values = {"state": state, "source": source, "ssh_command": "ssh x" * (state == "kept")}
    record = record.model_copy(update=values)
    for format in ("text", "markdown", "html"):
        text = " ".join(render(record, tmp_path, format).split())
        assert ("no other backup or rehearsal" in text) is told, format
