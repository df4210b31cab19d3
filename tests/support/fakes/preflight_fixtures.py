"""The guest of the preflight's tests."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fakes.apt_world import AptWorld


@pytest.fixture
def open_world() -> Iterator[AptWorld]:
    """A guest's package world that nobody may read, since apt runs as nobody."""
    folder = Path(tempfile.mkdtemp(prefix="sbpreflight-", dir="/tmp"))
    folder.chmod(0o755)
    made = AptWorld(folder)
    yield made
    made.close()
    shutil.rmtree(folder)
