"""What goes wrong on a Xen host: the run ends with the right verdict, and nothing stays."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox.core.errors import HostError
from sandbox.core.progress import Silent
from sandbox.core.records import Outcome, Phase, RunRecord, Verdict
from sandbox.core.store import Store
from sandbox.demo.broken import build_deb
from sandbox.hosts.transport import HostLost, RemoteHost
from sandbox.hosts.volumes import host_disks, lvm
from sandbox.network.isolation import names
from tests.support.waiting import soon
from tests.support.xen.needs import ANSWERED, NEEDS
from tests.support.xen.stubs import defined, stopped_as
from tests.support.xen.wire import CHECK, Seen, expect_nothing_on
from tests.support.xen.xencommand import Start
from tests.support.xen.xenlab import GUEST, LOOK, QUICK, STOPPED, Host, Xen, reason, verdict

pytestmark = pytest.mark.xen

ALL = "upgrade: {what: all}\n"


def test_two_at_once_one_is_killed_the_other_crashes_and_a_third_does_not_fit(
    xen: Xen, sandbox: Start, host: Host, capture: Callable[[], Seen], tmp_path: Path
) -> None:
    """Two clones live beside each other, one of them with the control. kill -9 of one, and reaping
    it, does not touch the other, whose kernel panics in its upgrade: that is found, and is the
    upgrade's fault. The control is of the same instant and has the same addresses; neither hears
    the other, and each has stand-ins of its own."""
    dom0, source = host.run(DOM0_MEMORY), host.domid(GUEST)
    package = build_deb("sbtest-halt", "1.0", out=tmp_path / "deb", postinst=CRASH)
    controls = xen.scenario(
        ALL + QUICK + "control: always\n" + NEEDS, test_attack=CHECK, test_needs=ANSWERED
    )
    crashing = sandbox("run", controls, "--guest", GUEST, "--upgrade", package)
    crashing.wait_for_phase(Phase.BOOT)
    scenario = xen.scenario(ALL + QUICK, test_up=LOOK)
    killed = sandbox("run", scenario, "--guest", STOPPED, "--upgrade", package)
    killed.wait_for_phase(Phase.BOOT)
    listed = host.run("xl list")
    runs = {path.name for path in xen.settings.runs.iterdir()}
    assert len(runs) == 2
    assert all(f"sandbox-{run}" in listed for run in runs), "two clones beside each other"
    assert host.run(DOM0_MEMORY) == dom0, "dom0 gave memory to clones"
    disks = host.disks(GUEST)
    volumes = host.run("lvs --noheadings -o lv_name @upgrade-sandbox").split()
    assert len(volumes) == 2 * len(disks)
    assert sum(name.endswith("-control") for name in volumes) == len(disks)
    killed.kill()
    reaped = sandbox("reap").succeed()
    assert "removed domain" in reaped
    assert "nothing to remove" in sandbox("reap").succeed()
    greedy = xen.scenario(ALL + QUICK + "memory: 64GiB\n", test_up=LOOK)
    refused = sandbox("run", greedy, "--guest", GUEST)
    assert refused.finish() == 4
    assert "MiB free" in refused.output
    assert crashing.finish() == 1, crashing.output
    said = " ".join(crashing.output.split())  # it may be wrapped
    assert "the clone is not running any more: it is crashed" in said, crashing.output
    assert host.run(DOM0_MEMORY) == dom0, "dom0 ballooned"
    assert host.domid(GUEST) == source
    store = Store(xen.settings)
    (record,) = [one for one in map(store.load, map(store.folder, runs)) if one.guest == GUEST]
    _expect_an_equal_control(record)
    bridges = (names(record.id).bridge, names(record.id, control=True).bridge)
    expect_nothing_on(bridges, capture(), host.bridge(GUEST))


def _expect_an_equal_control(record: RunRecord) -> None:
    control, before = record.facts.control, record.facts.before
    assert control is not None
    assert control.before is not None
    assert before is not None
    assert control.missing == ""
    assert control.before.boot_id != before.boot_id
    assert control.before.packages == before.packages
    own = record.facts.checks_before
    assert own is not None
    for session in (own, *control.checks_before):
        found = {result.name.partition("::")[2]: result.outcome for result in session.results}
        assert set(found.values()) == {Outcome.PASSED}, session.results
        assert {"test_nothing_is_reached", "test_what_it_needs_is_there"} <= set(found)
    assert record.source is not None
    assert record.source.method == "thin snapshot"
    assert any("ran on" in proof for proof in record.source.untouched)


CRASH = "#!/bin/sh\necho c >/proc/sysrq-trigger\nsleep 60\n"
DOM0_MEMORY = "xl list Domain-0 | awk 'NR == 2 { print $3 }'"

# The real command, but for its end: when the clone's disks and its bridge are made.
DIE_BEFORE_THE_START = """
import os, signal
from sandbox.cli.main import main
from sandbox.hosts.drivers.libvirt_xen import LibvirtXen
LibvirtXen.start = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
main()
"""


def test_reap_finds_disks_that_never_had_a_domain(xen: Xen, sandbox: Start, host: Host) -> None:
    scenario = xen.scenario(ALL + QUICK, test_up=LOOK)
    program = (sys.executable, "-c", DIE_BEFORE_THE_START)
    run = sandbox("run", scenario, "--guest", GUEST, program=program)
    assert run.finish() == -signal.SIGKILL, run.output
    (folder,) = xen.settings.runs.iterdir()
    marked = host_disks.marked(host.shell.host, soon(300))
    left = [place for place, mark in marked if mark.run == folder.name]
    assert len(left) == len(host.disks(GUEST)), marked
    assert folder.name not in host.run("xl list; virsh list --all")
    reaped = sandbox("reap").succeed()
    assert reaped.count("volume ") == len(host.disks(GUEST)), reaped
    assert "nothing to remove" in sandbox("reap").succeed()


class Filling(Silent):
    """When the clone boots, its pool is beyond the limit from which on it is in danger."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._patch = patch

    def phase_started(self, phase: Phase, deadline: float) -> None:
        if phase is Phase.BOOT:
            self._patch.setattr(lvm, "POOL_DANGER", 0.1)  # percent; any pool has more in it


