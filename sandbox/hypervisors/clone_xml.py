"""The clone's domain XML from the source's: pure, by a list of what is let through.

What the list does not name does not reach the clone and is reported: a device that is new to
us must not connect a clone to production by accident. Addresses of devices are kept, so that
the guest finds its disks and network cards where it always did.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lxml import etree

from sandbox.hypervisors import Mark
from sandbox.hypervisors.marks import mark_element

# Top-level elements copied as they are.
_KEPT = ("vcpu", "iothreads", "os", "features", "cpu", "clock", "pm", "genid")
# Devices copied as they are: they live inside QEMU and lead nowhere.
_KEPT_DEVICES = ("controller", "input", "video", "panic", "watchdog", "iommu", "memballoon")
# Top-level elements that say nothing of the guest: not worth a line in the report.
_SILENT = (
    *("name", "uuid", "title", "description", "metadata", "memory", "currentMemory", "devices"),
    *("on_poweroff", "on_reboot", "on_crash", "seclabel", "resource", "maxMemory", "sysinfo"),
)
_SILENT_DEVICES = ("emulator", "disk", "interface", "serial", "console", "graphics", "rng", "audio")
_WHY = {
    "hostdev": "passes a device of the host through",
    "filesystem": "shares a folder of the host",
    "redirdev": "redirects a USB device",
    "channel": "leads to a program on the host",
    "shmem": "shares memory with another guest",
    "vsock": "is a socket to the host",
    "tpm": "holds state outside the disks",
    "commandline": "is QEMU's own command line",
    "launchSecurity": "needs secrets of the host",
}


@dataclass(frozen=True)
class CloneDisk:
    """Where one of the clone's disks lives."""

    target: str
    overlay: Path


@dataclass(frozen=True)
class CloneSpec:
    """What the clone gets in place of what the source has."""

    name: str
    mark: Mark
    disks: tuple[CloneDisk, ...]
    bridge: str
    console_log: Path
    accelerated: bool
    nvram: Path | None = None  # a copy of the source's UEFI variables
    memory: int | None = None  # bytes; None: as the source


@dataclass(frozen=True)
class CloneXml:
    xml: str
    dropped: tuple[str, ...]
    changed: tuple[str, ...]


def clone_xml(source_xml: str, spec: CloneSpec) -> CloneXml:
    """Derive the clone's XML; every difference that a guest could notice is listed."""
    source = etree.fromstring(source_xml.encode())
    dropped: list[str] = []
    changed: list[str] = []
    kind = "kvm" if spec.accelerated else "qemu"
    if source.get("type") != kind:
        changed.append(f"runs under {kind} (the source: {source.get('type')})")
    domain = etree.Element("domain", type=kind)
    etree.SubElement(domain, "name").text = spec.name
    etree.SubElement(domain, "metadata").append(mark_element(spec.mark))
    memory = _memory(source) if spec.memory is None else spec.memory
    if spec.memory is not None and spec.memory != _memory(source):
        changed.append(f"memory {spec.memory >> 20} MiB (the source: {_memory(source) >> 20} MiB)")
    for tag in ("memory", "currentMemory"):  # ballooned guests get all of it: no surprises
        etree.SubElement(domain, tag, unit="KiB").text = str(memory >> 10)
    for child in source.iterchildren(etree.Element):
        _copy_top_level(domain, child, spec, dropped, changed)
    for event, action in (("poweroff", "destroy"), ("reboot", "restart"), ("crash", "preserve")):
        etree.SubElement(domain, f"on_{event}").text = action
    devices = etree.SubElement(domain, "devices")
    for device in source.iterfind("./devices/*"):
        _copy_device(devices, device, spec, dropped, changed)
    _add_console(devices, source, spec.console_log, changed)
    etree.indent(domain)
    return CloneXml(etree.tostring(domain).decode(), tuple(dropped), tuple(changed))


def _memory(source: etree._Element) -> int:
    """The source's maximum memory in bytes."""
    element = source.find("./memory")
    if element is None or not (element.text or "").strip().isdigit():
        return 512 << 20
    unit = element.get("unit", "KiB")
    powers = {"b": 0, "bytes": 0, "KiB": 10, "k": 10, "MiB": 20, "M": 20, "GiB": 30, "G": 30}
    return int(str(element.text).strip()) << powers.get(unit, 10)


def _copy_top_level(
    domain: etree._Element,
    child: etree._Element,
    spec: CloneSpec,
    dropped: list[str],
    changed: list[str],
) -> None:
    tag = etree.QName(child).localname
    if tag not in _KEPT:
        if tag not in _SILENT:
            dropped.append(f"<{tag}>: {_WHY.get(tag, 'concerns the host, not the guest')}")
        return
    element = copy.deepcopy(child)
    if tag == "vcpu":
        element.attrib.pop("cpuset", "")
    if tag == "cpu" and not spec.accelerated and element.get("mode", "custom") != "maximum":
        # Named and host CPU models need KVM; under emulation the fullest CPU is the nearest.
        element = etree.Element("cpu", mode="maximum", check="none")
        changed.append("CPU model: emulated, all features that QEMU offers")
    if tag == "os":
        _own_firmware_state(element, spec, changed)
    domain.append(element)


