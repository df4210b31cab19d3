"""web01 as a running production: a persistent libvirt domain on a network of its own.

Nothing here is used on a rehearsal's clone; this only gives the demo and the tests a
production to rehearse. Everything made here carries the demo's mark in its libvirt metadata, and
only what carries it is ever reused or removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import socket
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sandbox.core.deadline import Deadline
from sandbox.core.errors import GuestUnreachable, HostError, RequestError
from sandbox.core.process import run
from sandbox.hosts.drivers.acceleration import acceleration

if TYPE_CHECKING:
    from sandbox.demo.image import DemoImage

URI = "qemu:///system"
NETWORK = "sandbox-demo"
BRIDGE = "demobr0"
FOLDER = Path("/var/lib/upgrade-sandbox/demo")
MARK = "urn:upgrade-sandbox:demo"
BOOT_SECONDS = 300  # 20 s to sshd under TCG on 2 idle cores; the rest is for busy hosts
# Emulated: what x86-64-v2 asks for and no more. Measured for a boot of web01 and a rebuild of
# its initramfs on one processor, in CPU seconds of QEMU 7.2: 24 + 44, against 31 + 46 with
# everything that QEMU can emulate ("maximum"), whose wide registers cost more than they give.
EMULATED_FEATURES = ("cx16", "popcnt", "sse4.1", "sse4.2", "ssse3")
# QEMU's cache of translated code is sized by the host's memory (gigabytes), and a reboot writes
# over the code of the kernel before: every write then searches its page's translations. From
# reset to the new kernel's first line that took 9 to 190 CPU seconds; with a small cache 5 to 7,
# and nothing else gets slower (with 32 MiB it does: boots take 40 instead of 24).
TRANSLATION_CACHE_MIB = 128
_TRIES = 3


@dataclass(frozen=True)
class Production:
    """A running production guest and how to enter it."""

    name: str
    address: str  # "fe80::…%demobr0", as ssh and getaddrinfo take it
    mac: str
    key: Path

    def ssh(self, *command: str) -> list[str]:
        """The argument list that enters the guest as root, or runs ``command`` in it."""
        return [
            *("ssh", "-i", str(self.key), "-o", "BatchMode=yes", "-o", "LogLevel=ERROR"),
            # A throwaway guest of our own on a bridge of our own: there is no one to impersonate.
            *("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"),
            *("-o", "ConnectTimeout=10", f"root@{self.address}", *command),
        ]


def start_production(
    name: str = "web01",
    *,
    image: DemoImage,
    memory_mib: int = 512,
    cpus: int = 1,
    extra_disk_bytes: int = 0,
    folder: Path = FOLDER,
) -> Production:
    """Define and start ``name`` on an overlay of ``image`` and wait until its sshd answers.

    A production of that name which already exists is started if need be and reused as it is.
    A second processor makes an emulated guest slower rather than faster: its threads wait for
    each other (59 CPU seconds for the initramfs instead of 44).
    ``extra_disk_bytes`` above 0 adds an empty sparse disk ``vdb``. Raises
    :class:`RequestError` when the name belongs to a guest that is not the demo's,
    :class:`HostError` when libvirt refuses, :class:`GuestUnreachable` when it does not boot.
    """
    mac = mac_address(name)
    production = Production(name, f"{link_local(mac)}%{BRIDGE}", mac, image.key)
    deadline = Deadline(BOOT_SECONDS, f"starting {name}")
    with _connection() as libvirt_connection:
        _ensure_network(libvirt_connection)
        domain = _own_domain(libvirt_connection, name)
        if domain is None:
            disks = _make_disks(folder / name, image.path, extra_disk_bytes, deadline)
            domain = libvirt_connection.defineXML(
                domain_xml(
                    name,
                    disks=disks,
                    base=image.path,
                    mac=mac,
                    kind="kvm" if acceleration() == "kvm" else "qemu",
                    memory_mib=memory_mib,
                    cpus=cpus,
                )
            )
        if not domain.isActive():
            domain.create()
    _wait_for_ssh(production.address, deadline)
    return production


def stop_production(name: str = "web01", *, folder: Path = FOLDER) -> None:
    """Remove the guest, its disks and, with the last one, the network; fine when already gone."""
    with _connection() as libvirt_connection:
        domain = _own_domain(libvirt_connection, name)
        if domain is not None:
            if domain.isActive():
                domain.destroy()
            domain.undefine()
        if (folder / name).exists():
            shutil.rmtree(folder / name)
        if not any(_is_marked(other) for other in libvirt_connection.listAllDomains()):
            _remove_network(libvirt_connection)


def domain_xml(
    name: str,
    *,
    disks: tuple[Path, ...],
    base: Path,
    mac: str,
    kind: str,
    memory_mib: int,
    cpus: int,
) -> str:
    """libvirt's description of the guest: ``kind`` is ``kvm`` or ``qemu`` (emulated)."""
    domain = ET.Element("domain", type=kind)
    _add(domain, "name", text=name)
    ET.SubElement(_add(domain, "metadata"), f"{{{MARK}}}production")
    _add(domain, "memory", text=str(memory_mib), unit="MiB")
    _add(domain, "vcpu", text=str(cpus))
    system = _add(domain, "os")
    _add(system, "type", text="hvm", arch="x86_64", machine="q35")
    _add(system, "boot", dev="hd")
    features = _add(domain, "features")
    _add(features, "acpi")
    _add(features, "apic")
    if kind != "kvm":
        _add(_add(features, "tcg"), "tb-cache", text=str(TRANSLATION_CACHE_MIB), unit="MiB")
    _add_cpu(domain, kind)
    _add(domain, "on_poweroff", text="destroy")
    _add(domain, "on_reboot", text="restart")
    _add(domain, "on_crash", text="destroy")
    devices = _add(domain, "devices")
    for number, path in enumerate(disks):
        disk = _add(devices, "disk", type="file", device="disk")
        _add(disk, "driver", name="qemu", type="qcow2", discard="unmap")
        _add(disk, "source", file=str(path))
        if number == 0:
            backing = _add(disk, "backingStore", type="file")
            _add(backing, "format", type="qcow2")
            _add(backing, "source", file=str(base))
        _add(disk, "target", dev=f"vd{'abcd'[number]}", bus="virtio")
    interface = _add(devices, "interface", type="network")
    _add(interface, "mac", address=mac)
    _add(interface, "source", network=NETWORK)
    _add(interface, "model", type="virtio")
    _add(_add(devices, "serial", type="pty"), "target", port="0")
    _add(_add(devices, "console", type="pty"), "target", type="serial", port="0")
    _add(_add(devices, "graphics", type="vnc"), "listen", type="none")
    _add(_add(devices, "video"), "model", type="vga")
    _add(_add(devices, "rng", model="virtio"), "backend", text="/dev/urandom", model="random")
    _add(devices, "memballoon", model="none")
    return ET.tostring(domain, encoding="unicode")


