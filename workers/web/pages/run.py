"""A run: the answer first, then what it rests on; while it runs, where it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response

from sandbox.core.errors import SandboxError
from sandbox.report.html import ICONS, parts
from sandbox.report.view import ANSWERS, View, view
from sandbox.report.view import sentence as sentence_of
from sandbox.verdict.flakiness import flaky, kept_name
from workers.artifacts import fetch, reports
from workers.database.states import ENDED, RunState
from workers.gate.fleet import evidence
from workers.queue import reading
from workers.queue.check_histories import sentence
from workers.queue.history import history
from workers.queue.values import RunRow
from workers.web.api import events, files
from workers.web.api.access import ApiService, service_of
from workers.web.api.models import RunId
from workers.web.auth.tokens import Scope
from workers.web.pages.guards import page, visit_of
from workers.web.pages.phases import steps
from workers.web.pages.rendering import show

EVENTS = 60  # that are shown
_STEPS = ("state", "phase", "phase-end")
_MOST_STEPS = 200
MOST_REMEMBERED = 200
readers = APIRouter(route_class=page(Scope.READ))
Shared = Annotated[ApiService, Depends(service_of)]


@readers.get("/runs/{run_id}")
def show_run(request: Request, service: Shared, run_id: RunId) -> Response:
    run = reading.get(service.database, run_id)  # before its events: the last one is there then
    told = reading.last_events(service.database, run_id, EVENTS)
    marks = reading.last_events(service.database, run_id, _MOST_STEPS, _STEPS)
    found = fetch.left(service.database, service.settings, run_id)
    answer, rest = _answer(run)
    values = {
        "run": run,
        "answer": answer,
        "rest": rest,
        "look": run.verdict.value if run.verdict else "open",
        "icon": ICONS.get(run.verdict.value, "…") if run.verdict else "…",
        "is_open": run.state not in ENDED,
        "may_cancel": run.state in (RunState.QUEUED, RunState.RUNNING),
        "events": told,
        "last": told[-1].id if told else 0,
        "steps": steps(marks),
        "left": found,
        "kept": evidence(service.database, run_id) if run.verdict else {},
        "missing": "",
    }
    return show(request, "run.html", {**values, **_parts(service, run, found)})


def _answer(run: RunRow) -> tuple[str, str]:
    """(the answer; the rest of the page's first line)."""
    if run.verdict is not None:
        answer = ANSWERS[run.verdict]
        told = sentence_of(run.verdict, run.guest, run.reason)
        return answer, told.removeprefix(answer).lstrip(", ")
    match run.state:
        case RunState.CANCELLED:
            return "NO ANSWER", "the rehearsal was cancelled."
        case RunState.CANCELLING:
            return "NO ANSWER", "the rehearsal is being cancelled; its clone is removed."
        case RunState.QUEUED:
            why = f": {run.waiting}" if run.waiting else ""
            return "NO ANSWER YET", f"the rehearsal is queued{why}."
    return "NO ANSWER YET", f"the rehearsal is running (phase {run.phase or 'plan'})."


def _parts(
    service: ApiService, run: RunRow, found: Sequence[fetch.AttemptArtifacts]
) -> Mapping[str, Any]:
    """What the last record tells; ``missing`` says why there is none to be shown."""
    if run.state not in ENDED:
        return {"shown": None}
    try:
        last = reports.last_record(service.database, service.settings, found, run.id)
        with reports.opened(service.settings, last, _is_shown) as (record, folder):
            shown = view(record, folder)
            return {**parts(shown, folder), "memory": _memory(service, run, shown)}
    except SandboxError as problem:
        return {"shown": None, "missing": f"{problem.message}: {problem.hint}"}


def _memory(service: ApiService, run: RunRow, shown: View) -> Mapping[str, str]:
    """What is known by now of the checks that failed or are flaky, by their names."""
    unsteady = {*(one.name for one in shown.attention), *flaky(shown.record.facts)}
    names = {kept_name(one.name): one.name for one in shown.checks if one.name in unsteady}
    wanted = [*names][:MOST_REMEMBERED]
    found = history(service.database, run.guest, host=run.host, names=wanted, with_runs=False)
    return {
        names[one.name]: sentence(one) for one in found.items if one.scenario in ("", run.scenario)
    }


def _is_shown(name: str) -> bool:
    """Pictures and the console; the rest stays where it is."""
    return PurePosixPath(name).suffix.lower() == ".png" or PurePosixPath(name).name == "console.log"


@readers.get("/runs/{run_id}/stream")
def stream_run(
    request: Request,
    service: Shared,
    run_id: RunId,
    after: Annotated[int, Query(ge=0, lt=1 << 62)] = 0,
    last_event_id: Annotated[str | None, Header(pattern=r"^[0-9]{1,18}(-end)?$")] = None,
) -> Response:
    """What happens after what the page shows."""
    token = visit_of(request).token
    return events.watch(service, token, run_id, last_event_id or str(after))


@readers.get("/runs/{run_id}/report/{format}")
def show_report(service: Shared, run_id: RunId, format: files.Format) -> Response:
    """The stored report, by itself: its own policy lets it do nothing, not even follow a link."""
    return files.get_report(service, run_id, format)


@readers.get("/runs/{run_id}/artifacts/{attempt}/{name:path}")
def get_artifact(
    service: Shared,
    run_id: RunId,
    attempt: Annotated[int, Path(ge=1, lt=1 << 31)],
    name: Annotated[str, Path(max_length=1000)],
) -> Response:
    return files.fetched(service, run_id, attempt, name)
