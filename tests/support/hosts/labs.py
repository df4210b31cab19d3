"""Labs: one a hypervisor, with the same verbs for what its administrator would do.

The real one needs libvirt to answer; where it does not, the tests fail. Everything on it is named
``sbtest-…`` and is removed in the fixture's teardown, also when a test fails. The domains need no
system: they are never booted, or stop at the firmware's "no bootable device".
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import libvirt
import pytest
from lxml import etree

from sandbox.core.deadline import Deadline
from sandbox.core.process import run
from sandbox.core.settings import Settings
from sandbox.core.store import Store, this_process
from sandbox.hosts.drivers import Hypervisor, Mark
from sandbox.hosts.drivers.fake import FakeHypervisor
from sandbox.hosts.drivers.libvirt_base import LibvirtBase
from sandbox.hosts.drivers.libvirt_qemu import LibvirtQemu
from sandbox.hosts.drivers.libvirt_xen import LibvirtXen
from sandbox.hosts.drivers.marks import mark_element, read_mark
from sandbox.network.isolation import Network, names, network_xml
from tests.support.guests.small_disks import SIZE
from tests.support.hosts.masked import Masked

URI = "qemu:///system"
TEST_URI = "test:///default"
DISK_SIZE = SIZE


class Lab(Protocol):
    """A hypervisor, and the hand of its administrator."""

    folder: Path

    @property
    def hypervisor(self) -> Hypervisor: ...

    def guest(self, *, running: bool, disks: tuple[Path, ...] = ()) -> str:
        """A guest that is not ours; its name. A running one is paused: it needs no CPU."""

    def clone_xml(self, run: ThisRun) -> str:
        """A domain of that run which this hypervisor can start."""

    def foreign_network(self) -> str: ...

    def power_off(self, name: str) -> None: ...

    def pause(self, name: str) -> None: ...

    def restart(self, name: str) -> None:
        """Off and on again, as the same guest."""

    def exists(self, name: str) -> bool: ...

    def network_exists(self, name: str) -> bool: ...


@dataclass
class FakeLab:
    hypervisor: FakeHypervisor
    folder: Path

    def guest(self, *, running: bool, disks: tuple[Path, ...] = ()) -> str:
        name = f"sbtest-guest-{secrets.token_hex(3)}"
        self.hypervisor.define(domain_xml(name, disks), running=running)
        return name

    def clone_xml(self, run: ThisRun) -> str:
        return run.domain_xml()

    def foreign_network(self) -> str:
        name = f"sbtest-net-{secrets.token_hex(3)}"
        self.hypervisor.networks[name] = f"<network><name>{name}</name></network>"
        return name

    def power_off(self, name: str) -> None:
        domain = self.hypervisor.domains[name]
        if not domain.persistent:
            del self.hypervisor.domains[name]
        domain.state = "off"

    def pause(self, name: str) -> None:
        self.hypervisor.domains[name].state = "paused"

    def restart(self, name: str) -> None:
        xml = self.hypervisor.domains.pop(name).xml
        self.hypervisor.define(xml, running=True)

    def exists(self, name: str) -> bool:
        return name in self.hypervisor.domains

    def network_exists(self, name: str) -> bool:
        return name in self.hypervisor.networks


@dataclass
class LibvirtLab:
    hypervisor: LibvirtBase
    folder: Path
    connection: Any
    type: str = "qemu"  # of its domains
    made: list[str] = field(default_factory=list)
    made_networks: list[str] = field(default_factory=list)

    def guest(self, *, running: bool, disks: tuple[Path, ...] = ()) -> str:
        name = f"sbtest-guest-{secrets.token_hex(3)}"
        self.made.append(name)
        domain = self.connection.defineXML(domain_xml(name, disks, type=self.type))
        if running:
            self._start(domain)
        return name

    def _start(self, domain: Any) -> None:
        """Paused: it needs no CPU."""
        if self.type != "test":
            domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
            return
        domain.create()  # the test driver knows no flags
        domain.suspend()

    def clone_xml(self, run: ThisRun) -> str:
        return domain_xml(run.domain, (), run.mark, self.type)

    def foreign_network(self) -> str:
        name = f"sbtest-net-{secrets.token_hex(3)}"
        self.made_networks.append(name)
        bridge = f"sb{secrets.token_hex(3)}"
        self.connection.networkCreateXML(
            f"<network><name>{name}</name><bridge name='{bridge}'/></network>"
        )
        return name

    def power_off(self, name: str) -> None:
        self.connection.lookupByName(name).destroy()

    def pause(self, name: str) -> None:
        self.connection.lookupByName(name).suspend()

    def restart(self, name: str) -> None:
        domain = self.connection.lookupByName(name)
        domain.destroy()
        self._start(domain)

    def exists(self, name: str) -> bool:
        return name in {domain.name() for domain in self.connection.listAllDomains(0)}

    def network_exists(self, name: str) -> bool:
        return name in {network.name() for network in self.connection.listAllNetworks(0)}

    def remove_everything(self) -> None:
        """Domains and networks of this test only: by the names that it made, or our own mark."""
        for domain in self.connection.listAllDomains(0):
            if domain.name() in self.made or _is_ours(domain):
                with contextlib.suppress(libvirt.libvirtError):  # it is not running
                    domain.destroy()
                with contextlib.suppress(libvirt.libvirtError):  # it was gone with that
                    domain.undefine()
        for network in self.connection.listAllNetworks(0):
            if network.name() in self.made_networks or _is_ours(network):
                with contextlib.suppress(libvirt.libvirtError):  # gone since it was listed
                    network.destroy()


def _is_ours(thing: Any) -> bool:
    """Whether it carries the mark of this very process, which runs one test at a time."""
    with contextlib.suppress(libvirt.libvirtError):  # gone since it was listed
        mark = read_mark(thing.XMLDesc(0))
        return mark is not None and mark.owner == this_process()
    return False


def domain_xml(
    name: str, disks: tuple[Path, ...] = (), mark: Mark | None = None, type: str = "qemu"
) -> str:
    """A machine of 32 MiB with nothing to boot."""
    root = etree.Element("domain", type=type)
    etree.SubElement(root, "name").text = name
    etree.SubElement(root, "uuid").text = str(uuid.uuid4())
    if mark is not None:
        etree.SubElement(root, "metadata").append(mark_element(mark))
    etree.SubElement(root, "memory", unit="MiB").text = "32"
    etree.SubElement(root, "vcpu").text = "1"
    os = etree.SubElement(root, "os")
    etree.SubElement(os, "type", arch="x86_64", machine="pc").text = "hvm"
    devices = etree.SubElement(root, "devices")
    for number, path in enumerate(disks):
        disk = etree.SubElement(devices, "disk", type="file", device="disk")
        format = "raw" if path.suffix == ".raw" else "qcow2"
        etree.SubElement(disk, "driver", name="qemu", type=format)
        etree.SubElement(disk, "source", file=str(path))
        etree.SubElement(disk, "target", dev=f"hd{chr(ord('a') + number)}", bus="ide")
    etree.SubElement(etree.SubElement(devices, "video"), "model", type="vga")
    return etree.tostring(root).decode()


@dataclass(frozen=True)
class ThisRun:
    """A run of the sandbox's, as far as a hypervisor sees it."""

    id: str
    mark: Mark
    network: Network
    subnet: int

    @property
    def domain(self) -> str:
        return f"sandbox-{self.id}"

    def domain_xml(self, disks: tuple[Path, ...] = ()) -> str:
        return domain_xml(self.domain, disks, self.mark)

    def network_xml(self, subnet: int | None = None) -> str:
        return network_xml(self.network, self.mark, self.subnet if subnet is None else subnet)


