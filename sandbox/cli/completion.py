"""What completes a word on the command line. Silent on trouble: it is a shell that asks."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable

from click.shell_completion import CompletionItem

from sandbox.core.deadline import Deadline
from sandbox.core.errors import SandboxError
from sandbox.core.settings import read_settings
from sandbox.core.store import Store
from sandbox.hosts import drivers
from sandbox.hosts.inventory import find_host, inventory
from sandbox.scenario.request import scenario_names

SECONDS = 2.0  # what a person waits for a list of guests


def run_ids(begun: str) -> list[str]:
    """Runs, newest first."""
    with contextlib.suppress(SandboxError, OSError):
        newest_first = Store(read_settings()).ids()[::-1]
        return _fitting(begun, ("latest", *newest_first) if newest_first else ())
    return []


def scenarios(begun: str) -> list[str] | list[CompletionItem]:
    """Scenarios by name; else the shell's own folders."""
    with contextlib.suppress(SandboxError, OSError):
        found = _fitting(begun, scenario_names(read_settings()))
        if found:
            return found
    return [CompletionItem(begun, type="dir")]


def hosts(begun: str) -> list[str]:
    """The hosts of the inventory."""
    with contextlib.suppress(SandboxError, OSError):
        return _fitting(begun, (host.name for host in inventory(read_settings())))
    return []


def guests(begun: str, host: str | None) -> list[str]:
    """The guests of a host, where it answers soon: libvirt's calls know no time-out."""
    found: list[str] = []

    def ask() -> None:
        with contextlib.suppress(SandboxError, OSError):
            uri = find_host(host, read_settings()).uri
            hypervisor = drivers.driver_for(uri, Deadline(SECONDS, "connecting"))
            found.extend(hypervisor.guests())

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(SECONDS)
    return _fitting(begun, tuple(found))


def _fitting(begun: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(begun)]
