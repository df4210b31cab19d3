"""What every hypervisor driver keeps to, the real one and the fake alike."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from lxml import etree

from sandbox.core.deadline import Deadline
from sandbox.core.errors import DeadlineExceeded, HostError, RequestError
from sandbox.core.records import Disk
from sandbox.hosts.drivers import driver_for
from sandbox.hosts.drivers.clone_xml import CloneDisk, CloneSpec, clone_xml
from sandbox.hosts.drivers.libvirt_qemu import LibvirtQemu
from sandbox.hosts.source import ImageSpec, image_xml
from tests.support.guests.small_disks import make_image
from tests.support.hosts.labs import DISK_SIZE, Lab, LibvirtLab, ThisRun, new_run
from tests.support.paths import GOLDEN

NVRAM = Path("/var/lib/libvirt/qemu/nvram")


# -- guests -----------------------------------------------------------------------------------


@pytest.mark.parametrize("running", [True, False])
def test_a_guest_is_found_by_name(lab: Lab, running: bool) -> None:
    name = lab.guest(running=running)
    found = lab.hypervisor.lookup(name)
    root = etree.fromstring(found.xml.encode())
    assert (found.name, found.running) == (name, running)
    assert root.findtext("./name") == name
    assert root.findtext("./uuid") == found.uuid
    assert name in lab.hypervisor.guests()


def test_an_unknown_guest_is_a_wrong_request_that_names_the_nearest(lab: Lab) -> None:
    name = lab.guest(running=False)
    with pytest.raises(RequestError) as caught:
        lab.hypervisor.lookup(name + "x")
    assert repr(name + "x") in caught.value.message
    assert lab.hypervisor.uri.partition("?")[0] in caught.value.message
    assert f"did you mean {name!r}?" in caught.value.hint


@pytest.mark.parametrize("name", ["", "a'b", 'a"b', "../../etc", "a\nb", "<x/>", "; reboot", "ä"])
def test_a_hostile_name_is_an_unknown_guest(lab: Lab, name: str) -> None:
    with pytest.raises(RequestError):
        lab.hypervisor.lookup(name)


def test_a_clone_of_ours_is_no_guest(lab: Lab, this_run: ThisRun, deadline: Deadline) -> None:
    lab.hypervisor.start(lab.clone_xml(this_run), deadline)
    assert this_run.domain not in lab.hypervisor.guests()
    with pytest.raises(RequestError, match="clone of ours"):
        lab.hypervisor.lookup(this_run.domain)


def test_vitals_stay_while_nothing_happens_and_change_with_a_restart(lab: Lab) -> None:
    name = lab.guest(running=True, disks=(make_image(lab.folder / "a.qcow2", "qcow2"),))
    source = lab.hypervisor.lookup(name)
    first, second = lab.hypervisor.vitals(source), lab.hypervisor.vitals(source)
    assert replace(first, cpu_seconds=0) == replace(second, cpu_seconds=0)
    assert second.cpu_seconds >= first.cpu_seconds
    assert first.running
    assert first.chain == (str(lab.folder / "a.qcow2"),)
    lab.restart(name)
    assert lab.hypervisor.vitals(source).instance != first.instance
    lab.power_off(name)
    off = lab.hypervisor.vitals(source)
    assert (off.running, off.instance) == (False, "")


# -- our domains ------------------------------------------------------------------------------


def test_a_domain_lives_from_start_to_destroy(
    lab: Lab, this_run: ThisRun, deadline: Deadline
) -> None:
    assert lab.hypervisor.state(this_run.domain) == "off"
    lab.hypervisor.start(lab.clone_xml(this_run), deadline)
    assert lab.hypervisor.state(this_run.domain) == "running"
    assert (this_run.domain, this_run.mark) in lab.hypervisor.marked_domains()
    assert lab.hypervisor.destroy(this_run.domain, this_run.id) is True
    assert lab.hypervisor.state(this_run.domain) == "off"
    assert not lab.exists(this_run.domain)
    assert lab.hypervisor.destroy(this_run.domain, this_run.id) is False


def test_the_same_domain_cannot_be_started_twice(
    lab: Lab, this_run: ThisRun, deadline: Deadline
) -> None:
    lab.hypervisor.start(lab.clone_xml(this_run), deadline)
    with pytest.raises(HostError):
        lab.hypervisor.start(lab.clone_xml(this_run), deadline)
    assert lab.hypervisor.state(this_run.domain) == "running"


def test_nothing_is_started_after_the_deadline(lab: Lab, this_run: ThisRun) -> None:
    with pytest.raises(DeadlineExceeded):
        lab.hypervisor.start(lab.clone_xml(this_run), Deadline(0, "clone"))
    assert not lab.exists(this_run.domain)


def test_a_domain_that_powers_off_is_off_and_leaves_nothing(
    lab: Lab, this_run: ThisRun, deadline: Deadline
) -> None:
    lab.hypervisor.start(lab.clone_xml(this_run), deadline)
    lab.power_off(this_run.domain)
    assert lab.hypervisor.state(this_run.domain) == "off"
    assert not lab.exists(this_run.domain)
    assert lab.hypervisor.destroy(this_run.domain, this_run.id) is False


def test_a_paused_domain_is_paused(lab: Lab, this_run: ThisRun, deadline: Deadline) -> None:
    lab.hypervisor.start(lab.clone_xml(this_run), deadline)
    lab.pause(this_run.domain)
    assert lab.hypervisor.state(this_run.domain) == "paused"


@pytest.mark.parametrize("running", [True, False])
def test_a_guest_is_never_destroyed(lab: Lab, this_run: ThisRun, running: bool) -> None:
    name = lab.guest(running=running)
    with pytest.raises(HostError, match="does not carry the mark"):
        lab.hypervisor.destroy(name, this_run.id)
    assert lab.hypervisor.lookup(name).running is running


def test_the_domain_of_another_run_is_never_destroyed(
    lab: Lab, this_run: ThisRun, deadline: Deadline
) -> None:
    lab.hypervisor.start(lab.clone_xml(this_run), deadline)
    with pytest.raises(HostError, match="does not carry the mark"):
        lab.hypervisor.destroy(this_run.domain, new_run().id)
    assert lab.hypervisor.state(this_run.domain) == "running"


def test_a_screen_is_a_png_and_a_domain_that_is_gone_has_none(
    qemu_lab: Lab, this_run: ThisRun, deadline: Deadline
) -> None:
    assert qemu_lab.hypervisor.screenshot(this_run.domain) is None
    qemu_lab.hypervisor.start(qemu_lab.clone_xml(this_run), deadline)
    picture = qemu_lab.hypervisor.screenshot(this_run.domain)
    if isinstance(qemu_lab, LibvirtLab):
        assert picture is not None
    assert picture is None or picture.startswith(b"\x89PNG")


# -- networks ---------------------------------------------------------------------------------


def test_a_network_lives_from_create_to_destroy(lab: Lab, this_run: ThisRun) -> None:
    name = this_run.network.name
    lab.hypervisor.create_network(this_run.network_xml())
    assert lab.network_exists(name)
    assert (name, this_run.mark) in lab.hypervisor.marked_networks()
    assert lab.hypervisor.leases(name) == ()
    assert lab.hypervisor.destroy_network(name, this_run.id) is True
    assert not lab.network_exists(name)
    assert lab.hypervisor.destroy_network(name, this_run.id) is False
    assert lab.hypervisor.leases(name) == ()


def test_a_taken_subnet_is_said_to_be_in_use(qemu_lab: Lab, this_run: ThisRun) -> None:
    """:func:`sandbox.network.isolation.create` goes on to the next one because of these words."""
    other = new_run()
    qemu_lab.hypervisor.create_network(this_run.network_xml())
    with pytest.raises(HostError, match="in use"):
        qemu_lab.hypervisor.create_network(other.network_xml(this_run.subnet))
    assert not qemu_lab.network_exists(other.network.name)


def test_a_foreign_network_is_never_destroyed(lab: Lab, this_run: ThisRun) -> None:
    name = lab.foreign_network()
    with pytest.raises(HostError, match="does not carry the mark"):
        lab.hypervisor.destroy_network(name, this_run.id)
    assert lab.network_exists(name)
    assert name not in {marked for marked, _mark in lab.hypervisor.marked_networks()}


# -- exports ----------------------------------------------------------------------------------


def disks_of(lab: Lab) -> tuple[Disk, ...]:
    paths = [make_image(lab.folder / f"{n}.qcow2", "qcow2") for n in range(2)]
    return tuple(
        Disk(target=f"hd{letter}", format="qcow2", path=str(path), size=DISK_SIZE)
        for letter, path in zip("ab", paths, strict=True)
    )


def test_an_export_lasts_until_it_is_ended(qemu_lab: Lab, deadline: Deadline) -> None:
    disks = disks_of(qemu_lab)
    name = qemu_lab.guest(running=True, disks=tuple(Path(disk.path) for disk in disks))
    source, place = qemu_lab.hypervisor.lookup(name), qemu_lab.folder / "run"
    place.mkdir(mode=0o711)
    before = qemu_lab.hypervisor.vitals(source)
    assert qemu_lab.hypervisor.export_in_use(source) == ""
    exports = qemu_lab.hypervisor.export_running(source, disks, place, deadline)
    assert [(e.target, e.size) for e in exports] == [("hda", DISK_SIZE), ("hdb", DISK_SIZE)]
    assert all(e.socket.is_relative_to(place) for e in exports)
    assert exports[0].socket.parent.stat().st_mode & 0o777 == 0o700, "others could read the disks"
    assert name in qemu_lab.hypervisor.export_in_use(source)
    assert qemu_lab.hypervisor.end_export(name, qemu_lab.folder / "other-run") is False
    assert qemu_lab.hypervisor.export_in_use(source), "another run's export was ended"
    assert qemu_lab.hypervisor.end_export(name, place) is True
    assert qemu_lab.hypervisor.end_export(name, place) is False
    assert qemu_lab.hypervisor.export_in_use(source) == ""
    after = qemu_lab.hypervisor.vitals(source)
    assert replace(after, cpu_seconds=0) == replace(before, cpu_seconds=0)


def test_one_export_of_a_guest_at_a_time(qemu_lab: Lab, deadline: Deadline) -> None:
    disks = disks_of(qemu_lab)
    name = qemu_lab.guest(running=True, disks=tuple(Path(disk.path) for disk in disks))
    source = qemu_lab.hypervisor.lookup(name)
    for run in ("first", "second"):
        (qemu_lab.folder / run).mkdir(mode=0o711)
    qemu_lab.hypervisor.export_running(source, disks, qemu_lab.folder / "first", deadline)
    with pytest.raises(HostError, match=name):
        qemu_lab.hypervisor.export_running(source, disks, qemu_lab.folder / "second", deadline)
    assert qemu_lab.hypervisor.end_export(name, qemu_lab.folder / "second") is False
    assert qemu_lab.hypervisor.end_export(name, qemu_lab.folder / "first") is True


def test_a_guest_that_is_off_cannot_be_exported_as_a_running_one(
    qemu_lab: Lab, deadline: Deadline
) -> None:
    disks = disks_of(qemu_lab)
    name = qemu_lab.guest(running=False, disks=tuple(Path(disk.path) for disk in disks))
    source = qemu_lab.hypervisor.lookup(name)
    (qemu_lab.folder / "run").mkdir(mode=0o711)
    with pytest.raises(HostError):
        qemu_lab.hypervisor.export_running(source, disks, qemu_lab.folder / "run", deadline)
    assert qemu_lab.hypervisor.end_export(name, qemu_lab.folder / "run") is False
    assert qemu_lab.hypervisor.end_export("sbtest-nobody", qemu_lab.folder / "run") is False


def test_facts_of_the_host(lab: Lab) -> None:
    assert lab.hypervisor.free_memory() > 1 << 20
    assert lab.hypervisor.version()


# -- the real driver alone --------------------------------------------------------------------


def test_a_daemon_that_is_not_there_is_the_hosts_fault() -> None:
    uri = "qemu+unix:///system?socket=/nonexistent/libvirt-sock"
    with pytest.raises(HostError, match="cannot connect") as caught:
        driver_for(uri, Deadline(10, "connecting"))
    assert "start it" in caught.value.hint


def test_a_daemon_that_never_answers_costs_the_deadline_only(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(folder / "s"))
        silent.listen()
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            LibvirtQemu.connect(
                f"qemu+unix:///system?socket={folder / 's'}", Deadline(0.5, "connecting")
            )
        assert time.monotonic() - started < 3


@pytest.mark.parametrize("uri", ["qemu+ssh://root@h/system", "", "test:///default", "/etc/passwd"])
def test_a_uri_without_a_driver_is_a_wrong_request(uri: str) -> None:
    with pytest.raises(RequestError, match="no driver"):
        driver_for(uri, Deadline(5, "connecting"))


def clone_spec(targets: Sequence[str], run: ThisRun, folder: Path) -> CloneSpec:
    """As clone.py makes it, with empty overlays."""
    return CloneSpec(
        name=run.domain,
        mark=run.mark,
        disks=tuple(CloneDisk(t, make_image(folder / f"{t}.qcow2", "qcow2")) for t in targets),
        bridge=run.network.bridge,
        console_log=folder / "console.log",
        accelerated=False,
        nvram=folder / "nvram.fd",
        memory=128 << 20,
    )


def variables_of(run: ThisRun) -> list[Path]:
    """UEFI variables in libvirt's own folder, where nobody would ever remove them."""
    return list(NVRAM.glob(f"*{run.id}*"))


