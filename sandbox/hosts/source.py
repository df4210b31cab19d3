"""What is to be cloned: a running guest, a stopped one, or disk images; read, never touched."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

from lxml import etree

from sandbox.core.deadline import Deadline
from sandbox.core.errors import RequestError
from sandbox.core.records import Disk
from sandbox.hosts.drivers import Hypervisor, SourceDomain, Vitals
from sandbox.hosts.drivers.clone_xml import disk_problem
from sandbox.hosts.drivers.xen_xml import boot_chain
from sandbox.hosts.volumes.images import read_image
from sandbox.hosts.volumes.storage import storage_of

_IMAGE_FORMATS = ("qcow2", "raw", "vmdk", "vhdx", "vpc")


@dataclass(frozen=True)
class ImageSpec:
    """Disk images to boot, and the machine that they expect; sizes in bytes."""

    disks: tuple[tuple[Path, str], ...]  # path, stated format; the first one boots
    memory: int = 1 << 30
    cpus: int = 2
    firmware: str = "bios"  # or uefi
    machine: str = "pc"  # or q35
    disk_bus: str = "virtio"
    nic: str = "virtio"
    bases: tuple[Path, ...] = ()  # files in other folders that the images may stand on


@dataclass(frozen=True)
class Source:
    """The source as it was found. ``domain`` is None for images."""

    name: str
    kind: str  # "running guest" | "stopped guest" | "image"
    xml: str
    disks: tuple[Disk, ...]
    domain: SourceDomain | None = None

    @property
    def running(self) -> bool:
        return self.kind == "running guest"


def guest_source(
    hypervisor: Hypervisor, name: str, deadline: Deadline, *, kernel: str = "a kernel"
) -> Source:
    """Inspect a guest; raises :class:`RequestError` where it cannot be rehearsed.

    ``kernel``: what of the upgrade may bring one ("" for nothing), which the guest must then
    boot itself.
    """
    domain = hypervisor.lookup(name)
    _require_truly_off(hypervisor, domain, deadline)
    kind = "running guest" if domain.running else "stopped guest"
    disks = tuple(_domain_disks(hypervisor, domain, deadline))
    if not disks:
        raise RequestError(
            f"{name!r} has no disk that can be cloned", "its disks must be image files or volumes"
        )
    problem = kernel_problem(hypervisor, domain, kernel)
    if problem is not None:
        raise problem
    return Source(name, kind, domain.xml, disks, domain)


def _require_truly_off(hypervisor: Hypervisor, domain: SourceDomain, deadline: Deadline) -> None:
    """A guest that xl started runs without libvirt's knowing: its disks are not at rest."""
    if hypervisor.kind != "xen" or domain.running:
        return
    if hypervisor.host.run(["xl", "domid", domain.name], deadline, check=False).ok:
        raise RequestError(
            f"{domain.name!r} is off for libvirt, but xl runs it",
            "start it by libvirt (virsh start), so that its disks can be cloned at one instant",
        )


def kernel_problem(
    hypervisor: Hypervisor, domain: SourceDomain, kernel: str
) -> RequestError | None:
    """Why the kernel that a clone would run is not the one that is rehearsed; None when it is."""
    if hypervisor.kind == "xen":
        chain = boot_chain(domain.xml)
        if chain.own_kernel or not kernel:
            return None
        what = f"{chain.loader}, not its own disk's kernel: {kernel} would not be what runs"
        hint = (
            "boot the guest by pvgrub (<kernel> naming grub-xen's image) or pygrub, so that the "
            "kernel it installs is the one that runs; named packages without a kernel can be "
            "rehearsed as it is"
        )
    else:
        if etree.fromstring(domain.xml.encode()).find("./os/kernel") is None:
            return None
        what = "a kernel from the host (<kernel> in its XML), not its own disk's"
        hint = "give the guest a boot loader of its own; a rehearsal would test the wrong kernel"
    return RequestError(f"{domain.name!r} boots {what}", hint)


def _domain_disks(hypervisor: Hypervisor, domain: SourceDomain, deadline: Deadline) -> list[Disk]:
    disks, storage = [], storage_of(hypervisor)
    for device in etree.fromstring(domain.xml.encode()).iterfind("./devices/disk"):
        if device.get("device", "disk") != "disk" or disk_problem(device):
            continue
        target, source = device.find("./target"), device.find("./source")
        if target is None or source is None:
            continue
        name = str(target.get("dev"))
        path = source.get("file") or source.get("dev")
        if path is None:
            raise RequestError(
                f"disk {name} of {domain.name!r} is on the network ({source.get('protocol')})",
                "only local files and block devices can be cloned so far",
            )
        driver = device.find("./driver")
        format = "raw" if driver is None else driver.get("type", "raw")
        block = device.get("type") == "block"
        try:
            disks.append(storage.inspect(name, path, format, block, deadline))
        except RequestError as problem:
            raise RequestError(f"{domain.name!r}: {problem.message}", problem.hint) from problem
    return disks


