"""The clone's own network: one bridge with no uplink, and a gate on what it may say to the host.

The hypervisor makes the bridge and its DHCP server; the gate is an nftables chain at the
bridge's ingress, where everything that the host's own network stack could ever see of the
clone has to pass. It lets through answers to our SSH connection, neighbour discovery and DHCP
requests, and nothing else: no forwarding, no service of the host, no metadata address.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from lxml import etree

from sandbox.deadline import Deadline
from sandbox.errors import HostError
from sandbox.hypervisors import Hypervisor, Mark
from sandbox.hypervisors.marks import mark_element
from sandbox.process import run

# RFC 2544's benchmark range: routed nowhere, so it collides with no production network.
_POOL = (198, 18)
_SUBNETS = 512
_TRIES = 8


@dataclass(frozen=True)
class Network:
    """A run's network. ``bridge`` is the interface's name on the host (15 bytes at most)."""

    name: str
    bridge: str
    table: str


def names(run_id: str) -> Network:
    """The names that belong to a run: derived, never probed for."""
    token = run_id.rpartition("-")[2]
    return Network(f"sandbox-{run_id}", f"sb{token}", f"sandbox_{token}")


def network_xml(network: Network, mark: Mark, subnet: int) -> str:
    """An isolated network: DHCP without a router or DNS, so a guest that waits for it boots."""
    first, second = _POOL[0], _POOL[1] + subnet // 256
    base = f"{first}.{second}.{subnet % 256}"
    root = etree.Element("network")
    etree.SubElement(root, "name").text = network.name
    etree.SubElement(root, "metadata").append(mark_element(mark))
    etree.SubElement(root, "bridge", name=network.bridge, stp="off", delay="0")
    etree.SubElement(root, "dns", enable="no")
    ip = etree.SubElement(root, "ip", address=f"{base}.1", netmask="255.255.255.0")
    dhcp = etree.SubElement(ip, "dhcp")
    etree.SubElement(dhcp, "range", start=f"{base}.10", end=f"{base}.250")
    etree.indent(root)
    return etree.tostring(root).decode()


def gate_rules(network: Network, ssh_port: int) -> str:
    """The nftables ruleset of a run's gate; pure, so that a test can read it."""
    rules = (
        "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, echo-reply } accept",
        # Answers only: the clone can never open a connection to the host.
        f"ip6 saddr fe80::/10 ip6 daddr fe80::/10 tcp sport {ssh_port} "
        "tcp flags & (syn | ack) != syn accept",
        f"ip daddr 198.18.0.0/15 tcp sport {ssh_port} tcp flags & (syn | ack) != syn accept",
        "arp daddr ip 198.18.0.0/15 accept",
        "udp sport 68 udp dport 67 accept",
    )
    lines = [
        f"table netdev {network.table} {{",
        "  chain gate {",
        f'    type filter hook ingress device "{network.bridge}" priority -500; policy drop;',
        *(f"    {rule}" for rule in rules),
        "    counter",
        "  }",
        "}",
    ]
    return "\n".join(lines) + "\n"


def create(
    hypervisor: Hypervisor, run_id: str, mark: Mark, ssh_port: int, deadline: Deadline
) -> Network:
    """Make the run's bridge and close it off; :func:`remove` undoes it, also when half made."""
    network = names(run_id)
    _create_bridge(hypervisor, network, mark)
    run(
        ["nft", "-f", "-"],
        deadline,
        input=gate_rules(network, ssh_port).encode(),
        hint="the clone's bridge cannot be closed off without nftables (netdev ingress)",
    )
    # libvirt turns IPv6 off on a bridge without an IPv6 <ip>; with one it would announce
    # itself as a router. Link-local is all that we need, and a guest sees no difference.
    run(["sysctl", "-qw", f"net.ipv6.conf.{network.bridge}.disable_ipv6=0"], deadline)
    return network


def _create_bridge(hypervisor: Hypervisor, network: Network, mark: Mark) -> None:
    """Take the run's own subnet; where another run has it, the next one of a fixed sequence."""
    start = int.from_bytes(hashlib.sha256(mark.run.encode()).digest()[:2], "big") % _SUBNETS
    for attempt in range(_TRIES):
        try:
            hypervisor.create_network(network_xml(network, mark, (start + attempt) % _SUBNETS))
            return
        except HostError as problem:
            if "in use" not in problem.message or attempt == _TRIES - 1:
                raise


def remove(hypervisor: Hypervisor, run_id: str) -> tuple[str, ...]:
    """Remove a run's gate and bridge; names what was there. Idempotent."""
    network = names(run_id)
    removed = []
    if hypervisor.destroy_network(network.name, run_id):
        removed.append(f"network {network.name}")
    deadline = Deadline(20, "removing the gate")
    tables = run(["nft", "list", "tables", "netdev"], deadline, check=False).stdout
    if network.table in tables.split():
        run(["nft", "delete", "table", "netdev", network.table], deadline)
        removed.append(f"gate {network.table}")
    return tuple(removed)
