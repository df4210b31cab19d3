"""Kept clones stay, until they are about to stop production: nobody else watches them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sandbox.core.deadline import Deadline
from sandbox.core.errors import HostError
from sandbox.core.store import RunFolder
from sandbox.hosts.volumes.danger import Danger
from sandbox.hosts.volumes.storage import LocalOverlays
from tests.support.fakes.run_world import World
from tests.support.fakes.sample_records import passed

FULL = "the data of the thin pool vg0/thin is 96 % full (limit 95 %)"


def keep(world: World, number: int) -> RunFolder:
    values = {"state": "kept", "ssh_command": "ssh -F x clone"}
    folder = world.run(passed().model_copy(update=values))
    for place in (folder.artifacts, folder.clone):
        place.rename(place.with_name(f"2026010{number}-000000-abcdef"))
    kept = world.store.folder(f"2026010{number}-000000-abcdef")
    kept.save(world.store.load(kept).model_copy(update={"id": kept.id}))
    kept.note(kept="yes")
    world.start_clone(kept)
    return kept


class FullPool:
    """A pool that has room again when few enough clones are in it."""

    def __init__(self, world: World, most: int) -> None:
        self._world = world
        self._most = most

    def danger(self, _storage: LocalOverlays, _folder: RunFolder, _deadline: Deadline) -> Danger:
        there = self._world.store.clone_ids()
        # What only the clone suffers from is no reason to end what somebody keeps.
        broken = "the thick snapshot overflowed"
        return Danger(FULL if len(there) > self._most else "", broken)


def endangers(
    monkeypatch: pytest.MonkeyPatch, danger: Callable[[LocalOverlays, RunFolder, Deadline], Danger]
) -> None:
    def told(storage: LocalOverlays, folder: RunFolder, deadline: Deadline) -> Danger:
        return danger(storage, folder, deadline)

    monkeypatch.setattr(LocalOverlays, "danger", told)


@pytest.mark.parametrize("most", [0, 1, 2])
def test_as_many_kept_clones_go_as_must_the_oldest_first(
    world: World, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    folders = [keep(world, 1), keep(world, 2)]
    endangers(monkeypatch, FullPool(world, most).danger)
    told = world.invoke("reap")
    assert told.exit_code == 0, told.output
    assert [folder.clone.exists() for folder in folders] == [
        number >= 2 - most for number in (0, 1)
    ]
    ended = folders[: 2 - most]
    for folder in ended:
        assert f"{folder.id}: was kept, and ends now so that production can write" in told.stdout
        record = world.store.load(folder)
        assert (record.state, record.ssh_command) == ("finished", "")
        assert record.decision == passed().decision, "what was found is as true as before"
    assert ("killed" in told.stdout) is False
    assert (FULL in told.stdout) == bool(ended)
    assert ("nothing to remove" in told.stdout) == (not ended)
    assert all(world.store.load(folder).state == "kept" for folder in folders[2 - most :])


def test_what_cannot_be_removed_of_a_kept_clone_is_told(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = keep(world, 1)
    folder.note(source="test")  # the test driver cannot end exports
    endangers(monkeypatch, FullPool(world, 0).danger)
    told = world.invoke("reap")
    assert told.exit_code == 4
    assert "not removed: ending the export of 'test'" in told.stderr
    assert world.store.load(folder).left_behind


def test_a_host_that_cannot_be_asked_keeps_its_clones(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = keep(world, 1)

    def lost(*_: object) -> Danger:
        raise HostError("no route")

    endangers(monkeypatch, lost)
    told = world.invoke("reap")
    assert told.exit_code == 4
    assert "no route" in told.stderr
    assert folder.clone.exists()
