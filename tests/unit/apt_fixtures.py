"""Fixtures of the apt tests: a guest's package world, updates for it, and a rehearsal in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from apt_world import AptWorld, Rehearsal


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
    world.install(
        world.build("web", "1.0", conffiles={"/etc/web.conf": "old\n"}),
        world.build("lib", "1.0"),
        world.build("pinned", "1.0"),
    )
    (world.root / "etc/web.conf").write_text("mine\n")
    world.hold("pinned")
    world.offer(
        world.main,
        world.build("web", "2.0", conffiles={"/etc/web.conf": "new\n"}),
        world.build("pinned", "2.0"),
    )
    world.offer(
        world.security,
        world.build("lib", "1.1", depends="newdep"),
        world.build("newdep", "1"),
    )
