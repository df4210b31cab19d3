"""libvirt's Xen driver as far as libvirt's test driver can stand for it: what is looked up, what
is never removed, and a connection that breaks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import libvirt
import pytest

from sandbox.core.deadline import Deadline
from sandbox.core.errors import DeadlineExceeded, HostError, RequestError
from sandbox.core.process import Completed
from sandbox.hosts.drivers import driver_for, libvirt_base, libvirt_xen
from sandbox.hosts.drivers.libvirt_qemu import LibvirtQemu
from sandbox.hosts.drivers.libvirt_xen import LibvirtXen
from sandbox.hosts.transport import LocalHost
from tests.support.waiting import soon
from tests.unit.test_clone_xml import MARK

URI = "test:///default"


def domain_xml(name: str, run: str = "") -> str:
    mark = (
        f"<metadata><s:run xmlns:s='https://upgrade-sandbox.invalid/mark/1' id='{run}'/></metadata>"
    )
    return (
        f"<domain type='test'><name>{name}</name>{mark if run else ''}<memory>8192</memory>"
        "<os><type>hvm</type></os></domain>"
    )


@pytest.fixture
def xen() -> Iterator[LibvirtXen]:
    made = LibvirtXen(URI, libvirt.open(URI), LocalHost())
    before = set(made.guests())
    yield made
    connection = libvirt.open(URI)  # ours may be one that broke
    for domain in connection.listAllDomains(0):
        if domain.name() not in before:
            if domain.isActive():
                domain.destroy()
            else:
                domain.undefine()
    connection.close()
    made.close()


def test_dom0_and_clones_are_no_guests(xen: LibvirtXen) -> None:
    connection = libvirt.open(URI)
    for name, run in (("Domain-0", ""), ("sandbox-x", MARK.run), ("web01", "")):
        connection.createXML(domain_xml(name, run), 0)
    assert xen.guests() == ("test", "web01")
    with pytest.raises(RequestError, match="clone of ours"):
        xen.lookup("sandbox-x")
    with pytest.raises(RequestError, match="no guest 'web1'") as caught:
        xen.lookup("web1")
    assert "did you mean 'web01'?" in caught.value.hint
    connection.close()


def test_a_guest_that_is_off_is_not_running(xen: LibvirtXen) -> None:
    connection = libvirt.open(URI)
    connection.defineXML(domain_xml("web01"))
    found = xen.lookup("web01")
    assert not found.running
    assert not xen.vitals(found).running
    connection.lookupByName("web01").create()
    assert xen.lookup("web01").running
    connection.lookupByName("web01").destroy()
    connection.close()


@pytest.mark.parametrize(
    ("state", "reason", "said"),
    [
        (libvirt.VIR_DOMAIN_RUNNING, 0, "running"),
        (libvirt.VIR_DOMAIN_BLOCKED, 0, "running"),
        (libvirt.VIR_DOMAIN_PAUSED, 0, "paused"),
        (libvirt.VIR_DOMAIN_CRASHED, 0, "crashed"),
        # on_crash=preserve: libxl calls it shut off, and it is there to be looked at.
        (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_CRASHED, "crashed"),
        # A transient domain that is still listed is between its end and its next start.
        (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_SHUTDOWN, "restarting"),
        (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_DESTROYED, "restarting"),
    ],
)
def test_states_as_libxl_means_them(xen: LibvirtXen, state: int, reason: int, said: str) -> None:
    assert xen._state_of(state, reason) == said
    assert xen.state("no such domain") == "off"


def test_only_our_own_domain_is_destroyed(xen: LibvirtXen) -> None:
    connection = libvirt.open(URI)
    connection.createXML(domain_xml("sandbox-x"), 0)
    for name in ("sandbox-x", "test"):
        with pytest.raises(HostError, match="does not carry the mark"):
            xen.destroy(name, MARK.run)
    connection.lookupByName("sandbox-x").destroy()
    connection.createXML(domain_xml("sandbox-x", MARK.run), 0)
    with pytest.raises(HostError, match="does not carry the mark"):
        xen.destroy("sandbox-x", "another run")
    assert xen.destroy("sandbox-x", MARK.run) is True
    assert xen.destroy("sandbox-x", MARK.run) is False
    connection.close()


@dataclass
class Tool(LocalHost):
    """A host whose `xl` is written down."""

    ran: list[tuple[str, ...]] = field(default_factory=list)

    def run(self, argv: Any, deadline: Deadline, **_: Any) -> Completed:
        self.ran.append(tuple(argv))
        return Completed(tuple(argv), 0, "", "")


def test_what_libvirt_cannot_end_is_ended_by_xl_if_it_is_ours(
    xen: LibvirtXen, monkeypatch: pytest.MonkeyPatch
) -> None:
    xen.host = tool = Tool()
    connection = libvirt.open(URI)
    connection.createXML(domain_xml("sandbox-x", MARK.run), 0)
    monkeypatch.setattr(libvirt.virDomain, "destroy", refuse("libxl did not destroy it"))
    assert xen.destroy("sandbox-x", MARK.run) is True
    assert tool.ran == [("xl", "destroy", "sandbox-x")]
    with pytest.raises(HostError):
        xen.destroy("test", MARK.run)
    assert len(tool.ran) == 1
    monkeypatch.undo()
    connection.close()


def refuse(words: str, times: int = 99) -> Callable[..., Any]:
    """A method of libvirt's that fails this many times."""
    left = [times]

    def call(*_: Any) -> Any:
        if left[0] == 0:
            return None
        left[0] -= 1
        raise libvirt.libvirtError(words)

    return call


