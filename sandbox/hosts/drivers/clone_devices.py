"""The clone's devices from the source's: copied part by part, from a list of what is harmless.

Pure. A device is let through only when it lives inside QEMU; of those that lead to the host
(disks, network cards, consoles) the guest's side is copied and the host's side is made anew.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lxml import etree

# Devices that live inside QEMU, and the parts of them that do.
_KEPT_DEVICES: dict[str, tuple[str, ...]] = {
    "controller": ("address", "driver", "master", "model", "pcihole64", "target"),
    "hub": ("address",),
    "input": ("address", "driver"),
    "iommu": ("address", "driver"),
    "memballoon": ("address", "driver", "stats"),
    "panic": ("address",),
    "rng": ("address", "driver", "rate"),
    "video": ("address", "model"),
    "watchdog": ("address",),
}
_INPUTS = ("mouse", "tablet", "keyboard")  # the others are devices of the host
# Watchdogs whose action leaves something on the host or needs a hand there.
_HOST_ACTIONS = ("dump", "pause")
_DISK_PARTS = (
    *("target", "serial", "wwn", "vendor", "product", "boot", "address", "blockio", "geometry"),
)
_CARD_PARTS = ("mac", "model", "mtu", "rom", "boot", "link", "acpi", "address")
_SILENT = ("emulator", "serial", "graphics", "audio")
_WHY = {
    "hostdev": "passes a device of the host through",
    "filesystem": "shares a folder of the host",
    "redirdev": "redirects a USB device",
    "channel": "leads to a program on the host",
    "shmem": "shares memory with another guest",
    "vsock": "is a socket to the host",
    "tpm": "holds state outside the disks",
    "lease": "locks what production uses",
    "smartcard": "leads to a card reader of the host",
    "parallel": "leads to a port of the host",
    "memory": "is plugged into the host's memory: the clone has it as plain memory",
    "pstore": "is a file of the host",
    "input": "passes a device of the host through",
}


@dataclass(frozen=True)
class CloneDisk:
    """Where one of the clone's disks lives."""

    target: str
    overlay: Path
    format: str = "qcow2"  # "block": a device that the hypervisor serves as it is


@dataclass(frozen=True)
class DeviceChanges:
    """What the clone does not have, or has otherwise: filled while it is derived."""

    dropped: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)


def copy_device(
    devices: etree._Element,
    device: etree._Element,
    disks: Sequence[CloneDisk],
    bridge: str,
    differences: DeviceChanges,
) -> None:
    """Give the clone its counterpart of one device of the source, or say why it has none."""
    tag = etree.QName(device).localname
    if tag == "disk":
        _copy_disk(devices, device, disks, differences)
    elif tag == "interface":
        _copy_interface(devices, device, bridge, differences)
    elif tag == "console":
        _copy_console(devices, device)
    elif tag in _KEPT_DEVICES and (tag != "input" or device.get("type") in _INPUTS):
        devices.append(_inside(device, _KEPT_DEVICES[tag], differences))
    elif tag not in _SILENT:
        label = device.get("type") or device.get("mode") or ""
        words = f"<{tag}{' type=' + repr(label) if label else ''}>"
        reason = _WHY.get(tag, "is not known to be safe in a clone")
        differences.dropped.append(f"{words}: {reason}")


def _inside(
    device: etree._Element, parts: Sequence[str], differences: DeviceChanges
) -> etree._Element:
    """The device as far as it lives inside QEMU."""
    element = etree.Element(device.tag)
    element.attrib.update(device.attrib)
    for part in parts:
        element.extend(copy.deepcopy(found) for found in device.findall(f"./{part}"))
    for driver in element.findall("./driver"):
        driver.attrib.pop("iothread", "")  # the clone has none: they are the host's tuning
        for mapping in list(driver):
            driver.remove(mapping)
        if not driver.attrib:
            element.remove(driver)
    if element.tag == "rng":
        etree.SubElement(element, "backend", model="random").text = "/dev/urandom"
    if element.tag == "watchdog" and element.get("action") in _HOST_ACTIONS:
        differences.changed.append(f"watchdog: does nothing (the source: {element.get('action')})")
        element.set("action", "none")
    for model in element.findall("./model") if element.tag == "video" else ():
        for acceleration in model.findall("./acceleration"):
            model.remove(acceleration)
            differences.changed.append("video: without the host's graphics acceleration")
        model.attrib.pop("blob", "")
    return element