def new_run() -> ThisRun:
    mark = Mark(f"sbtest-{secrets.token_hex(3)}", this_process(), int(time.time()) + 600)
    return ThisRun(mark.run, mark, names(mark.run), _free_subnet())


def _free_subnet() -> int:
    """One that no bridge of this host has: real runs come and go meanwhile."""
    taken = run(["ip", "-4", "-o", "addr"], Deadline(20, "ip")).stdout
    while True:
        subnet = secrets.randbelow(512)
        if f" 198.{18 + subnet // 256}.{subnet % 256}.1/" not in taken:
            return subnet


@pytest.fixture
def deadline() -> Deadline:
    return Deadline(60, "contract test")


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short enough for sockets, and open for QEMU's own user as the clones' folders are."""
    made = Path(tempfile.mkdtemp(prefix="sbtest-", dir="/var/tmp"))
    made.chmod(0o711)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def this_run() -> ThisRun:
    return new_run()


@pytest.fixture
def store(folder: Path) -> Store:
    return Store(Settings(state=folder))


@contextlib.contextmanager
def _libvirt_lab(folder: Path) -> Iterator[LibvirtLab]:
    hypervisor = LibvirtQemu.connect(URI, Deadline(20, "connecting"))
    connection = libvirt.open(URI)
    lab = LibvirtLab(hypervisor, folder, connection)
    try:
        yield lab
    finally:
        lab.remove_everything()
        connection.close()
        hypervisor.close()


@pytest.fixture
def libvirt_lab(folder: Path) -> Iterator[LibvirtLab]:
    with _libvirt_lab(folder) as lab:
        yield lab


@pytest.fixture(params=["fake", "qemu", "test-driver"])
def lab(request: pytest.FixtureRequest, folder: Path) -> Iterator[Lab]:
    """Every implementation of Hypervisor: add a line here for a new one.

    ``test-driver`` is the driver for Xen on libvirt's own test driver, masked to what libxl has;
    a real Xen host runs the same tests in tests/xen.
    """
    with _lab(request.param, folder) as made:
        yield made


@pytest.fixture(params=["fake", "qemu"])
def qemu_lab(request: pytest.FixtureRequest, folder: Path) -> Iterator[Lab]:
    """For what only QEMU has: backup exports, screens; and real addresses of networks."""
    with _lab(request.param, folder) as made:
        yield made


@contextlib.contextmanager
def _lab(kind: str, folder: Path) -> Iterator[Lab]:
    if kind == "fake":
        yield FakeLab(FakeHypervisor(), folder)
    elif kind == "qemu":
        with _libvirt_lab(folder) as real:
            yield real
    else:
        connection = libvirt.open(TEST_URI)
        # The hand of the administrator may do what the driver cannot.
        driver = LibvirtXen(TEST_URI, Masked(connection))
        tested = LibvirtLab(driver, folder, connection, "test")
        try:
            yield tested
        finally:
            tested.remove_everything()
            connection.close()