def golden_targets(name: str) -> list[str]:
    """The disks that its golden clone has."""
    root = etree.parse(GOLDEN / f"clone-{name}.clone.xml").getroot()
    targets = root.iterfind("./devices/disk[@device='disk']/target")
    return [str(target.get("dev")) for target in targets]


def own_firmware(xml: str, folder: Path) -> str:
    """The same machine with firmware of the test's, so that no OVMF need be installed."""
    root = etree.fromstring(xml.encode())
    for part, name in (("loader", "code.fd"), ("nvram", "vars.fd")):
        for element in root.findall(f"./os/{part}"):
            (folder / name).write_bytes(bytes(2 << 20))
            if part == "loader":
                element.text = str(folder / name)
                element.attrib.pop("secure", "")
            else:
                element.set("template", str(folder / name))
    return etree.tostring(root).decode()


@pytest.mark.parametrize("name", ["bios", "uefi", "hostile", "windows", "nics"])
def test_qemu_starts_the_clones_of_realistic_guests(
    libvirt_lab: LibvirtLab, this_run: ThisRun, folder: Path, deadline: Deadline, name: str
) -> None:
    xml = own_firmware((GOLDEN / f"clone-{name}.source.xml").read_text(), folder)
    libvirt_lab.hypervisor.create_network(this_run.network_xml())
    derived = clone_xml(xml, clone_spec(golden_targets(name), this_run, folder))
    libvirt_lab.hypervisor.start(derived.xml, deadline)
    assert libvirt_lab.hypervisor.state(this_run.domain) == "running"
    assert libvirt_lab.hypervisor.destroy(this_run.domain, this_run.id)
    assert not variables_of(this_run), "UEFI variables were left behind"


