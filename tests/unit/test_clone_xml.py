"""The clone's XML: golden cases, and for any mixture of devices nothing of production in it.

Everything of production in the sources is named ``leak…`` or carries a UUID that begins with
``1eaa1eaa``: neither may be found in a clone. ``python -m tests.unit.test_clone_xml`` writes the
golden files anew; read the difference before committing it.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from sandbox.hosts.drivers import Mark
from sandbox.hosts.drivers.clone_xml import (
    CloneDisk,
    CloneSpec,
    CloneXml,
    clone_xml,
    disk_problem,
    macs,
)
from sandbox.hosts.drivers.marks import read_mark
from tests.support.fakes.clone_samples import KIND, domains
from tests.support.paths import GOLDEN

SCHEMA = etree.RelaxNG(etree.parse("/usr/share/libvirt/schemas/domain.rng"))
# name, accelerated, memory
CASES = (
    ("bios", False, None),
    ("uefi", True, None),
    ("hostile", True, 1 << 30),
    ("windows", False, None),
    ("nics", False, None),
)
MARK = Mark("20260102-030405-abcdef", "17:42:boot-id", 1800000000)
FOLDER = Path("/var/lib/upgrade-sandbox/clones/20260102-030405-abcdef")


def values(xml: str | etree._Element, path: str) -> list[str]:
    """What an XPath finds, as text."""
    root = etree.fromstring(xml.encode()) if isinstance(xml, str) else xml
    found = root.xpath(path)
    assert isinstance(found, list)
    return [str(value) for value in found]


def source(name: str) -> str:
    return (GOLDEN / f"clone-{name}.source.xml").read_text()


def spec_for(xml: str, *, accelerated: bool = False, memory: int | None = None) -> CloneSpec:
    """What clone.py would ask for: an overlay for each disk that can be cloned."""
    targets = [
        values(device, "./target/@dev")[0]
        for device in etree.fromstring(xml.encode()).iterfind("./devices/disk")
        if device.get("device", "disk") == "disk"
        and not disk_problem(device)
        and device.get("type") in ("file", "block")
    ]
    return CloneSpec(
        name=f"sandbox-{MARK.run}",
        mark=MARK,
        disks=tuple(CloneDisk(target, FOLDER / f"{target}.qcow2") for target in targets),
        bridge="sbabcdef",
        console_log=Path("/var/lib/upgrade-sandbox/runs/20260102-030405-abcdef/console.log"),
        accelerated=accelerated,
        nvram=FOLDER / "nvram.fd",
        nvram_copied=True,
        memory=memory,
    )


def derive(xml: str, **changes: object) -> CloneXml:
    return clone_xml(xml, replace(spec_for(xml), **changes))  # type: ignore[arg-type]


def golden_text(name: str, accelerated: bool, memory: int | None) -> str:
    xml = source(name)
    derived = clone_xml(xml, spec_for(xml, accelerated=accelerated, memory=memory))
    lines = [f"dropped: {line}" for line in derived.dropped]
    lines += [f"changed: {line}" for line in derived.changed]
    assert "--" not in "".join(lines)
    return f"{derived.xml}\n<!--\n" + "\n".join(lines) + "\n-->\n"


def assert_nothing_of_production(source_xml: str, derived: CloneXml) -> None:
    assert "leak" not in derived.xml.lower()
    assert "1eaa1eaa" not in derived.xml
    clone = etree.fromstring(derived.xml.encode())
    for device in ("hostdev", "filesystem", "channel", "redirdev", "shmem", "vsock", "tpm"):
        assert clone.find(f"./devices/{device}") is None
    assert "commandline" not in derived.xml
    assert set(values(clone, "./devices/interface/source/@*")) <= {"sbabcdef"}
    assert set(values(clone, "./devices/interface/@type")) <= {"bridge"}
    known = [path for path in re.findall(r"/[\w./-]+", derived.xml) if path.startswith("/dev")]
    assert set(known) <= {"/dev/urandom", "/devices"}
    assert SCHEMA.validate(clone), SCHEMA.error_log.last_error
    assert read_mark(derived.xml) == MARK
    assert set(macs(derived.xml)) <= set(macs(source_xml))


@pytest.mark.parametrize(("name", "accelerated", "memory"), CASES)
def test_golden(name: str, accelerated: bool, memory: int | None) -> None:
    assert SCHEMA.validate(etree.fromstring(source(name).encode())), "the source is not realistic"
    expected = (GOLDEN / f"clone-{name}.clone.xml").read_text()
    assert golden_text(name, accelerated, memory) == expected


@pytest.mark.parametrize(("name", "accelerated", "memory"), CASES)
def test_golden_clones_have_nothing_of_production(
    name: str, accelerated: bool, memory: int | None
) -> None:
    xml = source(name)
    derived = clone_xml(xml, spec_for(xml, accelerated=accelerated, memory=memory))
    assert_nothing_of_production(xml, derived)


# -- any mixture of devices -------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(xml=domains(), accelerated=st.booleans(), nvram_copied=st.booleans())
def test_any_mixture_leads_nowhere(xml: str, accelerated: bool, nvram_copied: bool) -> None:
    derived = derive(xml, accelerated=accelerated, nvram_copied=nvram_copied)
    assert_nothing_of_production(xml, derived)
    dropped = "\n".join(derived.dropped)
    for device in etree.fromstring(xml.encode()).iterfind("./devices/*"):
        assert is_accounted_for(device, derived.xml, dropped), etree.tostring(device)


def is_accounted_for(device: etree._Element, clone: str, dropped: str) -> bool:
    """The guest has it, or the report says that it has not."""
    tag = device.tag
    if tag in ("graphics", "audio"):  # the host's side of what the guest has
        return True
    mac, target = device.find("./mac"), device.find("./target")
    if tag == "interface" and mac is not None:
        address = mac.get("address", "?")
        return f'<mac address="{address}"/>' in clone and address in dropped
    if tag == "disk" and target is not None:
        return f'dev="{target.get("dev")}"' in clone or f"disk {target.get('dev')}:" in dropped
    return f"<{tag}" in clone or f"<{tag}" in dropped or "network card" in dropped


@settings(max_examples=60, deadline=None)
@given(st.permutations(range(12)))
def test_network_cards_keep_their_order_and_addresses(order: list[int]) -> None:
    devices = "".join(
        f"<interface type='bridge'><mac address='52:54:00:00:00:{n:02X}'/><source bridge='leak'/>"
        f"{KIND.format(n=n + 2)}</interface>"
        for n in order
    )
    xml = f"<domain type='kvm'><memory>1</memory><devices>{devices}</devices></domain>"
    clone = derive(xml).xml
    assert macs(clone) == macs(xml) == tuple(f"52:54:00:00:00:{n:02x}" for n in order)
    slots = [a.get("slot") for a in etree.fromstring(clone).iterfind("./devices/interface/address")]
    assert slots == [f"0x{n + 2:02x}" for n in order]


# -- what the guest notices -------------------------------------------------------------------


def minimal(*, devices: str = "", rest: str = "") -> str:
    return (
        "<domain type='qemu'><name>x</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>"
        f"<os><type>hvm</type></os>{rest}<devices>{devices}</devices></domain>"
    )


@pytest.mark.parametrize(
    ("text", "bytes_"),
    [
        ("<memory unit='KiB'>1048576</memory>", 1 << 30),
        ("<memory>1048576</memory>", 1 << 30),
        ("<memory unit='b'>1073741824</memory>", 1 << 30),
        ("<memory unit='MiB'> 1024 </memory>", 1 << 30),
        ("<memory unit='G'>1</memory>", 1 << 30),
        ("<memory unit='TiB'>2</memory>", 2 << 40),
        ("<memory unit='MB'>1024</memory>", 1024 * 10**6),
    ],
)
def test_memory_in_every_unit(text: str, bytes_: int) -> None:
    xml = minimal().replace("<memory unit='MiB'>64</memory>", text)
    clone = etree.fromstring(derive(xml).xml)
    assert clone.findtext("./memory") == clone.findtext("./currentMemory") == str(bytes_ >> 10)


def test_another_size_of_memory_is_listed_and_not_overruled_by_numa_cells() -> None:
    numa = "<cpu><numa><cell id='0' cpus='0' memory='65536' unit='KiB'/></numa></cpu>"
    derived = derive(minimal(rest=numa), memory=32 << 20)
    assert "memory 32 MiB (the source: 64 MiB)" in derived.changed
    assert "<numa>" not in derived.xml
    assert "<numa>" in derive(minimal(rest=numa)).xml


def test_topology_survives_the_emulated_cpu() -> None:
    cpu = (
        "<cpu mode='host-passthrough'><topology sockets='1' dies='1' cores='1' threads='1'/></cpu>"
    )
    clone = derive(minimal(rest=cpu)).xml
    assert values(clone, "./cpu/model/text()") == ["qemu64"]
    assert values(clone, "./cpu/topology/@sockets") == ["1"]


def test_uefi_variables_are_never_left_to_libvirt_to_place() -> None:
    uefi = minimal().replace("<os>", "<os firmware='efi'>")
    derived = derive(uefi, nvram_copied=False)
    assert etree.fromstring(derived.xml).findtext("./os/nvram") == str(FOLDER / "nvram.fd")
    assert any(line.startswith("UEFI variables") for line in derived.changed)
    assert "nvram" not in derive(minimal()).xml, "a BIOS guest has none"


def test_fresh_uefi_variables_keep_the_template() -> None:
    derived = derive(source("uefi"), nvram_copied=False)
    template = values(derived.xml, "./os/nvram/@template")
    assert template == ["/usr/share/OVMF/OVMF_VARS_4M.ms.fd"]
    assert "template" not in derive(source("uefi"), nvram_copied=True).xml


def test_a_stateless_firmware_gets_no_variables() -> None:
    loader = "<loader type='pflash' stateless='yes'>/usr/share/OVMF/OVMF.fd</loader></os>"
    derived = derive(minimal().replace("</os>", loader))
    assert "nvram" not in derived.xml
    assert 'readonly="yes"' in derived.xml


def test_a_firmware_image_is_never_writable() -> None:
    derived = derive(source("hostile"))
    assert values(derived.xml, "./os/loader/@readonly") == ["yes"]
    assert "firmware image: read-only in the clone" in derived.changed


def test_only_the_first_serial_port_is_logged_and_the_others_are_there() -> None:
    ports = "<serial type='pty'><target port='{}'/></serial>"
    clone = derive(minimal(devices=ports.format(0) + ports.format(1))).xml
    assert values(clone, "./devices/serial/target/@port") == ["0", "1"]
    assert values(clone, "./devices/serial[log]/target/@port") == ["0"]


def test_a_debug_port_is_no_console() -> None:
    debug = "<serial type='pty'><target type='isa-debug'/></serial>"
    derived = derive(minimal(devices=debug))
    serials = etree.fromstring(derived.xml).findall("./devices/serial")
    assert [s.find("./log") is not None for s in serials] == [False, True]
    assert "a serial port was added: its output is the run's console log" in derived.changed


def test_a_disk_of_the_scenario_not_cloned_is_listed() -> None:
    derived = derive(source("bios"), disks=(CloneDisk("vda", FOLDER / "vda.qcow2"),))
    assert any(line.startswith("disk vdb: ") for line in derived.dropped)
    assert 'dev="vdb"' not in derived.xml


def test_a_disk_is_always_read_as_the_overlay_that_it_is() -> None:
    clone = derive(source("bios")).xml
    assert values(clone, "./devices/disk[@device='disk']/driver/@type") == ["qcow2", "qcow2"]
    files = values(clone, "./devices/disk[@device='disk']/source/@file")
    assert files == [f"{FOLDER}/vda.qcow2", f"{FOLDER}/vdb.qcow2"]


def test_blob_resources_need_the_host_and_go() -> None:
    video = "<video><model type='virtio' blob='on'/></video>"
    assert "blob" not in derive(minimal(devices=video)).xml


def write_golden_files() -> None:
    for case in CASES:
        (GOLDEN / f"clone-{case[0]}.clone.xml").write_text(golden_text(*case))


if __name__ == "__main__":
    write_golden_files()
