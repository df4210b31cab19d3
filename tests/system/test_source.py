"""What is to be cloned: found as it is, and proved to have stayed so."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from sandbox.core.errors import RequestError
from sandbox.core.process import run
from sandbox.core.records import Disk
from sandbox.hosts.drivers import Vitals
from sandbox.hosts.drivers.clone_xml import clone_xml, macs
from sandbox.hosts.drivers.fake import FakeHypervisor
from sandbox.hosts.source import (
    ImageSpec,
    Source,
    guest_source,
    image_source,
    image_xml,
    proofs,
    vitals,
)
from sandbox.hosts.volumes.images import FORMATS
from tests.support.guests.small_disks import SIZE, disk, guest, make_image
from tests.support.waiting import soon
from tests.unit.test_clone_xml import SCHEMA, spec_for


def found(xml: str, *, running: bool = False) -> Source:
    hypervisor = FakeHypervisor()
    hypervisor.define(xml, running=running)
    return guest_source(hypervisor, "web01", soon())


# -- guests -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("running", "kind"), [(True, "running guest"), (False, "stopped guest")])
def test_a_guest_with_its_disks_in_order(tmp_path: Path, running: bool, kind: str) -> None:
    second, first = make_image(tmp_path / "b.qcow2"), make_image(tmp_path / "a.qcow2")
    xml = guest(disk("vda", f"file='{first}'") + disk("vdb", f"file='{second}'"))
    source = found(xml, running=running)
    assert (source.name, source.kind, source.running, source.xml) == ("web01", kind, running, xml)
    assert source.disks == (
        Disk(target="vda", format="qcow2", path=str(first), size=SIZE),
        Disk(target="vdb", format="qcow2", path=str(second), size=SIZE),
    )
    assert source.domain is not None


def test_drives_and_what_cannot_be_cloned_are_left_out(tmp_path: Path) -> None:
    image = make_image(tmp_path / "a.qcow2")
    devices = disk("vda", f"file='{image}'")
    devices += disk("sda", "file='/x.iso'", attributes="type='file' device='cdrom'")
    devices += disk("vdb", "file='/x'", more="<shareable/>")
    devices += disk("sdb", "dev='/x'", attributes="type='block' device='lun'")
    devices += "<disk type='file' device='disk'><target dev='vdz'/></disk>"
    assert [d.target for d in found(guest(devices)).disks] == ["vda"]


def test_the_format_is_the_one_that_libvirt_states(tmp_path: Path) -> None:
    """A raw disk in which the guest wrote a qcow2 header stays a raw disk."""
    image = make_image(tmp_path / "a.qcow2")
    source = found(guest(disk("vda", f"file='{image}'").replace("'qcow2'", "'raw'")))
    sectors = -(-image.stat().st_size // 512)
    assert (source.disks[0].format, source.disks[0].size) == ("raw", sectors * 512)
    unstated = disk("vda", f"file='{image}'").replace("<driver name='qemu' type='qcow2'/>", "")
    assert found(guest(unstated)).disks[0].format == "raw"


@pytest.mark.parametrize(
    ("devices", "os", "words"),
    [
        ("", "<type>hvm</type>", "no disk that can be cloned"),
        (disk("vda", "file='/nonexistent.qcow2'"), "<type>hvm</type>", "is missing"),
        (
            disk("vda", "protocol='rbd' name='x'", attributes="type='network'"),
            "<type>hvm</type>",
            "on the network (rbd)",
        ),
    ],
)
def test_a_guest_that_cannot_be_rehearsed_is_rejected(devices: str, os: str, words: str) -> None:
    with pytest.raises(RequestError) as caught:
        found(guest(devices, os))
    assert words in caught.value.message
    assert caught.value.hint


def test_a_kernel_of_the_hosts_is_no_guests_kernel(tmp_path: Path) -> None:
    devices = disk("vda", f"file='{make_image(tmp_path / 'a.qcow2')}'")
    with pytest.raises(RequestError, match="boots a kernel from the host"):
        found(guest(devices, "<type>hvm</type><kernel>/boot/vmlinuz</kernel>"))


# -- guests of a Xen host ---------------------------------------------------------------------

PYGRUB = "<type machine='xenpv'>linux</type>"
PVGRUB = f"{PYGRUB}<kernel>/usr/lib/grub-xen/grub-x86_64-xen.bin</kernel>"
HOSTS = f"{PYGRUB}<kernel>/boot/vmlinuz-6.1</kernel>"


def on_xen(devices: str, os: str = PYGRUB, *, kernel: str = "linux-image-amd64") -> Source:
    hypervisor = FakeHypervisor(kind="xen")
    hypervisor.define(guest(devices, os), running=True)
    return guest_source(hypervisor, "web01", soon(), kernel=kernel)


def test_files_of_a_xen_guest_are_read_by_the_hosts_own_tools(tmp_path: Path) -> None:
    first, second = make_image(tmp_path / "a.qcow2"), make_image(tmp_path / "b c.raw", "raw")
    unstated = disk("xvdb", f"file='{second}'").replace("<driver name='qemu' type='qcow2'/>", "")
    source = on_xen(disk("xvda", f"file='{first}'") + unstated)
    assert source.disks == (
        Disk(target="xvda", format="qcow2", path=str(first), size=SIZE, store="file"),
        Disk(target="xvdb", format="raw", path=str(second), size=SIZE, store="file"),
    )


@pytest.mark.parametrize("os", [PYGRUB, PVGRUB])
def test_a_xen_guest_with_a_boot_loader_boots_its_own_kernel(tmp_path: Path, os: str) -> None:
    assert on_xen(disk("xvda", f"file='{make_image(tmp_path / 'a.qcow2')}'"), os).disks


def test_a_xen_guest_with_the_hosts_kernel_is_for_upgrades_without_one(tmp_path: Path) -> None:
    devices = disk("xvda", f"file='{make_image(tmp_path / 'a.qcow2')}'")
    with pytest.raises(RequestError, match=r"the host.s kernel /boot/vmlinuz-6\.1") as caught:
        on_xen(devices, HOSTS)
    assert "linux-image-amd64 would not be what runs" in caught.value.message
    assert "pvgrub" in caught.value.hint
    assert on_xen(devices, HOSTS, kernel="").disks


@pytest.mark.parametrize(
    ("devices", "words"),
    [
        (disk("xvda", "file='/nonexistent.qcow2'"), "cannot be read as qcow2"),
        (disk("xvda", "dev='/dev/vg0/x'", attributes="type='block'"), "a qcow2 image on a block"),
        (
            disk("xvda", "dev='/dev/zero'", attributes="type='block'").replace("qcow2", "raw"),
            "is no logical volume",
        ),
        (disk("xvda", "protocol='rbd'", attributes="type='network'"), "on the network (rbd)"),
    ],
)
def test_a_xen_guest_whose_disks_cannot_be_cloned_is_rejected(devices: str, words: str) -> None:
    with pytest.raises(RequestError) as caught:
        on_xen(devices)
    assert words in caught.value.message
    assert caught.value.hint


@pytest.fixture
def xl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Xen's own tool, which knows one guest, or none."""
    programs = tmp_path / "programs"
    programs.mkdir()
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")

    def knows(name: str) -> None:
        program = programs / "xl"
        program.write_text(f'#!/bin/sh\n[ "$1 $2" = "domid {name}" ] && echo 7\n')
        program.chmod(0o755)

    knows("nobody")
    return knows


