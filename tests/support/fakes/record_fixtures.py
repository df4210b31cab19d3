"""A record in the making, and the owner of a run."""

from __future__ import annotations

import time

import pytest

from sandbox.core.records import Phase, RunRecord
from sandbox.core.store import this_process
from tests.support.fakes.sample_records import passed


@pytest.fixture
def running() -> RunRecord:
    """A record as it stands in the middle of an upgrade."""
    whole = passed()
    values = {"state": "running", "decision": None, "finished": 0.0, "phases": whole.phases[:4]}
    values |= {"phase": Phase.UPGRADE}
    facts = whole.facts.model_copy(
        update={"upgrade": None, "reboot": None, "after": None, "checks_after": None}
    )
    return whole.model_copy(update={**values, "facts": facts, "started": time.time() - 90})


@pytest.fixture
def alive() -> str:
    """The mark of an owner that runs: this process."""
    return this_process()
