"""Stand-ins for services that a guest needs elsewhere, so that its own services start.

They run on this machine in a network of their own whose one card is plugged into the clone's
bridge, at the Ethernet address that :mod:`sandbox.listener` names for everybody who is not there:
whatever address the guest asks for, it comes there. Nothing leads from there to the host.
"""

from __future__ import annotations

import ipaddress
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sandbox.deadline import Deadline
from sandbox.errors import HostError
from sandbox.process import run, start, tail
from sandbox.records import Dependency
from sandbox.store import RunFolder, start_time

SERVER = "sandbox.standin_server"  # the module that runs as a process beside a clone
_NAMES = ipaddress.IPv4Network("198.51.100.0/24")  # what names resolve to: nobody's, RFC 5737
_SECONDS = 30.0


def start_servers(
    dependencies: Sequence[Dependency], bridge: str, folder: RunFolder, deadline: Deadline
) -> None:
    """Returns when they answer; they end with the run. Raises :class:`HostError`."""
    if not dependencies:
        return
    addresses = _addresses(dependencies)
    services = [(one.kind, addresses[one.host], one.port) for one in dependencies]
    # -P: a folder of the user's that happens to be called sandbox is not imported.
    argv = ["unshare", "--net", "--", sys.executable, "-P", "-m", SERVER, f"{folder.clone}/"]
    log = folder.clone / f"standins-{bridge}.log"
    with log.open("wb") as output:
        server = start([*argv, json.dumps(services)], output)
    folder.register(server.pid, "stand-ins")
    limit = deadline.within(_SECONDS)
    # Before it has a network of its own, the card would be one of the host's.
    _wait(server.pid, log, "waiting", limit)
    port = f"{bridge}-s"
    peer = ("peer", "name", "card", "netns", str(server.pid))
    run(["ip", "link", "add", port, "type", "veth", *peer], limit)
    run(["ip", "link", "set", port, "master", bridge, "up"], limit)
    _wait(server.pid, log, "ready", limit)


def known(dependencies: Sequence[Dependency]) -> Mapping[str, Any]:
    """What the listener has to know of them."""
    addresses = _addresses(dependencies)
    return {
        "names": {name: address for name, address in addresses.items() if name != address},
        "open": [(addresses[one.host], one.port) for one in dependencies],
    }


def say(one: Dependency) -> str:
    return f"{one.kind} {one.host}:{one.port}"


def _addresses(dependencies: Sequence[Dependency]) -> dict[str, str]:
    """An address for each host: its own, or one that was made up for the name."""
    hosts = list(dict.fromkeys(one.host for one in dependencies))
    return {
        host: host if host.replace(".", "").isdigit() else str(_NAMES[number])
        for number, host in enumerate(hosts, start=1)
    }


def _wait(server: int, log: Path, word: str, deadline: Deadline) -> None:
    while True:
        said = log.read_text(errors="replace")
        if f"{word}\n" in said:
            return
        if deadline.expired() or not start_time(server):
            raise HostError(
                f"the stand-ins for the scenario's dependencies do not start: {tail(said, 1)}",
                "leave dependencies out of the scenario, or look whether `unshare --net` works",
            )
        deadline.sleep(0.02)