def test_a_guest_that_xl_runs_behind_libvirts_back_is_rejected(
    tmp_path: Path, xl: Callable[[str], None]
) -> None:
    """Its disks are written to, whatever libvirt says."""
    hypervisor = FakeHypervisor(kind="xen")
    image = make_image(tmp_path / "a.qcow2")
    hypervisor.define(guest(disk("xvda", f"file='{image}'"), PYGRUB))
    assert guest_source(hypervisor, "web01", soon()).kind == "stopped guest"
    xl("web01")
    with pytest.raises(RequestError, match="off for libvirt, but xl runs it") as caught:
        guest_source(hypervisor, "web01", soon())
    assert "virsh start" in caught.value.hint


@pytest.mark.usefixtures("xl")
def test_a_xen_guests_files_are_proved_unchanged(tmp_path: Path) -> None:
    image = make_image(tmp_path / "a b.qcow2")
    hypervisor = FakeHypervisor(kind="xen")
    hypervisor.define(guest(disk("xvda", f"file='{image}'"), PYGRUB))
    source = guest_source(hypervisor, "web01", soon())
    before = vitals(hypervisor, source)
    assert [row[0] for row in before.files] == [str(image)]
    assert proofs(source, before, vitals(hypervisor, source))[1] == ""
    image.write_bytes(image.read_bytes() + b"x")
    assert "disk files changed" in proofs(source, before, vitals(hypervisor, source))[1]