def _own_firmware_state(element: etree._Element, spec: CloneSpec, changed: list[str]) -> None:
    for smbios in element.findall("./smbios"):
        element.remove(smbios)  # sysinfo repeats the source's UUID, which libvirt refuses here
        changed.append("SMBIOS: the clone has a UUID of its own")
    for nvram in element.findall("./nvram"):
        if spec.nvram is None:
            element.remove(nvram)
            continue
        nvram.attrib.clear()
        for child in list(nvram):
            nvram.remove(child)
        nvram.text = str(spec.nvram)


def _copy_device(
    devices: etree._Element,
    device: etree._Element,
    spec: CloneSpec,
    dropped: list[str],
    changed: list[str],
) -> None:
    tag = etree.QName(device).localname
    if tag == "disk":
        _copy_disk(devices, device, {d.target: d.overlay for d in spec.disks}, dropped)
    elif tag == "interface":
        _copy_interface(devices, device, spec.bridge, dropped)
    elif tag == "rng":
        element = copy.deepcopy(device)
        for backend in element.findall("./backend"):
            element.remove(backend)
        etree.SubElement(element, "backend", model="random").text = "/dev/urandom"
        devices.append(_without_alias(element))
    elif tag in _KEPT_DEVICES:
        devices.append(_without_alias(copy.deepcopy(device)))
    elif tag not in _SILENT_DEVICES:
        label = device.get("type") or device.get("mode") or ""
        words = f"<{tag}{' type=' + repr(label) if label else ''}>"
        dropped.append(f"{words}: {_WHY.get(tag, 'is not known to be safe in a clone')}")


def _without_alias(element: etree._Element) -> etree._Element:
    for alias in element.findall("./alias"):
        element.remove(alias)
    return element


def _copy_disk(
    devices: etree._Element,
    device: etree._Element,
    overlays: Mapping[str, Path],
    dropped: list[str],
) -> None:
    target = device.find("./target")
    name = "" if target is None else str(target.get("dev"))
    kind = device.get("device", "disk")
    if name in overlays and kind == "disk":
        disk = etree.SubElement(devices, "disk", type="file", device="disk")
        # unsafe: a throw-away overlay needs no flush to the host's disk; the guest sees the same.
        etree.SubElement(disk, "driver", name="qemu", type="qcow2", cache="unsafe", discard="unmap")
        etree.SubElement(disk, "source", file=str(overlays[name]))
        for part in ("target", "serial", "wwn", "vendor", "product", "boot", "address", "blockio"):
            for element in device.findall(f"./{part}"):
                disk.append(copy.deepcopy(element))
    elif kind in ("cdrom", "floppy") and target is not None:
        drive = etree.SubElement(devices, "disk", type="file", device=kind)  # ejected
        drive.append(copy.deepcopy(target))
        if kind == "cdrom":
            etree.SubElement(drive, "readonly")
        for element in device.findall("./address"):
            drive.append(copy.deepcopy(element))
        if device.find("./source") is not None:
            dropped.append(f"medium in {name}: ejected")
    else:
        dropped.append(f"disk {name}: {disk_problem(device) or 'left out by the scenario'}")


def disk_problem(device: etree._Element) -> str:
    """Why a disk of the source cannot be cloned; "" when it can."""
    kind = device.get("device", "disk")
    if kind == "lun":
        return "is a SCSI device passed through"
    if device.find("./shareable") is not None:
        return "is shared with other guests"
    if device.get("type") in ("nvme", "vhostuser", "dir", "volume"):
        return f"its type {device.get('type')!r} cannot be cloned"
    return ""


def _copy_interface(
    devices: etree._Element, device: etree._Element, bridge: str, dropped: list[str]
) -> None:
    kind = device.get("type", "")
    if kind in ("hostdev", "vdpa", "vhostuser"):
        dropped.append(f"network card {_mac(device)}: type {kind!r} is hardware of the host")
        return
    interface = etree.SubElement(devices, "interface", type="bridge")
    etree.SubElement(interface, "source", bridge=bridge)
    for part in ("mac", "model", "mtu", "rom", "boot", "address"):
        for element in device.findall(f"./{part}"):
            interface.append(copy.deepcopy(element))
    source = device.find("./source")
    where = "" if source is None else " ".join(str(v) for v in source.attrib.values())
    dropped.append(f"network of {_mac(device)}: {where or kind} replaced by the clone's own bridge")


def _mac(device: etree._Element) -> str:
    mac = device.find("./mac")
    return "?" if mac is None else str(mac.get("address"))


def macs(domain_xml: str) -> tuple[str, ...]:
    """The MAC addresses of a domain's network cards, in order."""
    found = etree.fromstring(domain_xml.encode()).iterfind("./devices/interface/mac")
    return tuple(str(mac.get("address")).lower() for mac in found)


def _add_console(
    devices: etree._Element, source: etree._Element, log: Path, changed: list[str]
) -> None:
    """The source's first serial port, its output in a file of ours; one is added if need be."""
    serial = etree.SubElement(devices, "serial", type="pty")
    # virtlogd writes it, so the log survives us and the domain.
    etree.SubElement(serial, "log", file=str(log), append="on")
    original = source.find("./devices/serial")
    if original is None:
        changed.append("a serial port was added: its output is the run's console log")
        etree.SubElement(serial, "target", port="0")
        return
    for part in ("target", "address"):
        for element in original.findall(f"./{part}"):
            serial.append(copy.deepcopy(element))
