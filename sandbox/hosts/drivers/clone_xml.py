"""The clone's domain XML from the source's: pure, by a list of what is let through.

What the list does not name does not reach the clone and is reported: a device that is new to
us must not connect a clone to production by accident. Addresses of devices are kept, so that
the guest finds its disks and network cards where it always did. :mod:`.clone_devices` has the
devices, this module the machine around them.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

from lxml import etree

from sandbox.hosts.drivers import Mark
from sandbox.hosts.drivers.clone_devices import (
    CloneDisk,
    DeviceChanges,
    copy_device,
    copy_serial_ports,
    disk_problem,
    macs,
)
from sandbox.hosts.drivers.marks import mark_element

__all__ = ["CloneDisk", "CloneSpec", "CloneXml", "clone_xml", "disk_problem", "macs"]

# Top-level elements that make the guest's machine what it is.
_EMULATED_FEATURES = ("ssse3", "sse4.1", "sse4.2", "popcnt", "cx16")
_KEPT = ("vcpu", "os", "features", "cpu", "clock", "pm")
# Those that say nothing of the guest: not worth a line in the report.
_SILENT = (
    *("name", "uuid", "title", "description", "metadata", "memory", "currentMemory", "devices"),
    *("on_poweroff", "on_reboot", "on_crash", "seclabel", "resource", "maxMemory"),
    *("iothreads", "iothreadids", "genid"),
)
_WHY = {
    "commandline": "is QEMU's own command line",
    "launchSecurity": "needs secrets of the host",
    "sysinfo": "repeats the source's UUID, or hands over files of the host",
}
# Of <os>: what chooses and sets up the firmware, and nothing that reads files of the host.
_OS_KEPT = ("type", "boot", "bootmenu", "bios", "firmware", "loader", "nvram")
_POWERS = {"b": 0, "bytes": 0, "KiB": 10, "k": 10, "MiB": 20, "M": 20, "GiB": 30, "G": 30}
_POWERS |= {"TiB": 40, "T": 40}
_THOUSANDS = {"KB": 1000, "MB": 1000**2, "GB": 1000**3, "TB": 1000**4}
PARSER = etree.XMLParser(
    remove_comments=True,
    remove_pis=True,
    remove_blank_text=True,
    resolve_entities=False,
    no_network=True,
)


@dataclass(frozen=True)
class CloneSpec:
    """What the clone gets in place of what the source has."""

    name: str
    mark: Mark
    disks: tuple[CloneDisk, ...]
    bridge: str
    console_log: Path
    accelerated: bool
    nvram: Path  # where the clone's UEFI variables are, when its firmware is UEFI
    nvram_copied: bool = False  # they hold the source's; else they start empty
    memory: int | None = None  # bytes; None: as the source


@dataclass(frozen=True)
class CloneXml:
    """The clone's definition, and every difference from the source for the report."""

    xml: str
    dropped: tuple[str, ...]
    changed: tuple[str, ...]


def clone_xml(source_xml: str, spec: CloneSpec) -> CloneXml:
    """Derive the clone's XML; every difference that a guest could notice is listed."""
    source = etree.fromstring(source_xml.encode(), PARSER)
    differences = DeviceChanges()
    kind = "kvm" if spec.accelerated else "qemu"
    if source.get("type") != kind:
        differences.changed.append(f"runs under {kind} (the source: {source.get('type')})")
    differences.changed.append("SMBIOS: the clone has a UUID of its own")
    domain = etree.Element("domain", type=kind)
    etree.SubElement(domain, "name").text = spec.name
    domain.extend(source.findall("./genid"))  # libvirt's schema wants it here
    etree.SubElement(domain, "metadata").append(mark_element(spec.mark))
    add_memory(domain, source, spec, differences)
    for child in source.iterchildren(etree.Element):
        _copy_top_level(domain, child, spec, differences)
    if not spec.accelerated:
        _bound_translation_cache(domain)
    for event, action in (("poweroff", "destroy"), ("reboot", "restart"), ("crash", "preserve")):
        etree.SubElement(domain, f"on_{event}").text = action
    devices = etree.SubElement(domain, "devices")
    for device in source.iterfind("./devices/*"):
        copy_device(devices, device, spec.disks, spec.bridge, differences)
    copy_serial_ports(devices, source, spec.console_log, differences)
    etree.cleanup_namespaces(domain)
    etree.indent(domain)
    return CloneXml(
        etree.tostring(domain).decode(), tuple(differences.dropped), tuple(differences.changed)
    )


def add_memory(
    domain: etree._Element, source: etree._Element, spec: CloneSpec, differences: DeviceChanges
) -> None:
    """The source's memory, or what was asked for."""
    memory = _memory(source) if spec.memory is None else spec.memory
    if spec.memory is not None and spec.memory != _memory(source):
        differences.changed.append(
            f"memory {spec.memory >> 20} MiB (the source: {_memory(source) >> 20} MiB)"
        )
    for tag in ("memory", "currentMemory"):  # ballooned guests get all of it: no surprises
        etree.SubElement(domain, tag, unit="KiB").text = str(memory >> 10)


def memory_of(domain_xml: str) -> int:
    """A domain's maximum memory in bytes."""
    return _memory(etree.fromstring(domain_xml.encode(), PARSER))


def _memory(source: etree._Element) -> int:
    """The source's maximum memory in bytes."""
    element = source.find("./memory")
    if element is None or not (element.text or "").strip().isdigit():
        return 512 << 20
    number, unit = int(str(element.text).strip()), element.get("unit", "KiB")
    return number * _THOUSANDS.get(unit, 1 << _POWERS.get(unit, 10))


