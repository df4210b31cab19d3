"""The mask that makes libvirt's test driver speak for Xen: it hides what libxl lacks, only that."""

from __future__ import annotations

from collections.abc import Iterator

import libvirt
import pytest

from tests.support.hosts.labs import TEST_URI
from tests.support.hosts.masked import CONNECTION_LACKS, DOMAIN_LACKS, Masked


@pytest.fixture
def connection() -> Iterator[Masked]:
    real = libvirt.open(TEST_URI)
    yield Masked(real)
    real.close()


@pytest.mark.parametrize("verb", DOMAIN_LACKS)
def test_a_domain_refuses_what_libxl_lacks(connection: Masked, verb: str) -> None:
    for domain in (connection.lookupByName("test"), *connection.listAllDomains(0)):
        with pytest.raises(libvirt.libvirtError, match="not supported") as caught:
            getattr(domain, verb)()
        assert caught.value.get_error_code() == libvirt.VIR_ERR_NO_SUPPORT
    assert hasattr(libvirt.virDomain, verb), "there is no such verb: the mask hides nothing"


@pytest.mark.parametrize("verb", CONNECTION_LACKS)
def test_a_connection_refuses_what_libxl_lacks(connection: Masked, verb: str) -> None:
    with pytest.raises(libvirt.libvirtError, match="not supported"):
        getattr(connection, verb)()
    assert hasattr(libvirt.virConnect, verb)


def test_a_clone_cannot_be_bound_to_a_connection(connection: Masked) -> None:
    with pytest.raises(libvirt.libvirtError, match="not supported"):
        connection.createXML("<domain/>", libvirt.VIR_DOMAIN_START_AUTODESTROY)


def test_all_else_is_the_drivers_own(connection: Masked) -> None:
    domain = connection.lookupByName("test")
    assert domain.name() == "test"
    assert "<name>test</name>" in domain.XMLDesc(0)
    assert domain.name() in [one.name() for one in connection.listAllDomains(0)]
    domain.suspend()
    domain.resume()
    assert [network.name() for network in connection.listAllNetworks(0)] == ["default"]
