"""The main job on a real Xen: a running PV guest on LVM thin, its kernel and a package."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox.core.progress import Silent
from sandbox.core.records import Outcome, Phase, Verdict
from sandbox.demo.mirror import find_mirror
from sandbox.network.isolation import names
from sandbox.report import render
from tests.support.guests.archive import Archive
from tests.support.xen.needs import ANSWERED, NEEDS
from tests.support.xen.wire import CHECK, Seen, expect_nothing_on, our_ssh
from tests.support.xen.xenlab import GUEST, Administrator, Host, Xen, reason, verdict

pytestmark = pytest.mark.xen

NGINX = "def test_nginx_runs(host):\n    assert host.service('nginx').is_running\n"


@pytest.fixture(scope="session")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The security suite's newer kernel, and the package that brings it."""
    folder = tmp_path_factory.mktemp("kernel")
    meta = "linux-image-cloud-amd64"
    mirror = find_mirror()
    policy = subprocess.run(
        ["apt-cache", "show", f"{meta}/{mirror.security_suite}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    (image,) = {
        word.split()[0]
        for line in policy.splitlines()
        if line.startswith("Depends:")
        for word in line.removeprefix("Depends:").split(",")
    }
    options = ("-o", "APT::Sandbox::User=root")
    subprocess.run(
        ["apt-get", *options, "download", f"{meta}/{mirror.security_suite}", image],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    return sorted(folder.glob("*.deb"))


class Saboteur(Silent):
    """Restarts libvirt on the host while the clone boots and before it reboots, and cuts the way
    to the host while a package is being configured in it."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.restarted: list[Phase] = []
        self.cut: list[int] = []

    def phase_started(self, phase: Phase, deadline: float) -> None:
        if phase in (Phase.BOOT, Phase.REBOOT):
            self._host.run("systemctl restart libvirtd")
            self.restarted.append(phase)

    def detail(self, text: str, percent: float | None = None) -> None:
        if text.startswith("Configuring") and not self.cut:
            self.cut = end_our_ssh()


def end_our_ssh() -> list[int]:
    """End all SSH connections to the host that are ours, as a router that restarts would."""
    ended = list(our_ssh())
    for pid in ended:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return ended


def test_a_running_guest_gets_its_new_kernel_and_passes(
    xen: Xen,
    archive: Archive,
    kernel: list[Path],
    administrator: Administrator,
    host: Host,
    capture: Callable[[], Seen],
) -> None:
    """The whole job, although libvirt on the host restarts while the clone boots and before it
    reboots, and the way to the host is cut while its packages are upgraded. The source, which has
    the same addresses, runs on and hears nothing of its clone. What the guest needs elsewhere is
    answered for, before all that and after."""
    archive.offer(kernel)
    saboteur = xen.progress = Saboteur(host)
    before = {
        "domid": host.domid(GUEST),
        "xml": host.run(f"virsh dumpxml {GUEST}"),
        "boot": administrator.inside("cat /proc/sys/kernel/random/boot_id").stdout,
        "kernel": administrator.inside("uname -r").stdout,
    }
    scenario = xen.scenario(
        "upgrade: {what: kernel}\n" + NEEDS,
        test_own=NGINX,
        test_attack=CHECK,
        test_needs=ANSWERED,
    )
    record = xen.run(scenario)
    assert verdict(record) is Verdict.PASS, reason(record)
    assert saboteur.restarted == [Phase.BOOT, Phase.REBOOT]
    assert saboteur.cut, "nothing was cut: this proves nothing"
    assert record.left_behind == ()
    facts, source = record.facts, record.source
    for session in (facts.checks_before, facts.checks_after):
        assert session is not None
        (asked,) = (c for c in session.results if "what_it_needs" in c.name)
        assert asked.outcome is Outcome.PASSED, asked.detail
    assert facts.before is not None
    assert facts.after is not None
    assert facts.before.kernel == before["kernel"].strip()
    assert facts.after.kernel != facts.before.kernel
    assert facts.after.kernel == facts.after.kernels[-1]
    assert facts.reboot is not None
    assert facts.reboot.boot_id_before != facts.reboot.boot_id_after
    assert source is not None
    assert source.method == "thin snapshot"
    assert source.consistency == "crash-consistent"
    assert source.paused_ms > 0, "two disks: it stood still for the moment between them"
    assert any("ran on" in proof for proof in source.untouched)
    assert "answered by a stand-in: http 10.1.2.3:8080" in source.changed
    after = {
        "domid": host.domid(GUEST),
        "xml": host.run(f"virsh dumpxml {GUEST}"),
        "boot": administrator.inside("cat /proc/sys/kernel/random/boot_id").stdout,
        "kernel": administrator.inside("uname -r").stdout,
    }
    assert after == before
    assert "Linux version" in xen.artifact(record, "console.log")
    assert f"paused for {source.paused_ms:.0f} ms" in render(
        record, xen.settings.runs / record.id, "text"
    )
    expect_nothing_on(names(record.id).bridge, capture(), host.bridge(GUEST))
