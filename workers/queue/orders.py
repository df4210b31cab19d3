"""From a request for a rehearsal to what the queue keeps of it."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

from sandbox.core.errors import RequestError
from sandbox.hosts.inventory import find_host
from sandbox.scenario import Scenario
from sandbox.scenario.request import Request
from workers.queue.values import Order
from workers.settings import ServiceSettings


def order_of(
    scenario: Scenario,
    request: Request,
    settings: ServiceSettings,
    *,
    hosts: Collection[str] = (),
    content: str = "",
) -> Order:
    """What a worker has to know of a request.

    ``hosts``, names of the inventory, and ``content``, the scenario's digest, are for those who
    ask for many: else each time files are read.
    """
    source = scenario.source
    assert source is not None, "prepare() sees to it"
    image = source.image
    if image is not None and image.disks:
        raise RequestError("images with several disks cannot be queued", "use `sandbox run`")
    stated = request.host or source.host
    host = stated if stated and stated in hosts else find_host(stated, settings.sandbox).name
    return Order(
        scenario=str(scenario.path) if "/" in request.scenario else request.scenario,
        guest=source.guest or str(image.path if image else ""),
        host=host,
        image_format=image.format if image else "",
        upgrade=request.upgrade or "",
        user=request.user or "",
        key=str(request.key.absolute()) if request.key else "",
        most_attempts=settings.attempts,
        content=content or digest(scenario),
    )


def digest(scenario: Scenario) -> str:
    """Of a scenario's files and the shared checks that it uses: a changed one is another wish.

    Equal wherever the same files are, so that a worker can tell whether it has them.
    """
    place = scenario.path if scenario.path.is_dir() else scenario.path.parent
    own = [path for path in sorted(place.rglob("*")) if "__pycache__" not in path.parts]
    named = [(str(path.relative_to(place)), path) for path in own if path.is_file()]
    named += [(f"shared/{path.name}", path) for path in sorted(scenario.shared_checks)]
    total = hashlib.sha256()
    for name, path in named:
        total.update(f"{name}\0".encode())
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:16]
