"""The contract of hypervisors, kept by a real Xen: the same tests as everywhere else."""

from __future__ import annotations

import contextlib
import secrets
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import libvirt
import pytest
from lxml import etree

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "contract"))

from labs import DISK_SIZE, LibvirtLab, ThisRun, deadline, this_run
from test_hypervisors import (
    test_a_clone_of_ours_is_no_guest,
    test_a_domain_lives_from_start_to_destroy,
    test_a_domain_that_powers_off_is_off_and_leaves_nothing,
    test_a_foreign_network_is_never_destroyed,
    test_a_guest_is_found_by_name,
    test_a_guest_is_never_destroyed,
    test_a_hostile_name_is_an_unknown_guest,
    test_a_network_lives_from_create_to_destroy,
    test_a_paused_domain_is_paused,
    test_an_unknown_guest_is_a_wrong_request_that_names_the_nearest,
    test_facts_of_the_host,
    test_nothing_is_started_after_the_deadline,
    test_the_domain_of_another_run_is_never_destroyed,
    test_the_same_domain_cannot_be_started_twice,
    test_vitals_stay_while_nothing_happens_and_change_with_a_restart,
)
from xenlab import Host

from sandbox.hypervisors import Mark
from sandbox.hypervisors.marks import mark_element

__all__ = [
    "deadline",
    "test_a_clone_of_ours_is_no_guest",
    "test_a_domain_lives_from_start_to_destroy",
    "test_a_domain_that_powers_off_is_off_and_leaves_nothing",
    "test_a_foreign_network_is_never_destroyed",
    "test_a_guest_is_found_by_name",
    "test_a_guest_is_never_destroyed",
    "test_a_hostile_name_is_an_unknown_guest",
    "test_a_network_lives_from_create_to_destroy",
    "test_a_paused_domain_is_paused",
    "test_an_unknown_guest_is_a_wrong_request_that_names_the_nearest",
    "test_facts_of_the_host",
    "test_nothing_is_started_after_the_deadline",
    "test_the_domain_of_another_run_is_never_destroyed",
    "test_the_same_domain_cannot_be_started_twice",
    "test_vitals_stay_while_nothing_happens_and_change_with_a_restart",
    "this_run",
]

pytestmark = pytest.mark.xen

# It finds no disk to boot from, says so on its console, and waits.
PVGRUB = "/usr/lib/grub-xen/grub-x86_64-xen.bin"


@dataclass
class XenLab(LibvirtLab):
    """A Xen host and the hand of its administrator; disks are files in dom0."""

    host: Host | None = None

    def guest(self, *, running: bool, disks: tuple[Path, ...] = ()) -> str:
        assert self.host is not None
        for disk in disks:
            self.host.run(
                f"mkdir -p {shlex.quote(str(disk.parent))}; "
                f"qemu-img create -q -f qcow2 {shlex.quote(str(disk))} {DISK_SIZE}"
            )
        name = f"sbtest-guest-{secrets.token_hex(3)}"
        self.made.append(name)
        domain = self.connection.defineXML(pv_xml(name, disks))
        if running:
            self._start(domain)
        return name

    def clone_xml(self, run: ThisRun) -> str:
        return pv_xml(run.domain, (), run.mark)


def pv_xml(name: str, disks: tuple[Path, ...] = (), mark: Mark | None = None) -> str:
    root = etree.Element("domain", type="xen")
    etree.SubElement(root, "name").text = name
    if mark is not None:
        etree.SubElement(root, "metadata").append(mark_element(mark))
    etree.SubElement(root, "memory", unit="MiB").text = "64"
    etree.SubElement(root, "vcpu").text = "1"
    os = etree.SubElement(root, "os")
    etree.SubElement(os, "type", arch="x86_64", machine="xenpv").text = "linux"
    etree.SubElement(os, "kernel").text = PVGRUB
    devices = etree.SubElement(root, "devices")
    for number, path in enumerate(disks):
        disk = etree.SubElement(devices, "disk", type="file", device="disk")
        etree.SubElement(disk, "driver", name="qemu", type="qcow2")
        etree.SubElement(disk, "source", file=str(path))
        etree.SubElement(disk, "target", dev=f"xvd{chr(ord('a') + number)}", bus="xen")
    return etree.tostring(root).decode()


@pytest.fixture
def lab(host: Host, tmp_path: Path) -> Iterator[XenLab]:
    connection = host.shell._connection
    made = XenLab(host.shell, tmp_path, connection, "xen", host=host)
    try:
        yield made
    finally:
        with contextlib.suppress(libvirt.libvirtError):
            made.remove_everything()
        host.run(f"rm -rf {shlex.quote(str(tmp_path))}")