# -- images -----------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_an_image_becomes_a_machine(tmp_path: Path, format: str) -> None:
    paths = [make_image(tmp_path / f"{n}.img", format) for n in range(3)]
    spec = ImageSpec(tuple((path, format) for path in paths))
    source = image_source(FakeHypervisor(), spec, soon())
    assert (source.name, source.kind, source.domain) == (str(paths[0]), "image", None)
    assert [d.target for d in source.disks] == ["vda", "vdb", "vdc"]
    assert {(d.format, d.size) for d in source.disks} == {(format, SIZE)}


@given(
    memory=st.integers(64 << 20, 1 << 40),
    cpus=st.integers(1, 64),
    firmware=st.sampled_from(["bios", "uefi"]),
    machine=st.sampled_from(["pc", "q35"]),
    disk_bus=st.sampled_from(["virtio", "sata", "scsi", "ide"]),
    nic=st.sampled_from(["virtio", "e1000"]),
)
def test_every_machine_is_one_that_libvirt_knows(
    memory: int, cpus: int, firmware: str, machine: str, disk_bus: str, nic: str
) -> None:
    spec = ImageSpec(((Path("/x"), "raw"),), memory, cpus, firmware, machine, disk_bus, nic)
    xml = image_xml(spec, [Disk(target="sda", format="raw", path="/x", size=SIZE)])
    clone = etree.fromstring(clone_xml(xml, spec_for(xml, accelerated=True)).xml)
    assert SCHEMA.validate(clone), SCHEMA.error_log.last_error
    assert (clone.get("type"), clone.findtext("./memory")) == ("kvm", str(memory >> 10))
    assert len(macs(xml)) == 1
    assert ("secure-boot" in xml) is (firmware == "uefi"), "or unsigned loaders would not boot"


@pytest.mark.parametrize("stated", FORMATS)
@pytest.mark.parametrize("real", FORMATS)
def test_a_lying_format_is_rejected(tmp_path: Path, stated: str, real: str) -> None:
    path = make_image(tmp_path / "x", real)
    spec = ImageSpec(((path, stated),))
    if stated == real:
        assert image_source(FakeHypervisor(), spec, soon()).disks[0].size == SIZE
        return
    with pytest.raises(RequestError) as caught:
        image_source(FakeHypervisor(), spec, soon())
    assert str(path) in caught.value.message
    assert "state the format that it has" in caught.value.hint


def test_an_image_on_an_unstated_base_is_rejected(tmp_path: Path) -> None:
    """QEMU would probe what the guest wrote there."""
    base, top = make_image(tmp_path / "base"), make_image(tmp_path / "top")
    run(["qemu-img", "rebase", "-q", "-u", "-F", "raw", "-b", str(base), str(top)], soon())
    assert image_source(FakeHypervisor(), ImageSpec(((top, "qcow2"),)), soon())
    header = top.read_bytes()
    # The header extension with the base's format (0xE2792ACA) becomes one that is not known.
    top.write_bytes(header.replace(bytes.fromhex("e2792aca"), bytes.fromhex("00112233"), 1))
    with pytest.raises(RequestError, match="without stating that file's format"):
        image_source(FakeHypervisor(), ImageSpec(((top, "qcow2"),)), soon())


