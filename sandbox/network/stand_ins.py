"""Stand-ins for services that a guest needs elsewhere, so that its own services start.

They run on the bridge's host (:mod:`sandbox.network.stand_in_server`) in a network of their own
whose one card is plugged into the clone's bridge, at the Ethernet address that
:mod:`sandbox.network.egress_listener` names for everybody who is not there: whatever address the
guest asks for, it comes there. Nothing leads from there to the host. They end with the bridge.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping, Sequence
from typing import Any

from sandbox.core.deadline import Deadline
from sandbox.core.errors import HostError
from sandbox.core.process import tail
from sandbox.core.records import Dependency
from sandbox.core.store import RunFolder
from sandbox.hosts.transport import Host, by_text
from sandbox.network.egress_listener import SINK

SERVER = "sandbox-standins"  # on its command line, before the bridge and the clone's folder
_NAMES = ipaddress.IPv4Network("198.51.100.0/24")  # what names resolve to; unassigned (RFC 5737)
_SECONDS = 120.0


def start_servers(
    host: Host,
    dependencies: Sequence[Dependency],
    bridge: str,
    folder: RunFolder,
    deadline: Deadline,
) -> None:
    """Returns when they answer. Raises :class:`HostError`."""
    if not dependencies:
        return
    addresses = _addresses(dependencies)
    services = [(one.kind, addresses[one.host], one.port) for one in dependencies]
    order = json.dumps({"mac": SINK.hex(":"), "services": services})
    argv = [
        *by_text(host, "sandbox.network.stand_in_server"),
        SERVER,
        bridge,
        f"{folder.clone}/",
        order,
    ]
    done = host.run(argv, deadline.within(_SECONDS), check=False)
    if not done.ok:
        said = tail(f"{done.stdout}\n{done.stderr}", 1) or "no reason"
        raise HostError(
            f"the stand-ins for the scenario's dependencies do not start: {said}",
            f"leave dependencies out of the scenario, or see whether {host.name} has python3 and "
            "lets root make network namespaces (unshare --net true)",
        )


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
