"""The clone's XML on Xen: golden cases, and for any mixture of devices nothing of production in it.

As in test_clone_xml.py, all of production is named ``leak…`` or carries a UUID that begins with
``1eaa1eaa``. ``python -m tests.unit.test_xen_xml`` writes the golden files anew; read the
difference before committing it.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from sandbox.hosts.drivers.clone_xml import CloneDisk, CloneSpec, CloneXml, disk_problem, macs
from sandbox.hosts.drivers.marks import read_mark
from sandbox.hosts.drivers.xen_xml import BootChain, boot_chain, xen_clone_xml
from tests.support.fakes.clone_samples import DEVICES, SINGLE, TOP_LEVEL, kind_or_all
from tests.unit.test_clone_xml import GOLDEN, MARK, SCHEMA, is_accounted_for, values

# name, memory that was asked for, what the boot chain is
CASES = (
    ("pv-pygrub", None, BootChain("pv", "pygrub", True)),
    ("pv-pvgrub", None, BootChain("pv", "pvgrub", True)),
    (
        "pv-kernel",
        None,
        BootChain("pv", "the host's kernel /srv/kernels/vmlinuz-6.1.0-9-amd64", False),
    ),
    ("pvh-pvgrub", 1 << 30, BootChain("pvh", "pvgrub", True)),
    ("pvh-pygrub", None, BootChain("pvh", "pygrub", True)),
    ("hvm", None, BootChain("hvm", "its disk's boot loader", True)),
)
NAMES = tuple(name for name, _memory, _chain in CASES)
PLACE = Path("/srv/images/.upgrade-sandbox/20260102-030405-abcdef")


def source(name: str) -> str:
    return (GOLDEN / f"xen-{name}.source.xml").read_text()


def spec_for(xml: str, memory: int | None = None) -> CloneSpec:
    """What clone.py would ask for: a snapshot of each volume, an overlay or a copy of each file."""
    disks = []
    for device in etree.fromstring(xml.encode()).iterfind("./devices/disk"):
        kind, target = device.get("type"), values(device, "./target/@dev")[0]
        if device.get("device", "disk") != "disk" or disk_problem(device):
            continue
        if kind == "block":
            disks.append(CloneDisk(target, Path(f"/dev/vg0/sbabcdef-{target}"), "block"))
        elif kind == "file":
            format = "".join(values(device, "./driver/@type")) or "raw"
            disks.append(CloneDisk(target, PLACE / f"{target}.{format}", format))
    return CloneSpec(
        name=f"sandbox-{MARK.run}",
        mark=MARK,
        disks=tuple(disks),
        bridge="sbabcdef",
        console_log=Path("/nowhere/console.log"),
        accelerated=True,
        nvram=Path("/nowhere/nvram.fd"),
        memory=memory,
    )


def derive(xml: str, **changes: object) -> CloneXml:
    return xen_clone_xml(xml, replace(spec_for(xml), **changes))  # type: ignore[arg-type]


def golden_text(name: str, memory: int | None) -> str:
    xml = source(name)
    derived = xen_clone_xml(xml, spec_for(xml, memory))
    lines = [f"dropped: {line}" for line in derived.dropped]
    lines += [f"changed: {line}" for line in derived.changed]
    return f"{derived.xml}\n<!--\n" + "\n".join(lines) + "\n-->\n"


def assert_fit_for_xen(source_xml: str, derived: CloneXml) -> None:
    """What holds for every clone, whatever its source looks like."""
    assert "leak" not in derived.xml.lower()
    assert "1eaa1eaa" not in derived.xml
    assert "192.0.2.7" not in derived.xml
    clone = etree.fromstring(derived.xml.encode())
    assert SCHEMA.validate(clone), SCHEMA.error_log.last_error
    assert clone.get("type") == "xen"
    assert clone.find(".//emulator") is None, "Debian's libvirt names one that does not exist"
    for device in ("hostdev", "filesystem", "channel", "redirdev", "shmem", "vsock", "tpm"):
        assert clone.find(f"./devices/{device}") is None
    assert clone.find("./devices/graphics") is None
    assert clone.findtext("./memory") == clone.findtext("./currentMemory")
    hvm = values(clone, "./os/type/text()") == ["hvm"]
    assert len(clone.findall("./devices/serial")) == hvm, "two crash libvirtd 9.0"
    assert len(clone.findall("./devices/console")) == 1
    for disk in clone.iterfind("./devices/disk"):
        assert_driver_is_stated(disk)
    assert set(values(clone, "./devices/interface/@type")) <= {"bridge"}
    assert set(values(clone, "./devices/interface/source/@*")) <= {"sbabcdef"}
    vifs = values(clone, "./devices/interface/target/@dev")
    assert vifs == [f"sbabcdef-{n}" for n in range(len(vifs))], "the gate knows them by that name"
    assert all(len(f"{vif}-emu") <= 15 for vif in vifs), "no name of an interface may be longer"
    assert set(macs(derived.xml)) <= set(macs(source_xml))
    assert read_mark(derived.xml) == MARK
    assert values(clone, "./on_reboot/text()") == ["restart"]
    assert values(clone, "./on_crash/text()") == ["preserve"]


def assert_driver_is_stated(disk: etree._Element) -> None:
    """Without a driver's name libxl reads a qcow2 file as a raw one."""
    name, kind = values(disk, "./driver/@name"), values(disk, "./driver/@type")
    places = values(disk, "./source/@*")
    if disk.get("type") == "block":
        assert (name, kind) == (["phy"], [])
        assert places[0].startswith("/dev/vg0/sb")
    else:
        assert (name, len(kind)) == (["qemu"], 1)
        assert places == [] or places[0].endswith(f".{kind[0]}")


