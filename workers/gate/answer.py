"""May this guest be upgraded? What the newest verdict says; no evidence is never a yes."""

from __future__ import annotations

from dataclasses import dataclass

from sandbox.core.records import Verdict
from workers.database import Database
from workers.queue import reading
from workers.queue.values import RunRow


@dataclass(frozen=True)
class Decision:
    """The answer, and the run that it rests on."""

    allowed: bool
    reason: str
    run: RunRow | None


def decide(
    database: Database,
    scenario: str,
    guest: str,
    host: str,
    *,
    upgrade: str = "",
    max_age: float | None = None,
) -> Decision:
    """``max_age``: seconds after its end for which a verdict counts."""
    run = reading.newest_verdict(database, scenario, guest, host, upgrade)
    if run is None:
        return Decision(False, f"{scenario} of {guest} on {host} has no verdict yet", None)
    age = database.now() - (run.ended or run.submitted)
    if max_age is not None and age > max_age:
        return Decision(False, f"the newest verdict is {age / 3600:.1f} hours old", run)
    return Decision(run.verdict is Verdict.PASS, run.reason, run)
