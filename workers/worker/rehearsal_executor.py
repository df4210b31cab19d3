"""The real executor: a rehearsal on a real host, as `sandbox run` does it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sandbox.clone.reaper import reap
from sandbox.core.errors import HostError, RequestError
from sandbox.core.records import CheckResult, Phase, PhaseTime, RunRecord
from sandbox.core.records import Outcome as CheckOutcome
from sandbox.core.store import RunFolder, Store
from sandbox.hosts.drivers.acceleration import acceleration
from sandbox.hosts.inventory import KnownHost, connected, find_host
from sandbox.rehearsal import recovery
from sandbox.rehearsal.recipe import rehearse
from sandbox.scenario import Scenario
from sandbox.scenario.request import Request, prepare
from workers.artifacts.retention import require_room
from workers.queue.check_results import tallies
from workers.queue.orders import digest
from workers.queue.values import Claim, NotNow, Outcome
from workers.settings import ServiceSettings
from workers.worker.executor import Teller


class RehearsalExecutor:
    """Implements :class:`workers.worker.executor.Executor`."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._service = settings
        self._settings = settings.sandbox
        self.left = False

    def run(self, claim: Claim, tell: Teller, folder: Callable[[str], None]) -> Outcome:
        settings = self._settings
        require_room(self._service)
        scenario = prepare(request_of(claim.request), settings)
        _must_be_the_same(scenario, claim.request)
        host = find_host(claim.host, settings)
        with connected(host) as hypervisor:
            if claim.attempt > 1:
                with contextlib.suppress(HostError):  # of our own host we hear in a moment
                    self._reap(host)  # what the attempt before left keeps the guest busy
            place = Store(settings).create(hypervisor.uri)
            folder(place.id)
            try:
                record = rehearse(
                    scenario,
                    hypervisor,
                    place,
                    settings,
                    _TellingProgress(tell),
                    accelerated=acceleration() == "kvm",
                    limits=host.limits,
                    past=claim.past,
                )
            finally:
                self.left = disown(place)
        recovery.write_page(place, record)
        trouble = record.facts.trouble
        if trouble is not None and trouble.no_room:
            if not self.left:
                shutil.rmtree(place.artifacts, ignore_errors=True)  # one for each look at the host
            raise NotNow(trouble.message, trouble.hint)
        return outcome_of(record)

    def reap(self, host: str) -> tuple[str, ...]:
        return self._reap(find_host(host, self._settings))

    def _reap(self, host: KnownHost) -> tuple[str, ...]:
        store = Store(self._settings)
        with connected(host) as hypervisor:
            reaped = reap(hypervisor, store)
        recovery.close_killed(store, reaped)
        stuck = [problem for done in reaped for problem in done.failed]
        if stuck:
            raise HostError(
                f"not all could be removed: {stuck[0]}", "the next look goes on with it"
            )
        return tuple(thing for done in reaped for thing in done.removed)


def disown(place: RunFolder) -> bool:
    """Release what the clean-up could not remove: a reaper may take it, although the process that
    made it lives on. Returns whether there is any."""
    if not place.clone.exists():
        return False
    with contextlib.suppress(OSError):  # a full disk: it is the process's until that ends
        place.note(owner="")
    return True


def _must_be_the_same(scenario: Scenario, request: Mapping[str, str]) -> None:
    """Two machines, or two days, may have different files by one name: a verdict is of those that
    were asked for, or there is none."""
    asked = request.get("content")
    if asked and asked != digest(scenario):
        raise RequestError(
            f"the scenario {request['scenario']!r} is not the one that was asked for: its files "
            "have changed since then, or this worker has others by that name",
            "give all machines the same scenarios, then submit it again",
        )


def request_of(request: Mapping[str, str]) -> Request:
    """What a run's row says, as the pipeline wants it."""
    image = request.get("image_format")
    return Request(
        scenario=request["scenario"],
        guest=None if image else request["guest"],
        image=Path(request["guest"]) if image else None,
        format=image,
        upgrade=request.get("upgrade"),
        user=request.get("user"),
        key=Path(request["key"]) if "key" in request else None,
        host=None if image else request["host"],
    )


def outcome_of(record: RunRecord) -> Outcome:
    """What the database keeps of a rehearsal that has ended."""
    decision = record.decision
    assert decision is not None
    return Outcome(decision.verdict, decision.reason, evidence_of(record), tallies(record.facts))


def evidence_of(record: RunRecord) -> dict[str, Any]:
    """What a verdict rests on, small enough to keep for ever: no logs, nothing secret."""
    decision, facts, source = record.decision, record.facts, record.source
    assert decision is not None
    changes = facts.upgrade.changes if facts.upgrade else ()
    return {
        "record": record.id,
        "tool_version": record.tool_version,
        "findings": list(decision.findings[:20]),
        "hint": decision.hint,
        "packages": [[change.name, change.old, change.new] for change in changes],
        "kernel": [o.kernel if o else None for o in (facts.before, facts.after)],
        "source": source.model_dump(mode="json", exclude={"disks"}) if source else None,
        "seconds": _seconds(record),
    }


def _seconds(record: RunRecord) -> dict[str, float]:
    """By phase; one that a second start repeats is told as a whole."""
    taken: dict[str, float] = {}
    for done in record.phases:
        taken[done.phase.value] = taken.get(done.phase.value, 0.0) + done.seconds
    return taken


class _TellingProgress:
    """Implements :class:`sandbox.core.progress.Progress`: informs the watchers of the run."""

    def __init__(self, tell: Teller) -> None:
        self._tell = tell

    def run_started(self, run_id: str, guest: str, scenario: str) -> None:
        self._tell("detail", f"record {run_id}")

    def phase_started(self, phase: Phase, deadline: float) -> None:
        self._tell("phase", phase.value)

    def detail(self, text: str, percent: float | None = None) -> None:
        self._tell("detail", text, percent)

    def check(self, result: CheckResult) -> None:
        if result.outcome is not CheckOutcome.PASSED:
            self._tell("check", f"{result.outcome.value}: {result.name}: {result.message}")

    def phase_ended(self, time: PhaseTime) -> None:
        mark = "done" if time.ok else "failed"
        self._tell("phase-end", f"{time.phase.value} {mark} after {time.seconds:.1f} s")
