"""A Xen clone's domain XML from the source's: pure, by a list of what is let through.

The guest type (PV, PVH, HVM) and the boot chain are the source's own: that its new kernel is what
boots is what a rehearsal is for. Addresses: libxl driver of libvirt 9.0 and later.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass

from lxml import etree

from sandbox.hosts.drivers.clone_devices import DeviceChanges, disk_problem, port_prefix
from sandbox.hosts.drivers.clone_xml import (
    PARSER,
    CloneSpec,
    CloneXml,
    adapt_numa,
    add_memory,
)
from sandbox.hosts.drivers.marks import mark_element

# Boot loaders that run inside the domain, and the one that runs in dom0: all read the guest's
# own disk, so the guest's own kernel is what boots.
_PVGRUB = re.compile(r"(^|/)((pv-?grub|grub-(i386|x86_64)-xen)[^/]*|grub\.xen)$")
_KEPT = ("vcpu", "bootloader", "bootloader_args", "os", "features", "cpu", "clock")
# A boot loader takes the last four too: what it appends to a command line, where it looks.
_OS_KEPT = ("type", "loader", "boot", "bootmenu", "kernel", "initrd", "cmdline", "root")
_SILENT = (
    *("name", "uuid", "title", "description", "metadata", "memory", "currentMemory", "devices"),
    *("on_poweroff", "on_reboot", "on_crash", "resource", "maxMemory", "seclabel"),
    *("iothreads", "iothreadids", "genid", "pm"),
)
_SILENT_DEVICES = ("emulator", "console", "serial", "memballoon", "audio")
_CARD_PARTS = ("mac", "model", "mtu")
_DISK_PARTS = ("target", "readonly")
_INPUTS = ("mouse", "tablet", "keyboard")


@dataclass(frozen=True)
class BootChain:
    """How a Xen guest comes to its kernel."""

    type: str  # pv, pvh, hvm
    loader: str  # for people: "pygrub", "pvgrub", "its disk's boot loader", ...
    own_kernel: bool  # false: the kernel is a file of the host's


def boot_chain(domain_xml: str) -> BootChain:
    """Read a domain's guest type and boot chain; pure."""
    root = etree.fromstring(domain_xml.encode(), PARSER)
    machine = root.find("./os/type")
    name = "" if machine is None else (machine.text or "")
    variant = "" if machine is None else machine.get("machine", "")
    kind = "hvm" if name == "hvm" else "pvh" if "pvh" in (name + variant) else "pv"
    bootloader = (root.findtext("./bootloader") or "").strip()
    kernel = (root.findtext("./os/kernel") or "").strip()
    if bootloader and kind != "hvm":  # libxl runs it, and takes <kernel> for a path in the guest
        return BootChain(kind, bootloader.rpartition("/")[2], True)
    if kernel and _PVGRUB.search(kernel):
        return BootChain(kind, "pvgrub", True)
    if kernel:
        return BootChain(kind, f"the host's kernel {kernel}", False)
    if kind == "pv":
        return BootChain(kind, "pygrub", True)  # what libvirt takes where nothing is named
    if kind == "hvm":
        return BootChain(kind, "its disk's boot loader", True)
    return BootChain(kind, "nothing known", False)


def xen_clone_xml(source_xml: str, spec: CloneSpec) -> CloneXml:
    """Derive the clone's XML; every difference that a guest could notice is listed."""
    source = etree.fromstring(source_xml.encode(), PARSER)
    differences = DeviceChanges()
    differences.changed.append("the domain has a UUID of its own")
    domain = etree.Element("domain", type="xen")
    etree.SubElement(domain, "name").text = spec.name
    etree.SubElement(domain, "metadata").append(mark_element(spec.mark))
    # All of it from the start: a domain that is populated on demand crashes when it takes more.
    add_memory(domain, source, spec, differences)
    for child in source.iterchildren(etree.Element):
        _copy_top_level(domain, child, spec, differences)
    for event, action in (("poweroff", "destroy"), ("reboot", "restart"), ("crash", "preserve")):
        etree.SubElement(domain, f"on_{event}").text = action
    devices = etree.SubElement(domain, "devices")
    hvm = boot_chain(source_xml).type == "hvm"
    for device in source.iterfind("./devices/*"):
        _copy_device(devices, device, spec, hvm, differences)
    if hvm:
        _list_serial_ports(source, differences)
    _add_console(devices, hvm)
    etree.cleanup_namespaces(domain)
    etree.indent(domain)
    return CloneXml(
        etree.tostring(domain).decode(), tuple(differences.dropped), tuple(differences.changed)
    )


def _copy_top_level(
    domain: etree._Element, child: etree._Element, spec: CloneSpec, differences: DeviceChanges
) -> None:
    name = etree.QName(child)
    tag = name.localname
    if name.namespace or tag not in _KEPT:
        if tag not in _SILENT:
            differences.dropped.append(f"<{tag}>: concerns the host, not the guest")
        return
    element = copy.deepcopy(child)
    if tag == "vcpu":
        for attribute in ("cpuset", "placement"):  # where on the host they run
            element.attrib.pop(attribute, "")
    elif tag == "cpu":
        adapt_numa(element, spec, differences)
    elif tag == "os":
        _adapt_os(element, differences)
    domain.append(element)