def _copy_disk(
    devices: etree._Element,
    device: etree._Element,
    disks: Sequence[CloneDisk],
    differences: DeviceChanges,
) -> None:
    overlays = {disk.target: disk.overlay for disk in disks}
    target = device.find("./target")
    name = "" if target is None else str(target.get("dev"))
    kind = device.get("device", "disk")
    if name in overlays and kind == "disk":
        disk = etree.SubElement(devices, "disk", type="file", device="disk")
        if device.get("model"):  # virtio-transitional and such: what the guest finds on its bus
            disk.set("model", str(device.get("model")))
        # unsafe: a throw-away overlay needs no flush to the host's disk; the guest sees the same.
        etree.SubElement(disk, "driver", name="qemu", type="qcow2", cache="unsafe", discard="unmap")
        etree.SubElement(disk, "source", file=str(overlays[name]))
        _copy_parts(disk, device, _DISK_PARTS)
    elif kind in ("cdrom", "floppy") and target is not None:
        drive = etree.SubElement(devices, "disk", type="file", device=kind)  # ejected
        if kind == "cdrom":
            etree.SubElement(drive, "readonly")
        _copy_parts(drive, device, ("target", "boot", "address"))
        if device.find("./source") is not None:
            differences.dropped.append(f"medium in {name}: ejected")
    else:
        differences.dropped.append(f"disk {name}: {disk_problem(device) or 'was not cloned'}")


def _copy_parts(element: etree._Element, original: etree._Element, parts: Sequence[str]) -> None:
    for part in parts:
        element.extend(copy.deepcopy(found) for found in original.findall(f"./{part}"))


def disk_problem(device: etree._Element) -> str:
    """Why a disk of the source cannot be cloned; "" when it can."""
    kind = device.get("device", "disk")
    if kind == "lun":
        return "is a SCSI device passed through"
    if device.find("./shareable") is not None:
        return "is shared with other guests"
    if device.get("type") in ("nvme", "vhostuser", "vhostvdpa", "dir", "volume"):
        return f"its type {device.get('type')!r} cannot be cloned"
    return ""


def port_prefix(bridge: str) -> str:
    """How the host's ends of a clone's network cards begin: the gate knows them by that."""
    return f"{bridge}-"


def _copy_interface(
    devices: etree._Element, device: etree._Element, bridge: str, differences: DeviceChanges
) -> None:
    kind = device.get("type", "")
    if kind in ("hostdev", "vdpa", "vhostuser"):
        differences.dropped.append(
            f"network card {_mac(device)}: type {kind!r} is hardware of the host"
        )
        return
    port = f"{port_prefix(bridge)}{len(devices.findall('./interface'))}"
    interface = etree.SubElement(devices, "interface", type="bridge")
    etree.SubElement(interface, "source", bridge=bridge)
    etree.SubElement(interface, "target", dev=port)
    _copy_parts(interface, device, _CARD_PARTS)
    for rom in interface.findall("./rom"):
        rom.attrib.pop("file", "")  # of the host
    source = device.find("./source")
    where = "" if source is None else " ".join(str(v) for v in source.attrib.values())
    differences.dropped.append(
        f"network of {_mac(device)}: {where or kind} replaced by the clone's own bridge"
    )


def _mac(device: etree._Element) -> str:
    mac = device.find("./mac")
    return "?" if mac is None else str(mac.get("address"))


def macs(domain_xml: str) -> tuple[str, ...]:
    """The MAC addresses of a domain's network cards, in order."""
    found = etree.fromstring(domain_xml.encode()).iterfind("./devices/interface/mac")
    return tuple(str(mac.get("address")).lower() for mac in found)


def _copy_console(devices: etree._Element, console: etree._Element) -> None:
    """A paravirtual console (hvc0), where a guest may have its login; no program reads it.

    The others are the serial ports over again: libvirt adds them itself.
    """
    target = console.find("./target")
    if target is not None and target.get("type") == "virtio":
        _copy_parts(
            etree.SubElement(devices, "console", type="pty"), console, ("target", "address")
        )


def copy_serial_ports(
    devices: etree._Element, source: etree._Element, log: Path, differences: DeviceChanges
) -> None:
    """The source's serial ports, leading nowhere; the first one's output is a file of ours."""
    logged = False
    for port in source.iterfind("./devices/serial"):
        first = not logged and not _is_debug_port(port)
        serial = _serial_port(devices, log) if first else _mute_port(devices)
        _copy_parts(serial, port, ("target", "address"))
        logged = logged or first
    if not logged:
        differences.changed.append("a serial port was added: its output is the run's console log")
        etree.SubElement(_serial_port(devices, log), "target", port="0")


def _is_debug_port(port: etree._Element) -> bool:
    """A port that only firmware writes to: no console."""
    target = port.find("./target")
    return target is not None and target.get("type") == "isa-debug"


def _serial_port(devices: etree._Element, log: Path) -> etree._Element:
    serial = etree.SubElement(devices, "serial", type="pty")
    # virtlogd writes it, so the log survives us and the domain.
    etree.SubElement(serial, "log", file=str(log), append="on")
    return serial


def _mute_port(devices: etree._Element) -> etree._Element:
    return etree.SubElement(devices, "serial", type="null")