@pytest.mark.parametrize("path", ["/nonexistent", "/etc"])
def test_no_image(path: str) -> None:
    with pytest.raises(RequestError, match="no disk image"):
        image_source(FakeHypervisor(), ImageSpec(((Path(path), "raw"),)), soon())


def test_a_running_guests_disk_is_not_read_past_that_guest(tmp_path: Path) -> None:
    path, link = make_image(tmp_path / "a.qcow2"), tmp_path / "link"
    link.symlink_to(path)
    hypervisor = FakeHypervisor()
    domain = hypervisor.define(guest(disk("vda", f"file='{link}'")), running=True)
    spec = ImageSpec(((path, "qcow2"),))
    with pytest.raises(RequestError, match="running guest 'web01'") as caught:
        image_source(hypervisor, spec, soon())
    assert "--guest web01" in caught.value.hint
    domain.state = "off"
    assert image_source(hypervisor, spec, soon()).kind == "image"


# -- proofs -----------------------------------------------------------------------------------


def same(vitals_: Vitals) -> Vitals:
    return vitals_


BEFORE = Vitals(True, "<domain/>", ("/a",), "7", 10.0, (("/a", 1, 2, 3),))
RUNNING = Source("web01", "running guest", "<domain/>", ())


def stopped(value: Vitals) -> Vitals:
    return replace(value, running=False, instance="")


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("running guest", same, ""),
        ("running guest", lambda v: replace(v, cpu_seconds=12.5, files=()), ""),
        ("running guest", stopped, "was stopped"),
        ("running guest", lambda v: replace(v, instance="8"), "was restarted"),
        ("running guest", lambda v: replace(v, xml="<x/>"), "configuration changed"),
        ("running guest", lambda v: replace(v, chain=("/b",)), "disk chain changed"),
        ("stopped guest", same, ""),
        ("stopped guest", lambda v: replace(v, running=True), "was started"),
        ("stopped guest", lambda v: replace(v, files=(("/a", 1, 9, 3),)), "disk files changed"),
        ("stopped guest", lambda v: replace(v, xml="<x/>"), "configuration changed"),
        ("image", same, ""),
        ("image", lambda v: replace(v, files=()), "disk files changed"),
    ],
)
def test_whatever_changed_is_said(
    kind: str, change: Callable[[Vitals], Vitals], words: str
) -> None:
    before = BEFORE if kind == "running guest" else stopped(BEFORE)
    kept, changed = proofs(replace(RUNNING, kind=kind), before, change(before))
    assert words in changed
    assert bool(kept) is not bool(changed)


def test_what_a_running_source_did_meanwhile_is_told() -> None:
    kept, _ = proofs(RUNNING, BEFORE, replace(BEFORE, cpu_seconds=12.5))
    assert "ran on: same instance, 2.5 s of CPU time used meanwhile" in kept


@pytest.mark.parametrize(
    "touch",
    [
        lambda path: path.write_bytes(b"x" + path.read_bytes()[1:]),
        lambda path: path.write_bytes(path.read_bytes() + b"x"),
        lambda path: path.rename(path.with_suffix(".old")) and make_image(path),
        lambda path: path.unlink(),
    ],
)
def test_any_write_to_a_file_is_noticed(tmp_path: Path, touch: Callable[[Path], object]) -> None:
    path = make_image(tmp_path / "a.qcow2")
    source = image_source(FakeHypervisor(), ImageSpec(((path, "qcow2"),)), soon())
    before = vitals(FakeHypervisor(), source)
    path.read_bytes()
    assert vitals(FakeHypervisor(), source) == before, "reading is no change"
    touch(path)
    assert proofs(source, before, vitals(FakeHypervisor(), source))[1]
