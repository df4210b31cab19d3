"""Types and boot chains that the rehearsal's own tests leave out, each as far as this host carries
it; what became of it is printed, with the console's last lines (`pytest -rP` shows them).

A host with VT or SVM (SANDBOX_XEN_HARDWARE=1) carries PVH and HVM all the way. Under QEMU's
emulated SVM they may stop on the way, by chance that grows with an idle machine: then it has to be
found that they did not boot, and nothing else. Tries are counted: of four, PVH has to get there in
one; the console of each that failed is kept.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox.core.records import Phase, RunRecord, Verdict
from sandbox.hosts.drivers.xen_xml import BootChain, boot_chain
from tests.support.xen.stubs import PVGRUB, defined, stopped_as
from tests.support.xen.xenlab import GRUB, LOOK, Host, Xen, reason, verdict

pytestmark = pytest.mark.xen

SCENARIO = "upgrade: {what: script, script: upgrade.sh}\nreboot: never\nchecks: {shared: []}\n"
EMULATED = "SANDBOX_XEN_HARDWARE" not in os.environ
PVH_TRIES, HVM_TRIES = (4, 2) if EMULATED else (1, 1)
MINUTES = 6 if EMULATED else 15  # what comes up at all under emulation does so in less
DEADLINES = f"deadlines: {{clone: 10m, boot: {MINUTES}m, baseline: 10m, upgrade: 10m}}\n"


def rehearsed(xen: Xen, host: Host, name: str, xml: str, chain: BootChain) -> tuple[RunRecord, str]:
    """The record and what the console said; the clone is of the source's type and chain."""
    with defined(host, xml):
        assert boot_chain(host.run(f"virsh dumpxml --inactive {name}")) == chain
        scenario = xen.scenario(SCENARIO, deadlines=DEADLINES, test_up=LOOK)
        (scenario / "upgrade.sh").write_text("#!/bin/sh\nsystemctl restart nginx\n")
        record = xen.run(scenario, name)
    console = xen.artifact(record, "console.log")
    print(f"{chain.type} by {chain.loader}: {verdict(record)}: {reason(record)}")
    said = [line for line in console.splitlines() if line.strip()]
    print("console:", *said[-10:], sep="\n")
    print("Xen:", host.run("xl dmesg | grep -E '\\(d[1-9]|d[1-9]+v' | tail -n 8; :"), sep="\n")
    assert boot_chain(xen.artifact(record, "clone.xml")) == chain
    assert any(phase.phase is Phase.CLONE and phase.ok for phase in record.phases)
    return record, console


def passes(record: RunRecord) -> bool:
    """Whether it came all the way; a guest that stopped did so while it booted."""
    if EMULATED and verdict(record) is Verdict.INCONCLUSIVE:
        assert record.facts.trouble is not None
        assert record.facts.trouble.phase == "boot"
        return False
    assert verdict(record) is Verdict.PASS, reason(record)
    return True


def keep_console(name: str, number: int, console: str) -> None:
    folder = Path(os.environ.get("TEST_ARTIFACTS") or tempfile.gettempdir())
    kept = folder / f"{name}-{number}-console.log"
    kept.write_text(console)
    print(f"{name} did not boot in try {number}, its console: {kept}")


def test_a_pvh_guest_boots_by_pvgrub_from_its_own_disk(
    xen: Xen, host: Host, tell: Callable[[str], None]
) -> None:
    name = "sbtest-pvh"
    xml = stopped_as(host, name, type="xenpvh", kernel=f"{GRUB}/grub-i386-xen_pvh.bin")
    for number in range(1, PVH_TRIES + 1):
        record, console = rehearsed(xen, host, name, xml, BootChain("pvh", "pvgrub", True))
        assert "Linux version" in console, "not even its own kernel was loaded"
        if passes(record):
            tell(f"PVH by pvgrub: 1 of {number} tries came all the way")
            return
        keep_console(name, number, console)
    pytest.fail(f"PVH by pvgrub: 0 of {PVH_TRIES} tries came all the way")


def test_an_hvm_guest_boots_by_its_disks_own_loader(
    xen: Xen, host: Host, tell: Callable[[str], None]
) -> None:
    """Its kernel talks to Xen's console (hvc0), its firmware and GRUB to a screen: little of
    that is in the log. Under emulation no try has to succeed."""
    name = "sbtest-hvm"
    xml = stopped_as(host, name, type="hvm")
    chain = BootChain("hvm", "its disk's boot loader", True)
    passed = 0
    for number in range(1, HVM_TRIES + 1):
        record, console = rehearsed(xen, host, name, xml, chain)
        if passed := int(passes(record)):
            break
        keep_console(name, number, console)
    tell(f"HVM: {passed} of {number} tries came all the way")


def test_a_pv_guest_whose_kernel_pvgrub_refuses_is_found_out_at_once(xen: Xen, host: Host) -> None:
    """Debian 12's pvgrub does not take the cloud kernel that pygrub boots: GRUB says so, and
    waits for ever."""
    name = "sbtest-pvgrub"
    xml = stopped_as(host, name, kernel=PVGRUB)
    record, console = rehearsed(xen, host, name, xml, BootChain("pv", "pvgrub", True))
    if "not xen image" in console:
        assert verdict(record) is Verdict.INCONCLUSIVE, reason(record)
        assert "its boot loader cannot load its kernel" in reason(record)
    else:  # a standard kernel, or a later GRUB
        assert verdict(record) is Verdict.PASS, reason(record)
