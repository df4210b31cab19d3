"""The clone's network: its names, its XML, and what its gate lets through in real packets."""

from __future__ import annotations

import ipaddress
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from sandbox.core.errors import CommandFailed, HostError
from sandbox.core.process import run
from sandbox.hosts.drivers import Mark
from sandbox.hosts.drivers.fake import FakeHypervisor
from sandbox.hosts.drivers.marks import read_mark
from sandbox.hosts.transport import LocalHost
from sandbox.network import isolation
from tests.support.fakes.stage import Bridged
from tests.support.machine.namespaces import GUEST, GUEST_LL, HOST, HOST_LL, Link, linked
from tests.support.waiting import soon

SCHEMA = etree.RelaxNG(etree.parse("/usr/share/libvirt/schemas/network.rng"))
RUN = "20260102-030405-abcdef"
MARK = Mark(RUN, "1:2:3", 1800000000)


# -- names and XML ----------------------------------------------------------------------------


def test_the_names_are_derived_from_the_run() -> None:
    assert isolation.names(RUN) == isolation.Network(f"sandbox-{RUN}", "sbabcdef", "sandbox_abcdef")


@given(st.from_regex(r"\A[0-9]{8}-[0-9]{6}-[0-9a-f]{6}\Z"))
def test_the_names_fit_the_kernel_and_nftables(run_id: str) -> None:
    names = isolation.names(run_id)
    assert len(names.bridge) <= 12, "room for a port's number"
    assert re.fullmatch(r"[a-z_][a-z0-9_]*", names.table)
    assert run_id in names.name


@given(st.integers(0, 511))
def test_every_subnet_is_isolated_and_of_the_benchmark_range(subnet: int) -> None:
    text = isolation.network_xml(isolation.names(RUN), MARK, subnet)
    root = etree.fromstring(text)
    assert SCHEMA.validate(root), SCHEMA.error_log.last_error
    assert root.find("./forward") is None, "that would be an uplink"
    assert root.find("./dns[@enable='no']") is not None
    assert len(root.findall("./ip")) == 1, "an IPv6 address would make the host a router"
    assert read_mark(text) == MARK
    ip, dhcp = root.find("./ip"), root.find("./ip/dhcp/range")
    assert ip is not None
    assert dhcp is not None
    own = ipaddress.ip_interface(f"{ip.get('address')}/{ip.get('netmask')}").network
    assert own.subnet_of(ipaddress.ip_network("198.18.0.0/15"))  # type: ignore[arg-type]
    assert all(ipaddress.ip_address(str(dhcp.get(end))) in own for end in ("start", "end"))
    # The router that it names is not the host, nor anybody else who is there.
    options = [str(one.get("value")) for one in root.findall("{*}options/{*}option")]
    assert [one.partition(",")[0] for one in options] == [
        "dhcp-option=option:router",
        "dhcp-option=option:dns-server",
    ]
    (router,) = {ipaddress.ip_address(one.partition(",")[2]) for one in options}
    assert router in own
    assert ip.get("address") != str(router)
    assert router < ipaddress.ip_address(str(dhcp.get("start")))


def test_no_two_subnets_overlap() -> None:
    texts = {isolation.network_xml(isolation.names(RUN), MARK, n) for n in range(512)}
    found = {re.findall(r'address="([^"]+)"', text)[0] for text in texts}
    assert len(found) == 512


# -- making and removing ----------------------------------------------------------------------


def test_a_taken_subnet_is_not_fought_for() -> None:
    hypervisor = FakeHypervisor()
    taken = [HostError("address already in use")] * 3
    hypervisor.fail("create_network", *taken)
    isolation._create_bridge(hypervisor, isolation.names(RUN), MARK)
    assert list(hypervisor.networks) == [f"sandbox-{RUN}"]


def test_subnets_are_tried_only_so_often_and_other_problems_never() -> None:
    hypervisor = FakeHypervisor()
    hypervisor.fail("create_network", *[HostError("in use")] * 99)
    with pytest.raises(HostError, match="in use"):
        isolation._create_bridge(hypervisor, isolation.names(RUN), MARK)
    assert len(hypervisor._failures["create_network"]) == 99 - 8
    other = FakeHypervisor()
    other.fail("create_network", HostError("no dnsmasq"), HostError("not asked again"))
    with pytest.raises(HostError, match="no dnsmasq"):
        isolation._create_bridge(other, isolation.names(RUN), MARK)


def test_two_runs_whose_subnets_clash_get_different_ones() -> None:
    hypervisor = FakeHypervisor()
    for run_id in ("a-000001", "a-000002"):
        # The same mark, so the same first subnet.
        isolation._create_bridge(hypervisor, isolation.names(run_id), MARK)
    first, second = (re.findall(r'ip address="([^"]+)"', x) for x in hypervisor.networks.values())
    assert first != second


