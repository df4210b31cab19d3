"""The first checks of a new scenario: Python text from what was seen running. Pure."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterator, Sequence

from sandbox.checks.compare import ignored, is_lasting, plain_address
from sandbox.core.clean_text import one_line
from sandbox.core.noise import TRANSIENT_UNITS
from sandbox.core.records import Observation, Port

# Parts of the system itself: the shared checks watch them, a scenario's own need not.
_SYSTEM_UNITS = (
    *("systemd-*.service", "*getty*.service", "dbus*.service", "polkit*.service"),
    *("user@*.service", "init.service", "udev.service", "networking.service"),
    *TRANSIENT_UNITS,
)
_UNIT_NAME = re.compile(r"[A-Za-z0-9:_.@\\-]{1,255}\.service")
# Where clones get their addresses from by DHCP: another one in each run.
_CLONES = ipaddress.ip_network("198.18.0.0/15")
_MOST = 40  # of each kind; what a person still reads

_HEAD = """\
import pytest
from testinfra.host import Host
"""
_SERVICES = """
SERVICES = (
{lines}
)


@pytest.mark.parametrize("name", SERVICES)
def test_service_runs(host: Host, name: str) -> None:
    assert host.service(name).is_running, f"{{name}} is not active"
"""
_SOCKETS = """
SOCKETS = (
{lines}
)


@pytest.mark.parametrize("socket", SOCKETS)
def test_socket_listens(host: Host, socket: str) -> None:
    assert host.socket(socket).is_listening, f"nothing listens on {{socket}}"
"""
_UNSEEN = """\
from testinfra.host import Host


def test_user_exists(host: Host) -> None:
    assert host.user({user}).exists, "the login's user is gone"


# Say what this guest is for, for example:
#
# def test_nginx_runs(host: Host) -> None:
#     assert host.service("nginx").is_running
#
#
# def test_web_listens(host: Host) -> None:
#     assert host.socket("tcp://0.0.0.0:80").is_listening
"""


def checks_text(subject: str, user: str, seen: Observation | None) -> str:
    """A module of checks that held when ``seen`` was measured; without it, a first example."""
    services = own_services(seen) if seen else ()
    sockets = own_sockets(seen.ports) if seen else ()
    title = one_line(subject, 60).replace("\\", "/").replace('"', "'")
    text = f'"""What must hold in {title}, before its upgrade and after it."""\n\n'
    if not services and not sockets:
        return text + _UNSEEN.format(user=json.dumps(user))
    text += _HEAD
    if services:
        text += _SERVICES.format(lines=_lines(services))
    if sockets:
        text += ("\n" if services else "") + _SOCKETS.format(lines=_lines(sockets))
    return text


def own_services(seen: Observation) -> tuple[str, ...]:
    """Running services that are the guest's purpose, without their suffix."""
    running = (unit for unit, state in seen.units.items() if state == "active/running")
    own = (u for u in running if _UNIT_NAME.fullmatch(u) and not ignored(u, _SYSTEM_UNITS))
    return tuple(sorted(unit.removesuffix(".service") for unit in own))[:_MOST]


def own_sockets(ports: Sequence[Port]) -> tuple[str, ...]:
    """Listening sockets in testinfra's words that every clone of the guest has: by port."""
    return tuple(dict.fromkeys(_specs(ports)))[:_MOST]


def _specs(ports: Sequence[Port]) -> Iterator[str]:
    for port in sorted(ports, key=lambda p: (p.port, p.protocol, p.address)):
        if port.protocol not in ("tcp", "udp") or not is_lasting(port):
            continue
        try:
            address = ipaddress.ip_address(plain_address(port.address))
        except ValueError:
            continue
        if not address.is_link_local and not (address.version == 4 and address in _CLONES):
            yield f"{port.protocol}://{address}:{port.port}"


def _lines(words: Sequence[str]) -> str:
    return "\n".join(f"    {json.dumps(word)}," for word in words)