@pytest.mark.parametrize(("name", "memory", "chain"), CASES)
def test_golden(name: str, memory: int | None, chain: BootChain) -> None:
    xml = source(name)
    assert SCHEMA.validate(etree.fromstring(xml.encode())), "the source is not realistic"
    assert boot_chain(xml) == chain
    expected = (GOLDEN / f"xen-{name}.clone.xml").read_text()
    assert golden_text(name, memory) == expected
    assert_fit_for_xen(xml, derive(xml, memory=memory))


@pytest.mark.parametrize("name", NAMES)
def test_a_clone_boots_by_the_same_chain(name: str) -> None:
    """Its new kernel is what a rehearsal is for; where it is the host's, that one and no other."""
    xml = source(name)
    clone = derive(xml).xml
    assert boot_chain(clone) == boot_chain(xml)
    for path in ("./os/type/@machine", "./os/kernel/text()", "./os/initrd/text()"):
        assert values(clone, path) == values(xml, path)
    for path in ("./bootloader/text()", "./bootloader_args/text()", "./os/cmdline/text()"):
        assert values(clone, path) == values(xml, path)


# -- any mixture of devices -------------------------------------------------------------------

XEN_DEVICES = (
    "<disk type='block' device='disk'><driver name='phy' cache='none'/>"
    "<source dev='/dev/vg0/leak{n}'/><target dev='xvd{letter}' bus='xen'/></disk>",
    "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source "
    "file='/srv/leak/{n}.qcow2'/><target dev='xvd{letter}' bus='xen'/><readonly/></disk>",
    "<disk type='file' device='disk'><source file='/srv/leak/{n}.raw'/>"
    "<target dev='xvd{letter}1' bus='xen'/></disk>",
    "<disk type='file' device='floppy'><driver name='qemu' type='raw'/>"
    "<source file='/srv/leak/{n}.img'/><target dev='fd{letter}' bus='fdc'/></disk>",
    "<interface type='bridge'><mac address='00:16:3e:1e:00:{n:02x}'/><source bridge='leakbr0'/>"
    "<script path='/etc/xen/scripts/vif-leak'/><target dev='leakvif{n}.0'/>"
    "<model type='netfront'/></interface>",
    "<interface type='hostdev' managed='yes'><mac address='00:16:3e:1e:00:{n:02x}'/><source>"
    "<address type='pci' domain='0x0000' bus='0x65' slot='0x10' function='0x0'/></source>"
    "</interface>",
    "<controller type='xenbus' index='{n}' maxGrantFrames='64' maxEventChannels='2047'/>",
    "<hostdev mode='subsystem' type='pci' managed='yes'><driver name='xen'/><source>"
    "<address domain='0x0000' bus='0x65' slot='0x00' function='0x0'/></source></hostdev>",
    "<hostdev mode='subsystem' type='usb'><source><vendor id='0x1eaa'/><product id='0x1eaa'/>"
    "</source></hostdev>",
    "<channel type='pty'><source path='/dev/pts/leak'/><target type='xen' name='org.leak'/>"
    "</channel>",
    "<input type='mouse' bus='xen'/>",
    "<graphics type='vnc' port='59{n:02d}' autoport='no' listen='192.0.2.7' passwd='leak'/>",
    "<video><model type='vga' vram='8192' heads='1'>"
    "<acceleration accel3d='yes' rendernode='/dev/dri/leak'/></model></video>",
)
XEN_OS = (
    "<os><type arch='x86_64' machine='xenpv'>linux</type></os>",
    "<bootloader>pygrub</bootloader><os><type arch='x86_64' machine='xenpvh'>xenpvh</type></os>",
    "<os><type arch='x86_64' machine='xenpv'>linux</type><kernel>/boot/vmlinuz</kernel>"
    "<initrd>/boot/initrd.img</initrd><root>/dev/xvda1</root></os>",
    "<os><type arch='x86_64' machine='xenfv'>hvm</type>"
    "<nvram template='/srv/leak/template.fd'>/srv/leak/vars.fd</nvram><boot dev='hd'/></os>",
    "<os><type arch='x86_64' machine='xenfv'>hvm</type><boot dev='hd'/>"
    "<acpi><table type='slic'>/srv/leak/slic</table></acpi><smbios mode='host'/></os>",
)
MANY = [d for d in (*DEVICES, *XEN_DEVICES) if not d.startswith(SINGLE)]


