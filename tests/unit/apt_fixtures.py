"""Fixtures of the apt tests: a guest's package world, updates for it, and a rehearsal in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from apt_world import AptWorld, Rehearsal, offer_updates


@pytest.fixture
def world(tmp_path: Path) -> Iterator[AptWorld]:
    made = AptWorld(tmp_path)
    yield made
    made.close()


@pytest.fixture
def rehearsal(world: AptWorld, tmp_path: Path) -> Rehearsal:
    return Rehearsal(world, tmp_path)


@pytest.fixture
def updates(world: AptWorld) -> None:
    """web and tools have updates, lib a security update that needs something new."""
    offer_updates(world)