def network_xml() -> str:
    """Production's own network: no uplink; the IPv6 address makes link-local traffic work.

    The addresses are from the ranges set apart for documentation and for private use: nothing
    that this host wants to reach is there.
    """
    network = ET.Element("network")
    _add(network, "name", text=NETWORK)
    ET.SubElement(_add(network, "metadata"), f"{{{MARK}}}network")
    _add(network, "bridge", name=BRIDGE, stp="off", delay="0")
    _add(network, "dns", enable="no")
    ipv4 = _add(network, "ip", address="198.51.100.1", netmask="255.255.255.0")
    _add(_add(ipv4, "dhcp"), "range", start="198.51.100.10", end="198.51.100.250")
    _add(network, "ip", family="ipv6", address="fd5a:6b1e:71::1", prefix="64")
    return ET.tostring(network, encoding="unicode")


def mac_address(name: str) -> str:
    """A stable address for each name, in QEMU's own range."""
    digest = hashlib.sha256(name.encode()).digest()
    return "52:54:00:" + ":".join(f"{byte:02x}" for byte in digest[:3])


def link_local(mac: str) -> str:
    """The IPv6 link-local address that a guest derives from its MAC (modified EUI-64)."""
    parts = [int(part, 16) for part in mac.split(":")]
    host = bytes([parts[0] ^ 2, *parts[1:3], 0xFF, 0xFE, *parts[3:]])
    return str(IPv6Address(b"\xfe\x80" + bytes(6) + host))