@st.composite
def xen_domains(draw: st.DrawFn) -> str:
    devices = draw(st.lists(st.sampled_from(MANY), max_size=14))
    single = st.sampled_from([d for d in DEVICES if d.startswith(SINGLE)])
    devices += draw(st.lists(single, unique_by=kind_or_all, max_size=3))
    # The boot chain is the source's own on purpose: a boot loader is no leak here.
    rest = st.sampled_from([text for text in TOP_LEVEL if not text.startswith("<bootloader>")])
    around = "".join(draw(st.lists(rest, unique=True, max_size=4)))
    filled = [d.format(n=n, letter=chr(ord("a") + n)) for n, d in enumerate(devices)]
    return (
        "<domain type='xen' id='3'><name>leak</name>"
        "<uuid>1eaa1eaa-000a-4000-8000-00000000aaaa</uuid><memory unit='KiB'>524288</memory>"
        f"<currentMemory unit='KiB'>262144</currentMemory><vcpu>1</vcpu>"
        f"{draw(st.sampled_from(XEN_OS))}{around}<devices><emulator>/srv/leak/qemu</emulator>"
        f"{''.join(filled)}</devices></domain>"
    )


@settings(max_examples=300, deadline=None)
@given(xml=xen_domains(), memory=st.sampled_from([None, 256 << 20]))
def test_any_mixture_leads_nowhere_and_is_accounted_for(xml: str, memory: int | None) -> None:
    derived = derive(xml, memory=memory)
    assert_fit_for_xen(xml, derived)
    dropped = "\n".join(derived.dropped)
    for device in etree.fromstring(xml.encode()).iterfind("./devices/*"):
        # The host's side of what the guest has, and what libvirt adds to every Xen domain.
        silent = device.tag in ("emulator", "serial", "console", "memballoon", "controller")
        on_xen = device.tag == "input" and device.get("bus") == "xen"
        card = device.find("./mac") if device.get("type") == "hostdev" else None
        named = card is not None and f"{card.get('address')}: is hardware" in dropped
        accounted = named or is_accounted_for(device, derived.xml, dropped)
        assert silent or on_xen or accounted, device.tag


