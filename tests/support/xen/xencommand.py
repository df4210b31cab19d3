"""The `sandbox` command as a process of its own, on the Xen host."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.faults.commands import Command
from tests.support.xen.xenlab import PATIENCE, Xen

Start = Callable[..., Command]


@pytest.fixture
def sandbox(xen: Xen, tmp_path: Path) -> Iterator[Start]:
    """Starts `sandbox ARGUMENTS` with the test's state folder; ends what still runs."""
    environment = {name: value for name, value in os.environ.items() if "SANDBOX" not in name} | {
        "SANDBOX_STATE": str(xen.settings.state),
        "SANDBOX_CONTROL": xen.settings.control,
        "SANDBOX_WATCH": "0",
        "SANDBOX_CACHE": str(xen.settings.cache),
        "SANDBOX_URI": xen.settings.uri,
        "SANDBOX_UPSTREAM_PROXY": xen.settings.upstream_proxy,
        "SANDBOX_PROXY_ALLOW": " ".join(xen.settings.proxy_allow),
    }
    started: list[Command] = []

    def start(*arguments: object, program: tuple[str, ...] = (), **more: str) -> Command:
        output = tmp_path / f"output{len(started)}"
        given = environment | more
        started.append(Command(arguments, given, output, program=program, patience=PATIENCE))
        return started[-1]

    yield start
    for command in started:
        command.end()
