"""Reports, and what else the attempts of a run left. It may hold the guest's secrets."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import quote

from fastapi import APIRouter, Depends, Path, Response, Security
from fastapi.responses import StreamingResponse

from workers.artifacts import fetch, reports
from workers.queue import reading
from workers.web.api.access import BEARER, ApiService, needing, service_of
from workers.web.api.models import Artifact, ArtifactsOfAttempt, RunId
from workers.web.api.problems import ProblemResponse
from workers.web.auth.tokens import Scope

TYPES = {
    "text": "text/plain; charset=utf-8",
    "json": "application/json",
    "junit": "application/xml",
    "markdown": "text/markdown; charset=utf-8",
    "html": "text/html; charset=utf-8",
}
# The page brings its style and pictures with it, and nothing else.
PAGE = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'; sandbox"
)
_BYTES = "application/octet-stream"
readers = APIRouter(
    route_class=needing(Scope.READ), dependencies=[Security(BEARER)], tags=["reports"]
)
Shared = Annotated[ApiService, Depends(service_of)]
Format = Literal["text", "json", "junit", "markdown", "html"]


@readers.get(
    "/runs/{run_id}/report/{format}",
    response_class=Response,
    responses={
        200: {
            "description": "The report",
            "content": {kind.partition(";")[0]: {} for kind in TYPES.values()},
        }
    },
)
def get_report(service: Shared, run_id: RunId, format: Format) -> Response:
    """The report of the run's last attempt."""
    reading.get(service.database, run_id)
    text = reports.report(service.database, service.settings, run_id, format)
    headers = {"Content-Security-Policy": PAGE} if format == "html" else {}
    return Response(text, media_type=TYPES[format], headers=headers)


@readers.get("/runs/{run_id}/artifacts")
def list_artifacts(service: Shared, run_id: RunId) -> list[ArtifactsOfAttempt]:
    """What each attempt left, oldest first; none that has begun, nothing left."""
    reading.get(service.database, run_id)
    return [_left(run_id, one) for one in fetch.left(service.database, service.settings, run_id)]


def _left(run_id: str, one: fetch.AttemptArtifacts) -> ArtifactsOfAttempt:
    start = f"/v1/runs/{run_id}/artifacts/{one.attempt}/"
    files = [
        Artifact(attempt=one.attempt, name=f.name, bytes=f.size, url=start + quote(f.name))
        for f in one.files
    ]
    return ArtifactsOfAttempt.model_validate(
        {"attempt": one.attempt, "record": one.record, "state": one.state, "files": files}
    )


@readers.get(
    "/runs/{run_id}/artifacts/{attempt}/{name:path}",
    response_class=StreamingResponse,
    responses={200: {"description": "The file", "content": {_BYTES: {}}}},
)
def get_artifact(
    service: Shared,
    run_id: RunId,
    attempt: Annotated[int, Path(ge=1, lt=1 << 31)],
    name: Annotated[str, Path(max_length=1000)],
) -> Response:
    """One file, named as the list names it."""
    return fetched(service, run_id, attempt, name)


def fetched(service: ApiService, run_id: str, attempt: int, name: str) -> Response:
    """A file of an attempt, to be saved: never shown as what it says it is."""
    reading.get(service.database, run_id)
    left = fetch.left(service.database, service.settings, run_id)
    of_attempt = [one for one in left if one.attempt == attempt and one.place is not None]
    if not of_attempt:
        raise ProblemResponse(
            404, f"attempt {attempt} left nothing here", "the list says what there is"
        )
    place = of_attempt[0].place
    assert place is not None
    return StreamingResponse(
        place.stream(of_attempt[0].record, name),
        media_type=_BYTES,
        headers={"Content-Disposition": "attachment"},
    )