@pytest.mark.parametrize(
    ("machine", "disk_bus", "nic"),
    [
        ("pc", "virtio", "virtio"),
        ("pc", "ide", "e1000"),
        ("pc", "scsi", "virtio"),
        ("pc", "sata", "virtio"),
        ("q35", "virtio", "e1000"),
        ("q35", "sata", "virtio"),
        ("q35", "scsi", "virtio"),
    ],
)
def test_qemu_starts_the_machines_made_for_images(
    libvirt_lab: LibvirtLab,
    this_run: ThisRun,
    folder: Path,
    deadline: Deadline,
    machine: str,
    disk_bus: str,
    nic: str,
) -> None:
    spec = ImageSpec(((Path("/x"), "raw"),), machine=machine, disk_bus=disk_bus, nic=nic)
    target = {"virtio": "vda", "ide": "hda"}.get(disk_bus, "sda")
    xml = image_xml(spec, [Disk(target=target, format="raw", path="/x", size=DISK_SIZE)])
    libvirt_lab.hypervisor.create_network(this_run.network_xml())
    derived = clone_xml(xml, clone_spec([target], this_run, folder))
    libvirt_lab.hypervisor.start(derived.xml, deadline)
    assert libvirt_lab.hypervisor.state(this_run.domain) == "running"


