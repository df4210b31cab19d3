"""Fixtures of the apt tests: a guest's package world, updates for it, and a rehearsal in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fakes.apt_world import AptWorld, Rehearsal, offer_updates


@pytest.fixture
def debian(tmp_path: Path) -> Iterator[AptWorld]:
    made = AptWorld(tmp_path)
    yield made
    made.close()


@pytest.fixture
def rehearsal(debian: AptWorld, tmp_path: Path) -> Rehearsal:
    return Rehearsal(debian, tmp_path)


@pytest.fixture
def updates(debian: AptWorld) -> None:
    """web and tools have updates, lib a security update that needs something new."""
    offer_updates(debian)