@contextlib.contextmanager
def _connection() -> Iterator[Any]:
    """A connection whose errors become ours."""
    import libvirt

    # libvirt prints every error to standard error by default; ours reach people once.
    libvirt.registerErrorHandler(lambda _context, _error: None, None)
    try:
        connection = libvirt.open(URI)
        try:
            yield connection
        finally:
            connection.close()
    except libvirt.libvirtError as problem:
        raise HostError(
            f"libvirt refused: {problem.get_error_message()}",
            "is libvirtd running? make setup starts it",
        ) from problem


def _own_domain(connection: Any, name: str) -> Any | None:
    """The demo's domain of that name, or None; a stranger's is a wrong request."""
    found = [domain for domain in connection.listAllDomains() if domain.name() == name]
    if found and not _is_marked(found[0]):
        raise RequestError(
            f"there is a guest {name} on this host that is not the demo's",
            "rename it, or give the demo's production another name",
        )
    return found[0] if found else None


def _is_marked(thing: Any) -> bool:
    import libvirt

    try:
        return MARK in str(thing.XMLDesc(0))
    except libvirt.libvirtError as problem:
        gone = (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_NO_NETWORK)
        if problem.get_error_code() not in gone:
            raise
        return False  # since it was listed


def _ensure_network(connection: Any) -> None:
    import libvirt

    for attempt in range(_TRIES):
        try:
            found = [one for one in connection.listAllNetworks() if one.name() == NETWORK]
            network = found[0] if found else connection.networkDefineXML(network_xml())
            if not network.isActive():
                network.create()
            return
        except libvirt.libvirtError:
            # Another guest's start or end got in between: what there is now is looked at again.
            if attempt == _TRIES - 1:
                raise
            time.sleep(0.5)


def _remove_network(connection: Any) -> None:
    for network in connection.listAllNetworks():
        if network.name() == NETWORK and _is_marked(network):
            if network.isActive():
                network.destroy()
            network.undefine()


def _make_disks(folder: Path, image: Path, extra: int, deadline: Deadline) -> tuple[Path, ...]:
    """The production's own disks: an overlay of the read-only image, and perhaps an empty one."""
    folder.mkdir(parents=True, exist_ok=True)
    # QEMU runs as another user and has to reach the disks, but not to list what else is here.
    for above in (folder, folder.parent):
        above.chmod(0o711)
    disks = [folder / "vda.qcow2"]
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", image, disks[0]], deadline)
    if extra:
        disks.append(folder / "vdb.qcow2")
        run(["qemu-img", "create", "-q", "-f", "qcow2", disks[1], str(extra)], deadline)
    return tuple(disks)


def _wait_for_ssh(address: str, deadline: Deadline) -> None:
    """Until sshd introduces itself: the port opens before sshd can answer on a slow machine."""
    problem = "no answer"
    while not deadline.expired():
        try:
            with socket.create_connection((address, 22), timeout=5) as connection:
                if connection.recv(4) == b"SSH-":
                    return
        except OSError as error:
            problem = str(error)
        deadline.within(0.3).sleep(0.3)
    raise GuestUnreachable(
        f"{address} did not answer on port 22 in {deadline.seconds:.0f} s: {problem}",
        "look at its screen: virsh -c qemu:///system screenshot, or its console: virsh console",
    )


def _add_cpu(domain: ET.Element, kind: str) -> None:
    if kind == "kvm":
        _add(domain, "cpu", mode="host-passthrough")
        return
    cpu = _add(domain, "cpu", mode="custom", match="exact", check="none")
    _add(cpu, "model", text="qemu64", fallback="forbid")
    for feature in EMULATED_FEATURES:
        _add(cpu, "feature", policy="require", name=feature)


def _add(parent: ET.Element, tag: str, *, text: str | None = None, **attributes: str) -> ET.Element:
    child = ET.SubElement(parent, tag, attributes)
    child.text = text
    return child
