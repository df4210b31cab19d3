"""The clone's own network: one bridge with no uplink, and a gate on what it may say to the host.

The hypervisor makes the bridge and its DHCP server; the gate is an nftables chain at the
bridge's ingress, where everything that the host's own network stack could ever see of the
clone has to pass. It lets through answers to our SSH connection, neighbour discovery and DHCP
requests, and nothing else: no forwarding, no service of the host, no metadata address.

One kind of frame does not come that way: those to the addresses of IEEE 802.1D (01:80:c2:00:00:0x)
a bridge hands to the host's stack on the port that they came in by, so that a datagram in one
would reach the host's services past the gate. A second chain drops them at the clone's ports;
the one address that no chain sees (LLDP's) the bridge is told to treat like any other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from lxml import etree

from sandbox.core.deadline import Deadline
from sandbox.core.errors import HostError
from sandbox.hosts.drivers import Hypervisor, Mark
from sandbox.hosts.drivers.clone_devices import port_prefix
from sandbox.hosts.drivers.marks import mark_element
from sandbox.hosts.transport import Host

# RFC 2544's benchmark range: routed nowhere, so it collides with no production network.
_POOL = (198, 18)
_SUBNETS = 512
_TRIES = 8
# Who answers there, and what: sandbox.network.egress_listener.
_ROUTER = 2
_DNSMASQ = "http://libvirt.org/schemas/network/dnsmasq/1.0"
# The gate first. libvirt turns IPv6 off on a bridge without an IPv6 <ip>; with one it would
# announce itself as a router. Link-local is all that we need, and a guest sees no difference.
_CLOSE = """nft -f - &&
ip link set "$1" type bridge "$2" "$3" &&
sysctl -qw "net.ipv6.conf.$1.disable_ipv6=0"
"""
_FORWARD_LLDP = ("group_fwd_mask", "0x4000")  # 01:80:c2:00:00:0e


@dataclass(frozen=True)
class Network:
    """A run's network. ``bridge`` is the interface's name on the host (15 bytes at most)."""

    name: str
    bridge: str
    table: str


def names(run_id: str, *, control: bool = False) -> Network:
    """The names that belong to a run: derived, never probed for. The control has a bridge of its
    own: both clones have the same MAC and the same addresses."""
    token = run_id.rpartition("-")[2]
    if control:
        return Network(f"sandbox-{run_id}-control", f"sc{token}", f"sandbox_{token}_control")
    return Network(f"sandbox-{run_id}", f"sb{token}", f"sandbox_{token}")


def network_xml(network: Network, mark: Mark, subnet: int) -> str:
    """An isolated network. DHCP names a router and a name server, as production's does, that are
    not there: a guest without a route would try no connection, and the listener would see none."""
    first, second = _POOL[0], _POOL[1] + subnet // 256
    base = f"{first}.{second}.{subnet % 256}"
    root = etree.Element("network", nsmap={"dnsmasq": _DNSMASQ})
    etree.SubElement(root, "name").text = network.name
    etree.SubElement(root, "metadata").append(mark_element(mark))
    etree.SubElement(root, "bridge", name=network.bridge, stp="off", delay="0")
    etree.SubElement(root, "dns", enable="no")
    ip = etree.SubElement(root, "ip", address=f"{base}.1", netmask="255.255.255.0")
    dhcp = etree.SubElement(ip, "dhcp")
    etree.SubElement(dhcp, "range", start=f"{base}.10", end=f"{base}.250")
    options = etree.SubElement(root, f"{{{_DNSMASQ}}}options")
    for option in ("router", "dns-server"):
        value = f"dhcp-option=option:{option},{base}.{_ROUTER}"
        etree.SubElement(options, f"{{{_DNSMASQ}}}option", value=value)
    etree.indent(root)
    return etree.tostring(root).decode()


def gate_rules(network: Network, ssh_port: int) -> str:
    """The nftables ruleset of a run's gate; pure, so that a test can read it."""
    # Answers only: the clone can never open a connection to the host. And to this link only:
    # nothing passes that a host which is also a router would forward.
    answers = f"tcp sport {ssh_port} tcp flags & (syn | ack) != syn accept"
    rules = (
        "ip6 daddr { fe80::/10, ff02::/16 } "
        "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, echo-reply } accept",
        f"ip6 saddr fe80::/10 ip6 daddr fe80::/10 {answers}",
        f"ip daddr 198.18.0.0/15 {answers}",
        "arp daddr ip 198.18.0.0/15 accept",
        "ip daddr { 198.18.0.0/15, 255.255.255.255 } udp sport 68 udp dport 67 accept",
    )
    lines = [
        f"table netdev {network.table} {{",
        "  chain gate {",
        f'    type filter hook ingress device "{network.bridge}" priority -500; policy drop;',
        *(f"    {rule}" for rule in rules),
        "    counter",
        "  }",
        "}",
        f"table bridge {network.table} {{",
        "  chain ports {",
        "    type filter hook input priority -500; policy accept;",
        f'    iifname "{port_prefix(network.bridge)}*" '
        "ether daddr & ff:ff:ff:ff:ff:f0 == 01:80:c2:00:00:00 drop",
        "  }",
        "}",
    ]
    return "\n".join(lines) + "\n"


