"""Further guests: stubs that need no system, whose boot loader finds no disk, says so and waits;
and the stopped guest in another shape.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import libvirt
from lxml import etree

from sandbox.core.records import Disk
from sandbox.hosts.drivers import Mark
from sandbox.hosts.drivers.marks import mark_element
from tests.support.xen.xenlab import GRUB, STOPPED, Host

PVGRUB = f"{GRUB}/grub-x86_64-xen.bin"
MEMORY_MIB = 64


def pv_xml(name: str, disks: Sequence[Disk] = (), mark: Mark | None = None) -> str:
    """A PV guest of 64 MiB."""
    root = etree.Element("domain", type="xen")
    etree.SubElement(root, "name").text = name
    if mark is not None:
        etree.SubElement(root, "metadata").append(mark_element(mark))
    etree.SubElement(root, "memory", unit="MiB").text = str(MEMORY_MIB)
    etree.SubElement(root, "vcpu").text = "1"
    os = etree.SubElement(root, "os")
    etree.SubElement(os, "type", arch="x86_64", machine="xenpv").text = "linux"
    etree.SubElement(os, "kernel").text = PVGRUB
    devices = etree.SubElement(root, "devices")
    for disk in disks:
        block = disk.store == "lvm"
        element = etree.SubElement(devices, "disk", type="block" if block else "file")
        element.set("device", "disk")
        driver = {"name": "phy"} if block else {"name": "qemu", "type": disk.format}
        etree.SubElement(element, "driver", attrib=driver)
        etree.SubElement(element, "source", {"dev" if block else "file": disk.path})
        etree.SubElement(element, "target", dev=disk.target, bus="xen")
    return etree.tostring(root).decode()


def stopped_as(
    host: Host, name: str, *, type: str = "", kernel: str = "", path: str = "", format: str = ""
) -> str:
    """The stopped guest's XML under another name: as another type ("hvm", "xenpvh"), booted by
    ``kernel`` in place of pygrub, on another image."""
    root = etree.fromstring(host.run(f"virsh dumpxml --inactive {STOPPED}").encode())
    for tag in ("uuid", "bootloader") if type or kernel else ("uuid",):
        for element in root.findall(f"./{tag}"):
            root.remove(element)
    _one(root, "./name").text = name
    os = _one(root, "./os")
    if type:
        for device in root.findall("./devices/input"):  # libvirt's own, on a bus that only PV has
            device.getparent().remove(device)
        machine = _one(os, "./type")
        machine.text = type
        machine.set("machine", "xenfv" if type == "hvm" else type)
    if kernel:
        etree.SubElement(os, "kernel").text = kernel
    if path:
        _one(root, "./devices/disk/source").set("file", path)
        _one(root, "./devices/disk/driver").set("type", format)
    return etree.tostring(root).decode()


def _one(parent: etree._Element, path: str) -> etree._Element:
    found = parent.find(path)
    assert found is not None, path
    return found


@contextlib.contextmanager
def defined(host: Host, xml: str) -> Iterator[libvirt.virDomain]:
    """A guest of the host's; gone at the end, also when it runs by then."""
    domain = host.shell._connection.defineXML(xml)
    name = domain.name()
    try:
        yield domain
    finally:
        # By name: libvirt may have been restarted, and this connection may be another one.
        again = host.shell._connection.lookupByName(name)
        if again.isActive():
            again.destroy()
        again.undefine()