def _adapt_os(os: etree._Element, differences: DeviceChanges) -> None:
    """The boot chain as it is; a kernel of the host's too: it was decided that this is meant."""
    for part in list(os):
        if etree.QName(part).localname not in _OS_KEPT:
            os.remove(part)
            differences.dropped.append(f"<os> <{etree.QName(part).localname}>: not known for Xen")


def _copy_device(
    devices: etree._Element,
    device: etree._Element,
    spec: CloneSpec,
    hvm: bool,
    differences: DeviceChanges,
) -> None:
    tag = etree.QName(device).localname
    if tag == "disk":
        _copy_disk(devices, device, spec, hvm, differences)
    elif tag == "interface":
        _copy_interface(devices, device, spec, differences)
    elif tag == "video" and hvm:
        video = etree.SubElement(devices, "video")
        for model in device.findall("./model"):  # what is beneath leads to the host's graphics
            etree.SubElement(video, "model").attrib.update(model.attrib)
    elif tag == "input" and device.get("type") in _INPUTS:
        if device.get("bus") != "xen":  # those libvirt adds itself
            entry = etree.SubElement(devices, "input")
            entry.attrib.update(device.attrib)
    elif tag == "controller" and device.get("type") == "xenbus":
        bus = etree.SubElement(devices, "controller")  # its limits: how many devices fit
        bus.attrib.update(device.attrib)
    elif tag == "controller" and device.get("type") in ("usb", "ide"):
        return  # libvirt adds what the devices need
    elif tag in ("graphics", "video") and not hvm:
        differences.dropped.append(f"<{tag}>: the clone has no screen, only its console")
    elif tag not in (*_SILENT_DEVICES, "graphics"):
        label = device.get("type") or device.get("mode") or ""
        words = f"<{tag}{' type=' + repr(label) if label else ''}>"
        differences.dropped.append(f"{words}: leads to the host, or is not known to be safe")


def _copy_disk(
    devices: etree._Element,
    device: etree._Element,
    spec: CloneSpec,
    hvm: bool,
    differences: DeviceChanges,
) -> None:
    made = {disk.target: disk for disk in spec.disks}
    target = device.find("./target")
    name = "" if target is None else str(target.get("dev"))
    kind = device.get("device", "disk")
    if name in made and kind == "disk" and target is not None:
        disk = made[name]
        block = disk.format == "block"
        element = etree.SubElement(devices, "disk", type="block" if block else "file")
        element.set("device", "disk")
        # Without a stated driver libxl would take a qcow2 file for a raw one.
        driver = {"name": "phy"} if block else {"name": "qemu", "type": disk.format}
        etree.SubElement(element, "driver", attrib=driver)
        etree.SubElement(element, "source", {"dev" if block else "file": str(disk.overlay)})
        for part in _DISK_PARTS:
            element.extend(copy.deepcopy(found) for found in device.findall(f"./{part}"))
    elif kind == "cdrom" and hvm and target is not None:
        drive = etree.SubElement(devices, "disk", type="file", device="cdrom")
        etree.SubElement(drive, "driver", name="qemu", type="raw")
        drive.append(copy.deepcopy(target))
        etree.SubElement(drive, "readonly")
        if device.find("./source") is not None:
            differences.dropped.append(f"medium in {name}: ejected")
    else:
        differences.dropped.append(f"disk {name}: {disk_problem(device) or 'was not cloned'}")


def _copy_interface(
    devices: etree._Element, device: etree._Element, spec: CloneSpec, differences: DeviceChanges
) -> None:
    kind = device.get("type", "")
    mac = device.find("./mac")
    address = "?" if mac is None else str(mac.get("address"))
    if kind == "hostdev":
        differences.dropped.append(f"network card {address}: is hardware of the host")
        return
    port = f"{port_prefix(spec.bridge)}{len(devices.findall('./interface'))}"
    interface = etree.SubElement(devices, "interface", type="bridge")
    for part in _CARD_PARTS:
        interface.extend(copy.deepcopy(found) for found in device.findall(f"./{part}"))
    etree.SubElement(interface, "source", bridge=spec.bridge)
    etree.SubElement(interface, "target", dev=port)
    source = device.find("./source")
    where = "" if source is None else " ".join(str(v) for v in source.attrib.values())
    differences.dropped.append(
        f"network of {address}: {where or kind} replaced by the clone's own bridge"
    )


def _list_serial_ports(source: etree._Element, differences: DeviceChanges) -> None:
    ports = source.findall("./devices/serial")
    if not ports:
        differences.changed.append("a serial port was added: its output is the run's console log")
    differences.dropped.extend("<serial>: the clone has one port" for _port in ports[1:])


def _add_console(devices: etree._Element, hvm: bool) -> None:
    """One serial port for HVM (two crash libvirtd 9.0), the Xen console for the others."""
    if hvm:
        serial = etree.SubElement(devices, "serial", type="pty")
        etree.SubElement(serial, "target", port="0")
    console = etree.SubElement(devices, "console", type="pty")
    etree.SubElement(console, "target", type="serial" if hvm else "xen", port="0")


def guest_types(capabilities: str) -> tuple[str, ...]:
    """The kinds of guests in libvirt's capabilities of a Xen host; pure."""
    named = {"xen": "pv", "linux": "pv", "xenpvh": "pvh", "hvm": "hvm"}
    found = {e.text for e in etree.fromstring(capabilities.encode()).iterfind("./guest/os_type")}
    return tuple(dict.fromkeys(kind for name, kind in named.items() if name in found))