@settings(max_examples=100, deadline=None)
@given(xml=xen_domains())
def test_every_path_in_a_clone_is_ours_or_of_its_boot_chain(xml: str) -> None:
    clone = etree.fromstring(derive(xml).xml.encode())
    text = [*values(clone, "//@*"), *values(clone, "//text()")]
    paths = {word for word in text if re.match(r"\s*/", word)}
    made = {str(disk.overlay) for disk in spec_for(xml).disks}
    chain = {"/boot/vmlinuz", "/boot/initrd.img", "/dev/xvda1"}
    assert paths <= made | chain


# -- what boots -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kernel", "own"),
    [
        ("/usr/lib/grub-xen/grub-x86_64-xen.bin", True),
        ("/usr/lib/grub-xen/grub-i386-xen_pvh.bin", True),
        ("/usr/lib/grub-xen/grub-i386-xen.bin", True),
        ("/usr/lib/xen-4.17/boot/pv-grub-x86_64.gz", True),
        ("/usr/local/lib/xen/boot/pvgrub64", True),
        ("/usr/share/grub2/x86_64-xen/grub.xen", True),
        (" /usr/lib/grub-xen/grub-x86_64-xen.bin\n", True),
        ("/boot/vmlinuz-6.1.0-9-amd64", False),
        ("/srv/pvgrub/vmlinuz", False),
        ("/srv/grub-x86_64-xen.bin/vmlinuz", False),
        ("/srv/notpvgrub", False),
        ("/srv/xgrub.xen", False),
    ],
)
def test_a_kernel_of_the_hosts_is_told_from_a_boot_loader(kernel: str, own: bool) -> None:
    xml = domain(os=f"<type machine='xenpv'>linux</type><kernel>{kernel}</kernel>")
    assert boot_chain(xml).own_kernel is own
    assert values(derive(xml).xml, "./os/kernel/text()") == [kernel]


@pytest.mark.parametrize(
    ("os", "around", "chain"),
    [
        # libvirt's own rule, for guests made in the days of xm.
        ("<type>linux</type>", "", BootChain("pv", "pygrub", True)),
        # libxl runs the boot loader, which takes the kernel's path for one in the guest.
        (
            "<type>linux</type><kernel>/boot/vmlinuz</kernel>",
            "<bootloader>/usr/lib/xen-4.17/bin/pygrub</bootloader>",
            BootChain("pv", "pygrub", True),
        ),
        (
            "<type machine='xenfv'>hvm</type><kernel>/boot/vmlinuz</kernel>",
            "<bootloader>pygrub</bootloader>",
            BootChain("hvm", "the host's kernel /boot/vmlinuz", False),
        ),
        ("<type machine='xenpvh'>xenpvh</type>", "", BootChain("pvh", "nothing known", False)),
    ],
)
def test_what_boots_where_little_or_much_is_said(os: str, around: str, chain: BootChain) -> None:
    assert boot_chain(domain(os=os, rest=around)) == chain


# -- what the guest notices -------------------------------------------------------------------


def domain(
    *, os: str = "<type machine='xenpv'>linux</type>", rest: str = "", devices: str = ""
) -> str:
    return (
        f"<domain type='xen'><name>x</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>{rest}"
        f"<os>{os}</os><devices>{devices}</devices></domain>"
    )


HVM = "<type machine='xenfv'>hvm</type>"