def image_source(hypervisor: Hypervisor, spec: ImageSpec, deadline: Deadline) -> Source:
    """Inspect images and build the XML of a machine for them."""
    prefix = {"virtio": "vd", "ide": "hd"}.get(spec.disk_bus, "sd")
    stated = [(path.resolve(), format) for path, format in spec.disks]
    paths = {path for path, _format in stated} | {path.resolve() for path in spec.bases}
    # First what is stated: a running guest's disk may well stand on a file elsewhere.
    _require_not_running(hypervisor, {str(path) for path, _format in stated})
    disks = tuple(
        read_image(f"{prefix}{chr(ord('a') + number)}", path, format, deadline, paths)
        for number, (path, format) in enumerate(stated)
    )
    _require_not_running(hypervisor, {path for disk in disks for path in disk.chain})
    return Source(str(spec.disks[0][0]), "image", image_xml(spec, disks), disks)


def _require_not_running(hypervisor: Hypervisor, paths: Set[str]) -> None:
    """An image that a running guest writes cannot be read consistently past that guest."""
    if not paths:
        return
    for name in hypervisor.guests():
        try:
            guest = hypervisor.lookup(name)
        except RequestError:
            continue  # gone since it was listed, or a clone that has just begun
        if not guest.running:
            continue
        for source in etree.fromstring(guest.xml.encode()).iterfind("./devices/disk/source"):
            path = source.get("file") or source.get("dev") or ""
            if path and str(Path(path).resolve()) in paths:
                raise RequestError(
                    f"{path} is a disk of the running guest {name!r}", f"use --guest {name}"
                )


def image_xml(spec: ImageSpec, disks: Sequence[Disk]) -> str:
    """A plain machine around disk images; pure."""
    root = etree.Element("domain", type="kvm")
    etree.SubElement(root, "name").text = "image"
    etree.SubElement(root, "memory", unit="KiB").text = str(spec.memory >> 10)
    etree.SubElement(root, "vcpu").text = str(spec.cpus)
    os = etree.SubElement(root, "os")
    if spec.firmware == "uefi":
        os.set("firmware", "efi")
        # Else libvirt may choose firmware that boots signed loaders only.
        firmware = etree.SubElement(os, "firmware")
        etree.SubElement(firmware, "feature", enabled="no", name="secure-boot")
    etree.SubElement(os, "type", arch="x86_64", machine=spec.machine).text = "hvm"
    etree.SubElement(os, "boot", dev="hd")
    features = etree.SubElement(root, "features")
    for feature in ("acpi", "apic"):
        etree.SubElement(features, feature)
    etree.SubElement(root, "cpu", mode="host-model")
    etree.SubElement(root, "clock", offset="utc")
    devices = etree.SubElement(root, "devices")
    for disk in disks:
        element = etree.SubElement(devices, "disk", type="file", device="disk")
        etree.SubElement(element, "target", dev=disk.target, bus=spec.disk_bus)
    if spec.disk_bus == "scsi":
        etree.SubElement(devices, "controller", type="scsi", model="virtio-scsi")
    card = etree.SubElement(devices, "interface", type="network")
    # Fixed: an image has no address of its own, and every clone is alone on its bridge.
    etree.SubElement(card, "mac", address="52:54:00:5a:0b:01")
    etree.SubElement(card, "model", type=spec.nic)
    video = etree.SubElement(devices, "video")
    etree.SubElement(video, "model", type="vga")
    rng = etree.SubElement(devices, "rng", model="virtio")
    etree.SubElement(rng, "backend", model="random").text = "/dev/urandom"
    etree.indent(root)
    return etree.tostring(root).decode()


def vitals(hypervisor: Hypervisor, source: Source) -> Vitals:
    """The state of a source that :func:`proofs` compares; of images, their files'."""
    if source.domain is not None:
        facts = hypervisor.vitals(source.domain)
        return replace(facts, files=storage_of(hypervisor).file_facts(source.disks))
    return Vitals(False, "", (), "", 0.0, storage_of(hypervisor).file_facts(source.disks))


def proofs(source: Source, before: Vitals, after: Vitals) -> tuple[tuple[str, ...], str]:
    """(what stayed the same, the first thing that did not or ""): pure comparison."""
    if before.running != after.running:
        now = "started" if after.running else "stopped"
        return (), f"the source was {now} while its clone ran"
    if before.instance != after.instance:
        return (), "the source was restarted while its clone ran"
    if not source.running and before.files != after.files:
        return (), "the source's disk files changed while its clone ran"
    if before.xml != after.xml:
        return (), "the source's configuration changed while its clone ran"
    if before.chain != after.chain:
        return (), "the source's disk chain changed while its clone ran"
    if source.running:
        ran = after.cpu_seconds - before.cpu_seconds
        return (
            "domain XML unchanged",
            "disk chain unchanged",
            f"ran on: same instance, {ran:.1f} s of CPU time used meanwhile",
        ), ""
    kept = "disk files unchanged (inode, size and modification time)"
    return (kept, "domain XML unchanged, still stopped") if source.domain else (kept,), ""
