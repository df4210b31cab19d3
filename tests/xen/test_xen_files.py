"""Guests whose disks are image files, booted: one that runs, and one on a raw file.

Beside the rehearsal of a stopped guest on qcow2, which is part of `make test`, these cost three
more boots: they are for `make test-xen`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sandbox.clone.discovery import link_local
from sandbox.core.deadline import Deadline
from sandbox.core.records import Verdict
from sandbox.hosts.drivers.clone_xml import macs
from tests.support.xen.stubs import defined, stopped_as
from tests.support.xen.xenlab import (
    LOOK,
    STOPPED,
    Administrator,
    Host,
    Xen,
    images_folder,
    reason,
    verdict,
)

pytestmark = pytest.mark.xen

SCENARIO = "upgrade: {what: script, script: upgrade.sh}\nreboot: never\nchecks: {shared: []}\n"
RESTART = "#!/bin/sh\nsystemctl restart nginx\n"


@pytest.fixture
def started(host: Host) -> Iterator[Administrator]:
    """The guest that is otherwise off, up and reachable as production is."""
    hand = Administrator(host, STOPPED)
    host.run(f"virsh --quiet start {STOPPED}")
    try:
        address = f"{link_local(macs(host.shell.lookup(STOPPED).xml)[0])}%{host.bridge(STOPPED)}"
        deadline = Deadline(900, f"starting {STOPPED}")
        while not host.shell.host.answers_ssh(address, 22, 20):
            deadline.sleep(1)
        hand.inside("systemctl is-system-running --wait || :")
        yield hand
        hand.inside("sync; systemctl poweroff", check=False)
        deadline = Deadline(180, f"powering {STOPPED} off")
        while host.run(f"virsh domstate {STOPPED}").strip() != "shut off":
            deadline.sleep(2)
    finally:
        host.run(f"virsh --quiet destroy {STOPPED} 2>/dev/null", check=False)


def test_a_running_guest_on_files_is_paused_for_the_copy(
    xen: Xen, host: Host, started: Administrator
) -> None:
    boot = "cat /proc/sys/kernel/random/boot_id"
    before = host.domid(STOPPED), started.inside(boot).stdout
    scenario = xen.scenario(SCENARIO, test_up=LOOK)
    (scenario / "upgrade.sh").write_text(RESTART)
    record = xen.run(scenario, STOPPED)
    assert verdict(record) is Verdict.PASS, reason(record)
    assert record.source is not None
    assert record.source.method == "reflink copy"
    assert record.source.consistency == "crash-consistent"
    assert record.source.paused_ms > 0
    assert any("ran on" in proof for proof in record.source.untouched)
    assert (host.domid(STOPPED), started.inside(boot).stdout) == before
    print(f"paused for {record.source.paused_ms:.0f} ms")


def test_a_guest_on_a_raw_file(xen: Xen, host: Host) -> None:
    (disk,) = host.disks(STOPPED)
    name, path = "sbtest-raw", f"{images_folder(host)}/sbtest.raw"
    host.run(f"qemu-img convert -f {disk.format} -O raw {disk.path} {path}")
    try:
        with defined(host, stopped_as(host, name, path=path, format="raw")):
            facts = f"stat -c '%i %Y %s' {path}; sha256sum {path}"
            before = host.run(facts)
            scenario = xen.scenario(SCENARIO, test_up=LOOK)
            (scenario / "upgrade.sh").write_text(RESTART)
            record = xen.run(scenario, name)
            assert verdict(record) is Verdict.PASS, reason(record)
            assert record.source is not None
            assert [d.format for d in record.source.disks] == ["raw"]
            assert record.source.method == "reflink copy"
            assert host.run(facts) == before
    finally:
        host.run(f"rm -f {path}")
