"""From a request for a rehearsal to what the queue keeps of it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from sandbox.errors import RequestError
from sandbox.hosts import find_host
from sandbox.request import Request
from sandbox.scenario import Scenario
from workers.ledger.values import Order
from workers.settings import ServiceSettings


def order_of(scenario: Scenario, request: Request, settings: ServiceSettings) -> Order:
    """What a worker has to know of a request."""
    source = scenario.source
    assert source is not None, "prepare() sees to it"
    image = source.image
    if image is not None and image.disks:
        raise RequestError("images with several disks cannot be queued", "use `sandbox run`")
    stated = request.host or source.host
    return Order(
        scenario=str(scenario.path) if "/" in request.scenario else request.scenario,
        guest=source.guest or str(image.path if image else ""),
        host=find_host(stated, settings.sandbox).name,
        image_format=image.format if image else "",
        upgrade=request.upgrade or "",
        user=request.user or "",
        key=str(request.key.absolute()) if request.key else "",
        most_attempts=settings.attempts,
        content=digest(scenario.path),
    )


def digest(folder: Path) -> str:
    """Of a scenario's files: a changed one is another wish."""
    place = folder if folder.is_dir() else folder.parent
    total = hashlib.sha256()
    for path in sorted(place.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            total.update(f"{path.relative_to(place)}\0".encode())
            total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:16]
