"""The main job on a real Xen: a running PV guest on LVM thin, its kernel and a package."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from archive import Archive
from xenlab import GUEST, STOPPED, Administrator, Host, Xen, reason, verdict

from sandbox.demo.broken import build_deb
from sandbox.demo.mirror import find_mirror
from sandbox.records import Verdict
from sandbox.report import render

pytestmark = pytest.mark.xen

LOOK = "def test_nginx_runs(host):\n    assert host.service('nginx').is_running\n"


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


def test_a_running_guest_gets_its_new_kernel_and_passes(
    xen: Xen, archive: Archive, kernel: list[Path], administrator: Administrator, host: Host
) -> None:
    archive.offer(kernel)
    before = {
        "domid": host.domid(GUEST),
        "xml": host.run(f"virsh dumpxml {GUEST}"),
        "boot": administrator.inside("cat /proc/sys/kernel/random/boot_id").stdout,
        "kernel": administrator.inside("uname -r").stdout,
    }
    record = xen.run(xen.scenario("upgrade: {what: kernel}\n", test_own=LOOK))
    assert verdict(record) is Verdict.PASS, reason(record)
    facts, source = record.facts, record.source
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


def test_a_stopped_guest_on_a_file_system_with_reflinks(
    xen: Xen, host: Host, tmp_path: Path
) -> None:
    """And with an upgrade that fails: the verdict is of the upgrade, not of Xen."""
    facts = "stat -c '%i %Y %s' /srv/images/db01.qcow2; sha256sum /srv/images/db01.qcow2"
    before = host.run(facts)
    package = build_deb("xen-bad", "1.0", out=tmp_path / "deb", postinst="#!/bin/sh\nexit 3\n")
    scenario = xen.scenario("upgrade: {what: all}\nreboot: never\n", test_own=LOOK)
    record = xen.run(scenario, STOPPED, upgrade=str(package))
    assert verdict(record) is Verdict.FAIL, reason(record)
    assert "xen-bad" in reason(record)
    assert record.source is not None
    assert record.source.method == "reflink copy"
    assert record.source.consistency == "clean"
    assert host.run(facts) == before
