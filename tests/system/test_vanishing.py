"""Guests and networks come and go while they are looked at: that is nobody's error.

On libvirt's test driver, whose errors are libvirt's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest

from sandbox.core.errors import HostError, RequestError
from sandbox.demo import guest as demo
from sandbox.hosts.drivers.libvirt_qemu import LibvirtQemu
from sandbox.hosts.source import ImageSpec, image_source
from sandbox.hosts.transport import LocalHost
from tests.support.guests.small_disks import SIZE, make_image
from tests.support.waiting import soon
from tests.system.test_libvirt_xen import URI, domain_xml

MARKED = "https://upgrade-sandbox.invalid/mark/1"


@pytest.fixture
def driver() -> Iterator[LibvirtQemu]:
    made = LibvirtQemu(URI, libvirt.open(URI), LocalHost())
    yield made
    connection = libvirt.open(URI)
    for domain in connection.listAllDomains(0):
        if domain.name() != "test":
            domain.destroy()
    for network in connection.listAllNetworks(0):
        if network.name() != "default":
            network.destroy()
    connection.close()
    made.close()


Vanish = Callable[[type, str], None]


@pytest.fixture
def vanish(monkeypatch: pytest.MonkeyPatch) -> Vanish:
    """Let what is asked by this method be gone just before it is, but for the driver's own."""

    def at(kind: type, method: str) -> None:
        real = getattr(kind, method)

        def gone_first(self: Any, *arguments: Any) -> Any:
            if self.name() not in ("test", "default") and self.isActive():
                self.destroy()
            return real(self, *arguments)

        monkeypatch.setattr(kind, method, gone_first)

    return at


def start(driver: LibvirtQemu, name: str = "web01", run: str = "") -> None:
    driver._connection.createXML(domain_xml(name, run), 0)


@pytest.mark.parametrize("method", ["state", "XMLDesc"])
def test_a_guest_that_goes_while_it_is_looked_up_is_unknown(
    driver: LibvirtQemu, vanish: Vanish, method: str
) -> None:
    start(driver)
    vanish(libvirt.virDomain, method)
    with pytest.raises(RequestError, match="no guest 'web01'") as caught:
        driver.lookup("web01")
    assert "guests there: test" in caught.value.hint


@pytest.mark.parametrize("method", ["state", "XMLDesc"])
def test_the_rehearsal_of_an_image_does_not_care_for_a_guest_that_goes(
    driver: LibvirtQemu, vanish: Vanish, method: str, tmp_path: Path
) -> None:
    image = make_image(tmp_path / "a.qcow2")
    start(driver)
    listed = driver.guests()
    driver.guests = lambda: listed  # type: ignore[method-assign]
    vanish(libvirt.virDomain, method)
    assert image_source(driver, ImageSpec(((image, "qcow2"),)), soon()).disks[0].size == SIZE


def test_what_goes_while_all_are_listed_is_left_out(driver: LibvirtQemu, vanish: Vanish) -> None:
    """A clone that ends at this moment is no guest, and a guest that ends no trouble."""
    start(driver)
    start(driver, "sandbox-x", "x")
    vanish(libvirt.virDomain, "XMLDesc")
    assert driver.guests() == ("test",)
    start(driver, "sandbox-x", "x")
    assert driver.marked_domains() == ()


def test_a_network_that_goes_while_all_are_listed_is_left_out(
    driver: LibvirtQemu, vanish: Vanish
) -> None:
    driver.create_network(
        f"<network><name>sandbox-x</name><metadata><s:run xmlns:s='{MARKED}' id='x'/></metadata>"
        "</network>"
    )
    assert [name for name, _mark in driver.marked_networks()] == ["sandbox-x"]
    vanish(libvirt.virNetwork, "XMLDesc")
    assert driver.marked_networks() == ()
    assert driver.leases("sandbox-x") == ()
    assert driver.destroy_network("sandbox-x", "x") is False


@pytest.mark.parametrize("ask", ["guests", "marked_domains"])
def test_what_is_there_and_cannot_be_read_is_an_error(
    driver: LibvirtQemu, monkeypatch: pytest.MonkeyPatch, ask: str
) -> None:
    """It may be a clone: a reaper that overlooked it would report that nothing is left."""

    def refuse(*_: Any) -> None:
        raise libvirt.libvirtError("Timed out during operation")

    monkeypatch.setattr(libvirt.virDomain, "XMLDesc", refuse)
    with pytest.raises(HostError, match="Timed out"):
        getattr(driver, ask)()


def test_a_source_that_is_gone_is_a_wrong_request_or_the_hosts_error_never_ours(
    driver: LibvirtQemu, tmp_path: Path
) -> None:
    start(driver)
    source = driver.lookup("web01")
    driver._connection.lookupByName("web01").destroy()
    with pytest.raises(RequestError, match="no guest 'web01'"):
        driver.export_in_use(source)
    with pytest.raises(HostError, match="cannot export the disks"):
        driver.export_running(source, (), tmp_path, soon())
    with pytest.raises(HostError, match="Domain not found"):
        driver.vitals(source)
    assert driver.state("web01") == "off"
    assert driver.destroy("web01", "x") is False
    assert driver.end_export("web01", tmp_path) is False


def test_the_demo_does_not_care_for_other_guests_that_go(
    driver: LibvirtQemu, vanish: Vanish
) -> None:
    start(driver)
    domain = driver._connection.lookupByName("web01")
    vanish(libvirt.virDomain, "XMLDesc")
    assert demo._is_marked(domain) is False
