"""PVH, as far as this host carries it: on one with VT or SVM all the way."""

from __future__ import annotations

import os

import pytest
from lxml import etree
from xenlab import STOPPED, Host, Xen, reason, verdict

from sandbox.hypervisors.xen_xml import boot_chain
from sandbox.records import Verdict

pytestmark = pytest.mark.xen

NAME = "sbtest-pvh"
PVGRUB = "/usr/lib/grub-xen/grub-i386-xen_pvh.bin"
SCENARIO = "upgrade: {what: script, script: upgrade.sh}\nreboot: never\nchecks: {shared: []}\n"
LOOK = "def test_is_up(host):\n    assert host.file('/etc/hostname').exists\n"
EMULATED = "SANDBOX_XEN_HARDWARE" not in os.environ


def pvh_xml(host: Host) -> str:
    """The stopped guest's own disk, in a guest of another type that boots by pvgrub."""
    root = etree.fromstring(host.run(f"virsh dumpxml --inactive {STOPPED}").encode())
    for tag in ("uuid", "bootloader"):
        for element in root.findall(f"./{tag}"):
            root.remove(element)
    root.find("./name").text = NAME
    kind = root.find("./os/type")
    kind.text = "xenpvh"
    kind.set("machine", "xenpvh")
    etree.SubElement(root.find("./os"), "kernel").text = PVGRUB
    return etree.tostring(root).decode()


def test_a_pvh_guest_boots_by_pvgrub_from_its_own_disk(xen: Xen, host: Host) -> None:
    """Under QEMU's emulated SVM such a guest comes up most of the time, and panics at others:
    there it may also be found that it did not boot, and nothing else."""
    defined = host.shell._connection.defineXML(pvh_xml(host))
    try:
        chain = boot_chain(host.run(f"virsh dumpxml --inactive {NAME}"))
        assert (chain.type, chain.loader, chain.own_kernel) == ("pvh", "pvgrub", True)
        scenario = xen.scenario(SCENARIO, test_up=LOOK)
        (scenario / "upgrade.sh").write_text("#!/bin/sh\nsystemctl restart nginx\n")
        record = xen.run(scenario, NAME)
        console = xen.artifact(record, "console.log")
        print(f"{verdict(record)}: {reason(record)}\n", *console.splitlines()[-5:], sep="\n")
        assert "<type" in xen.artifact(record, "clone.xml")
        assert boot_chain(xen.artifact(record, "clone.xml")) == chain
        if EMULATED and verdict(record) is Verdict.INCONCLUSIVE:
            assert record.facts.trouble is not None
            assert record.facts.trouble.phase == "boot"
            assert "Linux version" in console, "not even its own kernel was loaded"
        else:
            assert verdict(record) is Verdict.PASS, reason(record)
    finally:
        defined.undefine()