def _copy_top_level(
    domain: etree._Element, child: etree._Element, spec: CloneSpec, differences: DeviceChanges
) -> None:
    name = etree.QName(child)
    tag = name.localname
    if name.namespace or tag not in _KEPT:
        if tag not in _SILENT:
            reason = _WHY.get(tag, "concerns the host, not the guest")
            differences.dropped.append(f"<{tag}>: {reason}")
        return
    element = copy.deepcopy(child)
    if tag == "vcpu":
        for attribute in ("cpuset", "placement"):  # where on the host they run
            element.attrib.pop(attribute, "")
    elif tag == "cpu":
        root = child.getparent()
        emulated = root is not None and root.get("type") == "qemu"  # the source is, and boots so
        element = _cpu(element, spec, emulated, differences)
    elif tag == "os":
        _adapt_os(element, spec, differences)
    elif not spec.accelerated:
        _remove_hyperv(element, differences)
    domain.append(element)


def _emulated_cpu() -> etree._Element:
    """x86-64-v2 on QEMU's plainest model. "maximum" has more, but is not stable under emulation:
    with QEMU 7.2 guests panicked at boot and programs died at random."""
    cpu = etree.Element("cpu", mode="custom", match="exact", check="none")
    etree.SubElement(cpu, "model", fallback="forbid").text = "qemu64"
    for name in _EMULATED_FEATURES:
        etree.SubElement(cpu, "feature", policy="require", name=name)
    return cpu


def _cpu(
    source: etree._Element, spec: CloneSpec, emulated: bool, differences: DeviceChanges
) -> etree._Element:
    """The source's CPU; a plain one where there is no acceleration for its model."""
    cpu = source
    mode = source.get("mode", "custom")
    fits = mode == "maximum" or (emulated and mode == "custom")
    if not spec.accelerated and not fits:
        cpu = _emulated_cpu()
        for part in ("topology", "numa"):
            cpu.extend(source.findall(f"./{part}"))
        differences.changed.append("CPU model: emulated, x86-64-v2")
    adapt_numa(cpu, spec, differences)
    return cpu


def adapt_numa(cpu: etree._Element, spec: CloneSpec, differences: DeviceChanges) -> None:
    """The source's nodes, as far as they fit the clone's memory."""
    for numa in cpu.findall("./numa"):
        if spec.memory is not None:
            cpu.remove(numa)  # its cells' sizes would overrule the memory that was asked for
            differences.changed.append("NUMA: one node, for another size of memory")
    for cell in cpu.iterfind("./numa/cell"):
        cell.attrib.pop("memAccess", "")  # shared with processes of the host


def _bound_translation_cache(domain: etree._Element) -> None:
    """QEMU's default cache of translated code makes every reset slow: measured 9 to 190 s from
    a reboot to the kernel's first line, 5 to 7 s with 128 MiB; booting takes as long as before."""
    features = domain.find("./features")
    if features is None:
        features = etree.SubElement(domain, "features")
    if features.find("./tcg") is None:
        emulator = etree.SubElement(features, "tcg")
        etree.SubElement(emulator, "tb-cache", unit="MiB").text = "128"


def _remove_hyperv(element: etree._Element, differences: DeviceChanges) -> None:
    """Without acceleration QEMU does not start with these (features, and the clock's timer)."""
    for part in (*element.findall("./hyperv"), *element.findall("./timer[@name='hypervclock']")):
        element.remove(part)
        differences.changed.append(f"Hyper-V ({part.tag}): not there under emulation")


def _adapt_os(os: etree._Element, spec: CloneSpec, differences: DeviceChanges) -> None:
    """The source's firmware, read-only, with variables of the clone's own."""
    for part in list(os):
        tag = etree.QName(part).localname
        if tag not in _OS_KEPT:
            os.remove(part)
            if tag != "smbios":  # goes with the UUID
                differences.dropped.append(f"<os> <{tag}>: leads to files of the host")
    loader = os.find("./loader")
    uefi = os.get("firmware") == "efi" or os.find("./nvram") is not None
    if loader is not None and (loader.text or "").strip():
        _pin_loader(os, loader, differences)
        uefi = uefi or loader.get("type") == "pflash"
    template, template_format = "", ""
    for nvram in os.findall("./nvram"):
        template, template_format = nvram.get("template", ""), nvram.get("templateFormat", "")
        os.remove(nvram)
    if not uefi or (loader is not None and loader.get("stateless") == "yes"):
        return
    # Always a file of ours: one that libvirt places by itself stays on the host for ever.
    own = etree.SubElement(os, "nvram")
    own.text = str(spec.nvram)
    if spec.nvram_copied:
        return
    differences.changed.append("UEFI variables: as new, the source's are not to be had")
    if template:
        own.set("template", template)
    if template and template_format:
        own.set("templateFormat", template_format)


def _pin_loader(os: etree._Element, loader: etree._Element, differences: DeviceChanges) -> None:
    """A firmware image that is named needs no choosing, and is never written by a clone."""
    if os.attrib.pop("firmware", "") == "efi":
        loader.set("type", "pflash")
    for firmware in os.findall("./firmware"):
        os.remove(firmware)
    if loader.get("type") == "pflash" and loader.get("readonly") != "yes":
        loader.set("readonly", "yes")
        differences.changed.append("firmware image: read-only in the clone")