def create(
    hypervisor: Hypervisor,
    run_id: str,
    mark: Mark,
    ssh_port: int,
    deadline: Deadline,
    *,
    control: bool = False,
) -> Network:
    """Make a clone's bridge and close it off; :func:`remove` undoes it, also when half made."""
    network = names(run_id, control=control)
    _create_bridge(hypervisor, network, mark)
    hypervisor.host.run(
        ["sh", "-c", _CLOSE, "sh", network.bridge, *_FORWARD_LLDP],
        deadline,
        input=gate_rules(network, ssh_port).encode(),
        hint="the clone's bridge cannot be closed off without nftables (netdev and bridge)",
    )
    return network


def _create_bridge(hypervisor: Hypervisor, network: Network, mark: Mark) -> None:
    """Take the run's own subnet; where another run has it, the next one of a fixed sequence."""
    digest = hashlib.sha256(network.name.encode()).digest()
    start = int.from_bytes(digest[:2], "big") % _SUBNETS
    for attempt in range(_TRIES):
        try:
            hypervisor.create_network(network_xml(network, mark, (start + attempt) % _SUBNETS))
            return
        except HostError as problem:
            if "in use" not in problem.message or attempt == _TRIES - 1:
                raise


def remove(hypervisor: Hypervisor, run_id: str) -> tuple[str, ...]:
    """Remove a run's gates and bridges; names what was there. Idempotent."""
    networks = (names(run_id), names(run_id, control=True))
    removed = [
        f"network {one.name}" for one in networks if hypervisor.destroy_network(one.name, run_id)
    ]
    return (*removed, *(f"gate {table}" for table in _remove_gates(hypervisor.host, networks)))


def remove_control(hypervisor: Hypervisor, run_id: str) -> None:
    """The control's alone. Idempotent."""
    network = names(run_id, control=True)
    hypervisor.destroy_network(network.name, run_id)
    remove_gate(hypervisor.host, network)


def remove_gate(host: Host, network: Network) -> bool:
    """Remove a gate's tables; false when there were none."""
    return bool(_remove_gates(host, (network,)))


def _remove_gates(host: Host, networks: Sequence[Network]) -> tuple[str, ...]:
    """In few round trips: a host may be far away. The names of the tables that there were."""
    deadline = Deadline(20, "removing the gate")
    listed = host.run(["nft", "list", "tables"], deadline, check=False).stdout
    there = [line for line in listed.splitlines() if line.strip()]
    tables = [network.table for network in networks]
    ours = [line for line in there if line.split()[-1] in tables]
    for line in ours:
        host.run(["nft", "delete", *line.split()], deadline)
    return tuple(table for table in tables if any(line.split()[-1] == table for line in ours))