@pytest.mark.parametrize("machine", ["pc", "q35"])
def test_uefi_images_boot_unsigned_loaders_and_leave_no_variables(
    libvirt_lab: LibvirtLab, this_run: ThisRun, folder: Path, deadline: Deadline, machine: str
) -> None:
    spec = ImageSpec(((Path("/x"), "raw"),), machine=machine, firmware="uefi")
    xml = image_xml(spec, [Disk(target="vda", format="raw", path="/x", size=DISK_SIZE)])
    libvirt_lab.hypervisor.create_network(this_run.network_xml())
    derived = clone_xml(xml, clone_spec(["vda"], this_run, folder))
    libvirt_lab.hypervisor.start(derived.xml, deadline)
    loader = etree.fromstring(libvirt_lab.connection.lookupByName(this_run.domain).XMLDesc(0)).find(
        "./os/loader"
    )
    assert loader is not None
    assert loader.get("secure") != "yes"
    assert libvirt_lab.hypervisor.destroy(this_run.domain, this_run.id)
    assert (folder / "nvram.fd").exists()
    assert not variables_of(this_run)


def test_what_qemu_refuses_is_explained(
    libvirt_lab: LibvirtLab, this_run: ThisRun, folder: Path, deadline: Deadline
) -> None:
    """A bridge that is not there: libvirt's own words reach the person."""
    xml = (GOLDEN / "clone-nics.source.xml").read_text()
    derived = clone_xml(xml, clone_spec(["vda"], this_run, folder))
    with pytest.raises(HostError, match="cannot be started") as caught:
        libvirt_lab.hypervisor.start(derived.xml, deadline)
    assert this_run.network.bridge in caught.value.message
    assert "sandbox doctor" in caught.value.hint