@pytest.mark.parametrize(
    ("words", "failures", "starts"),
    [
        ("libxenlight failed to create new domain 'x'", 2, True),
        ("libxenlight failed to create new domain 'x'", 3, False),
        ("XML error: no memory element", 1, False),
    ],
)
def test_a_busy_hosts_refusal_is_tried_again_and_no_other(
    xen: LibvirtXen, monkeypatch: pytest.MonkeyPatch, words: str, failures: int, starts: bool
) -> None:
    monkeypatch.setattr(libvirt_xen, "_START_PAUSE", 0.0)
    monkeypatch.setattr(libvirt.virConnect, "createXML", refuse(words, failures))
    if starts:
        xen.start(domain_xml("x"), soon())
        return
    with pytest.raises(HostError, match="cannot be started") as caught:
        xen.start(domain_xml("x"), soon())
    assert words in caught.value.message
    # libxl gives no reason: what is free is the first question then.
    assert ("needs 8 MiB of memory, Xen has" in caught.value.message) == ("libxenlight" in words)


# -- connections ------------------------------------------------------------------------------


def test_a_connection_that_broke_is_opened_again(xen: LibvirtXen) -> None:
    assert "test" in xen.guests()
    xen._last_connection.close()  # as when libvirtd was restarted
    assert "test" in xen.guests()
    assert xen.lookup("test").running
    xen.close()
    xen.close()


def test_a_libvirt_that_does_not_come_back_is_the_hosts_fault(
    xen: LibvirtXen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libvirt_base, "_RECONNECT_SECONDS", 2.5)
    xen._last_connection.close()
    attempts = []

    def fail(uri: str) -> None:
        attempts.append(uri)
        raise libvirt.libvirtError("Connection refused")

    with monkeypatch.context() as patch:
        patch.setattr(libvirt, "open", fail)
        with pytest.raises(HostError, match="cannot connect to libvirt at test:///default"):
            xen.guests()
    assert len(attempts) > 1, "a daemon that restarts takes a moment"
    assert "test" in xen.guests()


def test_a_libvirt_that_hangs_costs_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libvirt, "open", lambda _uri: time.sleep(30))
    with pytest.raises(DeadlineExceeded, match="connecting to xen:///system"):
        LibvirtXen.connect("xen:///system", Deadline(0.3, "connecting"))


def test_drivers_are_chosen_by_the_uris_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libvirt, "open", lambda _uri: object())
    assert isinstance(driver_for("xen:///system", soon()), LibvirtXen)
    assert isinstance(driver_for("qemu:///system", soon()), LibvirtQemu)
    for uri in ("qemu+ssh://root@host/system", "esx://host/", "lxc:///", "nonsense"):
        with pytest.raises(RequestError, match="no driver") as caught:
            driver_for(uri, soon())
        assert "xen+ssh://root@HOST/system" in caught.value.hint
    with pytest.raises(RequestError, match="not supported"):
        driver_for("qemu://host/system", soon())