@pytest.fixture
def run_id() -> Iterator[str]:
    made = f"sbtest-{secrets.token_hex(3)}"
    yield made
    names = isolation.names(made)
    isolation.remove_gate(LocalHost(), names)
    run(["ip", "link", "del", names.bridge], soon(), check=False)


def tables() -> str:
    return run(["nft", "list", "tables"], soon()).stdout


def test_a_bridge_is_closed_off_before_it_is_handed_out(run_id: str) -> None:
    hypervisor = Bridged()
    made = isolation.create(hypervisor, run_id, Mark(run_id, "o", 1), 22, soon())
    assert f"netdev {made.table}" in tables()
    assert f"bridge {made.table}" in tables()
    ipv6 = Path(f"/proc/sys/net/ipv6/conf/{made.bridge}/disable_ipv6")
    assert ipv6.read_text().strip() == "0"
    assert not list(Path(f"/sys/class/net/{made.bridge}/brif").iterdir()), "it has an uplink"
    removed = isolation.remove(hypervisor, run_id)
    assert removed == (f"network {made.name}", f"gate {made.table}")
    assert made.table not in tables()
    assert isolation.remove(hypervisor, run_id) == ()


def test_a_half_made_network_is_removed_whole(run_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hypervisor = Bridged()
    monkeypatch.setattr(isolation, "gate_rules", lambda *_: "nonsense\n")
    with pytest.raises(CommandFailed) as caught:
        isolation.create(hypervisor, run_id, Mark(run_id, "o", 1), 22, soon())
    assert "nftables" in caught.value.hint
    assert isolation.remove(hypervisor, run_id) == (f"network sandbox-{run_id}",)
    assert not Path(f"/sys/class/net/{isolation.names(run_id).bridge}").exists()


def test_the_gate_of_another_run_stays(run_id: str) -> None:
    hypervisor = Bridged()
    made = isolation.create(hypervisor, run_id, Mark(run_id, "o", 1), 22, soon())
    isolation.remove(hypervisor, run_id[:-1] + ("0" if run_id[-1] != "0" else "1"))
    assert made.table in tables()
    isolation.remove(hypervisor, run_id)


def test_a_gate_goes_although_its_network_is_gone(run_id: str) -> None:
    hypervisor = Bridged()
    made = isolation.create(hypervisor, run_id, Mark(run_id, "o", 1), 22, soon())
    hypervisor.destroy_network(made.name, run_id)
    isolation.remove(hypervisor, run_id)
    assert made.table not in tables()


# -- the gate, with packets -------------------------------------------------------------------


@pytest.fixture(scope="module")
def link() -> Iterator[Link]:
    with linked() as made:
        yield made


BANNER = "SSH-2.0-test"


def test_without_its_gate_the_guest_would_reach_the_host() -> None:
    """Else the tests below prove nothing."""
    with linked() as open_link, open_link.listening(open_link.host, HOST, 80):
        assert open_link.from_guest(HOST, 80) == BANNER


@pytest.mark.parametrize(("host", "guest"), [(HOST, GUEST), (HOST_LL, GUEST_LL)])
def test_the_host_reaches_the_guests_ssh_and_nothing_else(
    link: Link, host: str, guest: str
) -> None:
    link.close_gate()
    anywhere = "::" if ":" in guest else "0.0.0.0"
    with link.listening(link.guest, anywhere, 22), link.listening(link.guest, anywhere, 80):
        assert link.from_host(guest, 22) == BANNER
        assert link.from_host(guest, 80).startswith("failed")
    assert host


@pytest.mark.parametrize("address", [HOST, HOST_LL])
@pytest.mark.parametrize("own_port", [0, 22])
@pytest.mark.parametrize("port", [22, 53, 80, 16509])
def test_the_guest_reaches_no_service_of_the_host(
    link: Link, address: str, own_port: int, port: int
) -> None:
    link.close_gate()
    anywhere = "::" if ":" in address else "0.0.0.0"
    with link.listening(link.host, anywhere, port):
        assert link.from_guest(address, port, own_port).startswith("failed")


@pytest.mark.parametrize("address", [HOST, HOST_LL])
@pytest.mark.parametrize(
    ("own_port", "port", "heard"),
    [(5000, 53, False), (123, 123, False), (68, 69, False), (67, 67, False), (68, 67, True)],
)
def test_no_datagram_but_a_request_for_an_address(
    link: Link, address: str, own_port: int, port: int, heard: bool
) -> None:
    link.close_gate()
    assert link.datagram(address, port, own_port) is (heard and address == HOST)


def test_another_ssh_port_opens_that_one_only(link: Link) -> None:
    link.run(link.host, "nft", "flush", "ruleset")
    link.close_gate(2222)
    with link.listening(link.guest, "0.0.0.0", 2222), link.listening(link.guest, "0.0.0.0", 22):
        assert link.from_host(GUEST, 2222) == BANNER
        assert link.from_host(GUEST, 22).startswith("failed")
    link.run(link.host, "nft", "flush", "ruleset")
