"""The contract of hypervisors, kept by a real Xen: the same tests as everywhere else."""

from __future__ import annotations

import contextlib
import secrets
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import libvirt
import pytest

from sandbox.core.deadline import Deadline
from sandbox.core.records import Disk
from tests.contract.test_hypervisors import (
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
from tests.support.hosts.labs import DISK_SIZE, LibvirtLab, ThisRun, deadline, this_run
from tests.support.xen.stubs import pv_xml
from tests.support.xen.xenlab import Host

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


@dataclass
class XenLab(LibvirtLab):
    """A Xen host and the hand of its administrator; disks are files in dom0."""

    host: Host | None = None

    def guest(self, *, running: bool, disks: tuple[Path, ...] = ()) -> str:
        assert self.host is not None
        made = []
        for letter, path in zip("abcd", disks, strict=False):
            self.host.run(
                f"mkdir -p {shlex.quote(str(path.parent))}; "
                f"qemu-img create -q -f qcow2 {shlex.quote(str(path))} {DISK_SIZE}"
            )
            target = f"xvd{letter}"
            made.append(Disk(target=target, format="qcow2", path=str(path), size=DISK_SIZE))
        name = f"sbtest-guest-{secrets.token_hex(3)}"
        self.made.append(name)
        domain = self.connection.defineXML(pv_xml(name, made))
        if running:
            self._start(domain)
        return name

    def clone_xml(self, run: ThisRun) -> str:
        return pv_xml(run.domain, (), run.mark)


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


def test_a_domain_that_libvirt_cannot_end_is_ended_by_xl(
    lab: XenLab, this_run: ThisRun, host: Host, deadline: Deadline, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.hypervisor.start(lab.clone_xml(this_run), deadline)
    refused = []

    def refuse(domain: libvirt.virDomain) -> None:
        refused.append(domain.name())
        raise libvirt.libvirtError("libxenlight failed to destroy the domain")

    with monkeypatch.context() as patch:
        patch.setattr(libvirt.virDomain, "destroy", refuse)
        assert lab.hypervisor.destroy(this_run.domain, this_run.id) is True
    assert refused == [this_run.domain]
    assert this_run.domain not in host.run("xl list")
    while lab.exists(this_run.domain):  # it learns of that by an event
        deadline.sleep(0.5)
    assert lab.hypervisor.state(this_run.domain) == "off"
    assert lab.hypervisor.destroy(this_run.domain, this_run.id) is False
