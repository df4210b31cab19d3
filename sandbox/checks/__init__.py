"""The checks: what a scenario demands of its guest, before and after the upgrade.

`sandbox.checks.runner` starts them in a process of their own (`worker`), where `plugin` gives them
their fixtures and reports every result at once (`protocol`). What the shared checks decide is
in `compare`, as pure functions over observations.
"""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, StrictInt, StrictStr

from sandbox.core.records import Record

PORT_PATTERN = re.compile(r"(?:(?P<protocol>tcp|udp)/)?(?P<port>[0-9]{1,5})")


def _http_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{value!r} is not a URL like http://localhost/health")
    if not value.isascii() or not value.isprintable() or " " in value:
        raise ValueError(f"{value!r} holds characters that a URL must not have")
    if parts.port == 0:
        raise ValueError(f"{value!r} names port 0")
    return value


def _regular_expression(value: str) -> str:
    try:
        re.compile(value)
    except re.error as problem:
        raise ValueError(f"{value!r} is not a regular expression: {problem}") from problem
    return value


def _port(value: str) -> str:
    match = PORT_PATTERN.fullmatch(value)
    if match is None or not 0 < int(match["port"]) < 65536:
        raise ValueError(f"{value!r} is not a port like 8080 or udp/5353")
    return value


class CheckSettings(Record):
    """What a scenario may say about the shared checks."""

    http: tuple[Annotated[str, AfterValidator(_http_url)], ...] = Field(
        default=(), description="URLs that must answer, as seen from inside the guest"
    )
    filesystems_max_percent: int = Field(
        default=95, ge=1, le=100, description="fullest that a filesystem may be, space and inodes"
    )
    ignore_units: tuple[str, ...] = Field(
        default=(), description="units that may fail or stop, as shell patterns: apt-daily*.service"
    )
    ignore_ports: tuple[
        Annotated[StrictStr | StrictInt, AfterValidator(lambda port: _port(str(port)))], ...
    ] = Field(default=(), description="ports that may close: 8080, udp/5353")
    ignore_kernel_log: tuple[Annotated[str, AfterValidator(_regular_expression)], ...] = Field(
        default=(), description="regular expressions of kernel messages that do not matter"
    )
    sudo: bool = Field(default=False, description="run the commands of the checks through sudo")
    restarts_at_first: dict[str, int] | None = Field(
        default=None,
        description="of a guest that was watched: how often systemd had started a service again "
        "when that began",
    )
    settle_seconds: float = Field(
        default=30.0, ge=0, description="how long the shared checks wait for something to come up"
    )
