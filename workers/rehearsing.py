"""The real executor: a rehearsal on a real host, as `sandbox run` does it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sandbox import closing
from sandbox.foreground import write_html
from sandbox.hosts import KnownHost, connected, find_host
from sandbox.hypervisors.acceleration import acceleration
from sandbox.pipeline import rehearse
from sandbox.reaper import reap
from sandbox.records import CheckResult, Phase, PhaseTime, RunRecord
from sandbox.records import Outcome as CheckOutcome
from sandbox.request import Request, prepare
from sandbox.store import Store
from workers.executors import NotNow, Teller
from workers.ledger.values import Claim, Outcome
from workers.retention import require_room
from workers.settings import ServiceSettings


class RehearsalExecutor:
    """Implements :class:`workers.executors.Executor`."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._service = settings
        self._settings = settings.sandbox

    def run(self, claim: Claim, tell: Teller, folder: Callable[[str], None]) -> Outcome:
        settings = self._settings
        require_room(self._service)
        scenario = prepare(request_of(claim.request), settings)
        host = find_host(claim.host, settings)
        with connected(host) as hypervisor:
            if claim.attempt > 1:
                self._reap(host)  # what the attempt before left keeps the guest busy
            place = Store(settings).create(hypervisor.uri)
            folder(place.id)
            record = rehearse(
                scenario,
                hypervisor,
                place,
                settings,
                _Told(tell),
                accelerated=acceleration() == "kvm",
                limits=host.limits,
            )
        write_html(record, place.artifacts)
        trouble = record.facts.trouble
        if trouble is not None and trouble.no_room:
            raise NotNow(trouble.message, trouble.hint)
        assert record.decision is not None
        return Outcome(record.decision.verdict, record.decision.reason, evidence_of(record))

    def reap(self, host: str) -> tuple[str, ...]:
        return self._reap(find_host(host, self._settings))

    def _reap(self, host: KnownHost) -> tuple[str, ...]:
        store = Store(self._settings)
        with connected(host) as hypervisor:
            reaped = reap(hypervisor, store)
        closing.close_killed(store, reaped)
        return tuple(thing for done in reaped for thing in done.removed)


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
        "seconds": {done.phase.value: done.seconds for done in record.phases},
    }


class _Told:
    """Implements :class:`sandbox.progress.Progress`: tells whoever watches the run."""

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
