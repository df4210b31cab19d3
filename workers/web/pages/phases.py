"""Where a run is: the steps of its last attempt, from what its worker said. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sandbox.core.records import Phase
from workers.queue.values import RunEvent


@dataclass(frozen=True)
class Step:
    name: str
    state: str = "waiting"  # then "now", then "done" or "failed"
    note: str = ""  # "after 12.3 s"


def steps(told: Sequence[RunEvent]) -> tuple[Step, ...]:
    """All of the recipe's, in order."""
    found = _none()
    for event in told:
        name, _, rest = event.text.partition(" ")
        if event.kind == "phase" and name in found:
            if name == Phase.PLAN:  # another attempt
                found = _none()
            found = {one: _passed(step) for one, step in found.items()}
            found[name] = Step(name, "now")
        elif event.kind == "phase-end" and name in found:
            word, _, note = rest.partition(" ")
            found[name] = Step(name, "failed" if word == "failed" else "done", note)
        elif event.kind == "state" and name == "queued":
            found = _none()
    return tuple(found.values())


def _none() -> dict[str, Step]:
    return {phase.value: Step(phase.value) for phase in Phase}


def _passed(step: Step) -> Step:
    """A step has ended when the next one begins, even if its end was not reported."""
    return replace(step, state="done") if step.state == "now" else step