def test_another_size_of_memory_is_not_overruled_by_numa_cells() -> None:
    """libxl refuses a domain whose nodes do not add up to its memory."""
    numa = "<cpu><numa><cell id='0' cpus='0' memory='65536' unit='KiB'/></numa></cpu>"
    derived = derive(domain(rest=numa), memory=32 << 20)
    assert "<numa>" not in derived.xml
    assert "memory 32 MiB (the source: 64 MiB)" in derived.changed
    assert any(line.startswith("NUMA: ") for line in derived.changed)
    assert "<numa>" in derive(domain(rest=numa)).xml


def test_a_serial_port_that_the_source_has_not_is_listed() -> None:
    words = "a serial port was added: its output is the run's console log"
    assert words in derive(domain(os=HVM)).changed
    port = "<serial type='pty'><target port='{}'/></serial>"
    one = derive(domain(os=HVM, devices=port.format(0)))
    assert words not in one.changed
    assert not any("serial" in line for line in one.dropped)
    two = derive(domain(os=HVM, devices=port.format(0) + port.format(1)))
    assert "<serial>: the clone has one port" in two.dropped


def test_a_screen_of_a_paravirtual_guest_is_listed() -> None:
    screen = "<graphics type='vnc'/><video><model type='xen'/></video>"
    dropped = derive(domain(devices=screen)).dropped
    assert any(line.startswith("<graphics>: ") for line in dropped)
    assert any(line.startswith("<video>: ") for line in dropped)
    hvm = derive(domain(os=HVM, devices=screen))
    assert values(hvm.xml, "./devices/video/model/@type") == ["xen"]


def test_a_disk_that_was_not_cloned_is_listed_and_absent() -> None:
    derived = derive(
        source("pv-pygrub"), disks=(CloneDisk("xvda", Path("/dev/vg0/sb-x"), "block"),)
    )
    assert "disk xvdb: was not cloned" in derived.dropped
    assert "disk xvdc: is shared with other guests" in derived.dropped
    assert values(derived.xml, "./devices/disk/target/@dev") == ["xvda"]


@pytest.mark.parametrize(
    ("made", "driver", "place"),
    [
        (CloneDisk("xvda", Path("/dev/vg0/sb-x"), "block"), {"name": "phy"}, "dev"),
        (CloneDisk("xvda", Path("/s/x.raw"), "raw"), {"name": "qemu", "type": "raw"}, "file"),
        (CloneDisk("xvda", Path("/s/x.qcow2"), "qcow2"), {"name": "qemu", "type": "qcow2"}, "file"),
    ],
)
def test_a_disk_is_what_was_made_whatever_the_sources_is(
    made: CloneDisk, driver: dict[str, str], place: str
) -> None:
    """A stopped guest's raw file becomes a qcow2 overlay, and has to be read as one."""
    for kind, where in (("file", "file='/srv/leak/a.raw'"), ("block", "dev='/dev/leak'")):
        xml = domain(
            devices=f"<disk type='{kind}'><driver name='qemu' type='raw'/><source {where}/>"
            "<target dev='xvda' bus='xen'/></disk>"
        )
        disk = etree.fromstring(derive(xml, disks=(made,)).xml.encode()).find("./devices/disk")
        assert disk is not None
        assert [dict(d.attrib) for d in disk.iterfind("./driver")] == [driver]
        assert [dict(s.attrib) for s in disk.iterfind("./source")] == [{place: str(made.overlay)}]


def test_a_disk_that_the_source_may_not_write_is_read_only_in_the_clone() -> None:
    clone = derive(source("pv-pygrub")).xml
    assert values(clone, "./devices/disk[readonly]/target/@dev") == ["xvdb"]


def write_golden_files() -> None:
    for name, memory, _chain in CASES:
        (GOLDEN / f"xen-{name}.clone.xml").write_text(golden_text(name, memory))


if __name__ == "__main__":
    write_golden_files()
