"""A stage for rehearsals: a state folder, a stopped guest, nothing of it left afterwards."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.clone.reaper import remove_run
from sandbox.core.settings import Settings
from tests.support.fakes.stage import Stage, add_guest


@pytest.fixture
def stage() -> Iterator[Stage]:
    with tempfile.TemporaryDirectory(prefix="sbtest-", dir="/tmp") as state:
        Path(state).chmod(0o711)
        made = Stage(Settings(Path(state), Path(state) / "cache", control="never", watch=0.0))
        add_guest(made)
        try:
            yield made
        finally:
            for folder in made.folders:
                remove_run(made.hypervisor, folder)