def test_a_clone_whose_pool_fills_up_is_given_up(xen: Xen, monkeypatch: pytest.MonkeyPatch) -> None:
    xen.progress = Filling(monkeypatch)
    # On a fast host it would be over before anybody looks at the pool.
    scenario = xen.scenario("upgrade: {what: script, script: upgrade.sh}\n" + QUICK, test_up=LOOK)
    (scenario / "upgrade.sh").write_text("#!/bin/sh\nsleep 300\n")
    record = xen.run(scenario)
    assert verdict(record) is Verdict.ERROR, reason(record)
    assert "% full" in reason(record)
    assert "given up so that the running source can go on writing" in reason(record)
    assert record.facts.upgrade is None
    assert record.left_behind == ()


# -- without booting anything -------------------------------------------------------------------


def test_a_pool_that_is_too_full_refuses_before_anything_is_made(
    xen: Xen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lvm, "POOL_LIMIT", 1.0)  # the lab's pool has more in it than that
    record = xen.run(xen.scenario(ALL + QUICK, test_up=LOOK))
    assert verdict(record) is Verdict.ERROR
    assert "thin pool" in reason(record)
    assert "% full" in reason(record)


def test_a_host_that_cannot_be_reached_is_an_error_with_its_name() -> None:
    nowhere = RemoteHost("xen+ssh://root@127.0.0.1:1/system")
    with pytest.raises(HostLost, match=r"127\.0\.0\.1"):
        nowhere.run(["true"], soon(300))
    assert issubclass(HostLost, HostError)


def test_a_kernel_of_the_hosts_rejects_kernel_rehearsals_only(xen: Xen, host: Host) -> None:
    xml = stopped_as(host, "sbtest-hostkernel", kernel="/vmlinuz")
    with defined(host, xml) as guest:
        record = xen.run(xen.scenario("upgrade: {what: kernel}\n", test_up=LOOK), guest.name())
    assert verdict(record) is Verdict.REJECTED
    assert "kernel" in reason(record)
    assert record.facts.trouble is not None
    assert "pvgrub" in record.facts.trouble.hint
