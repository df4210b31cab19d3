"""What people ask for: a rehearsal, the same once more, its end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import ValidationError

from sandbox.core.errors import HostError, SandboxError
from workers.queue import intake, overview, submission
from workers.web.api.access import ApiService, service_of
from workers.web.api.models import RunId, Submission
from workers.web.api.runs import origin_of, queue, say
from workers.web.auth.tokens import Scope
from workers.web.pages.guards import form_of, page, visit_of
from workers.web.pages.rendering import show

FIELDS = ("scenario", "guest", "host", "upgrade", "user", "key", "priority")
submitters = APIRouter(route_class=page(Scope.SUBMIT))
Shared = Annotated[ApiService, Depends(service_of)]


@submitters.get("/rehearse")
def show_form(request: Request, service: Shared) -> Response:
    given = request.query_params
    return _form(request, service, {name: given.get(name, "")[:255] for name in FIELDS})


@submitters.post("/rehearse")
def submit(request: Request, service: Shared) -> Response:
    """As the API takes it: what is wrong is said beside what was given."""
    form = form_of(request)
    given = {name: form.get(name, "").strip() for name in FIELDS}
    said: dict[str, Any] = {name: text for name, text in given.items() if text}
    try:
        asked = Submission(**said, fresh=form.get("fresh") == "yes")
        told = queue(service, asked, _origin(request))
    except ValidationError as problem:
        wrong = {str(one["loc"][0]): one["msg"] for one in problem.errors() if one["loc"]}
        return _form(request, service, given, wrong=wrong)
    except HostError:
        raise
    except SandboxError as problem:
        return _form(request, service, given, problem=f"{problem.message}: {problem.hint}")
    return RedirectResponse(f"/runs/{told.run_id}", 303)


@submitters.post("/runs/{run_id}/cancel")
def cancel(request: Request, service: Shared, run_id: RunId) -> Response:
    submission.cancel(service.database, run_id, _origin(request))
    return RedirectResponse(f"/runs/{run_id}", 303)


@submitters.post("/runs/{run_id}/retry")
def retry(service: Shared, run_id: RunId) -> Response:
    told = intake.retry(service.database, service.settings, run_id, say)
    return RedirectResponse(f"/runs/{told.run_id}", 303)


def _form(
    request: Request,
    service: ApiService,
    given: Mapping[str, str],
    *,
    wrong: Mapping[str, str] | None = None,
    problem: str = "",
) -> Response:
    values = {
        "given": given,
        "fresh": request.method == "POST" and form_of(request).get("fresh") == "yes",
        "wrong": wrong or {},
        "problem": problem,
        "scenarios": list(overview.scenarios(service.settings)),
        "hosts": [one.name for one in overview.hosts(service.database, service.settings)],
        "lends_keys": bool(service.settings.api_keys),
    }
    return show(request, "rehearse.html", values, 422 if wrong or problem else 200)


def _origin(request: Request) -> str:
    return origin_of(visit_of(request).token, "web")
