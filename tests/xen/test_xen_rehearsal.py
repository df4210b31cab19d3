"""The main job on a real Xen: a running PV guest on LVM thin, its kernel and a package."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from archive import Archive
from xenlab import GUEST, STOPPED, Administrator, Host, Xen, reason, verdict

from sandbox.demo.mirror import find_mirror
from sandbox.network import names
from sandbox.progress import Silent
from sandbox.records import Outcome, Phase, Verdict
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


class Saboteur(Silent):
    """Restarts libvirt on the host while the clone boots, and cuts the way to the host while a
    package is being configured in it."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.cut: list[int] = []

    def phase_started(self, phase: Phase, deadline: float) -> None:
        if phase is Phase.BOOT:
            self._host.run("systemctl restart libvirtd")

    def detail(self, text: str, percent: float | None = None) -> None:
        if text.startswith("Configuring") and not self.cut:
            self.cut = _cut()


def _cut() -> list[int]:
    """End all SSH connections to the host that are ours, as a router that restarts would."""
    ended = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            argv = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if argv.startswith(b"ssh") and b"/run/upgrade-sandbox/ssh" in argv:
            os.kill(int(entry.name), signal.SIGKILL)
            ended.append(int(entry.name))
    return ended


def test_a_running_guest_gets_its_new_kernel_and_passes(
    xen: Xen, archive: Archive, kernel: list[Path], administrator: Administrator, host: Host
) -> None:
    """The whole job, although libvirt on the host restarts while the clone boots, and the way to
    the host is cut while its packages are upgraded."""
    archive.offer(kernel)
    saboteur = xen.progress = Saboteur(host)
    before = {
        "domid": host.domid(GUEST),
        "xml": host.run(f"virsh dumpxml {GUEST}"),
        "boot": administrator.inside("cat /proc/sys/kernel/random/boot_id").stdout,
        "kernel": administrator.inside("uname -r").stdout,
    }
    record = xen.run(xen.scenario("upgrade: {what: kernel}\n", test_own=LOOK))
    assert verdict(record) is Verdict.PASS, reason(record)
    assert saboteur.cut, "nothing was cut: this proves nothing"
    assert record.left_behind == ()
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


BY_SCRIPT = "upgrade: {what: script, script: upgrade.sh}\nreboot: never\n"
MARKER, CONTROL = "upgrade-sandbox-attack", "upgrade-sandbox-control"
# Run in the clone as a check: whatever it may try, on every way there is.
ATTACK = f"""
import os, socket, subprocess
nic = next(name for name in sorted(os.listdir("/sys/class/net")) if name != "lo")
for line in ("ip addr add 198.51.100.77/24 dev NIC", "ip route add default dev NIC"):
    subprocess.run(line.replace("NIC", nic).split(), stderr=subprocess.DEVNULL)
index, said = socket.if_nametoindex(nic), b"{MARKER}"
own = subprocess.run(["ip", "-4", "-o", "addr", "show", nic], capture_output=True, text=True).stdout
gateways = [w.rsplit(".", 1)[0] + ".1" for w in own.split() if w.startswith("198.18.")]
hosts = ["198.51.100.1", "198.51.100.91", "169.254.169.254", "10.0.2.2", "255.255.255.255"]
for address in hosts + gateways:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        for port in (53, 67, 123, 4789):
            try: s.sendto(said, (address, port))
            except OSError: pass
with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as s:
    for address in ("ff02::1", "ff02::2"):
        s.sendto(said, (address, 5353, 0, index))
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
    raw.bind((nic, 0))
    for target in ("ffffffffffff", "0180c200000e", "0180c2000000", "333300000001"):
        raw.send(bytes.fromhex(target + "00163e5a0b01" + "88b5") + said)
reached = []
for address in hosts[:1] + gateways:
    for port in (22, 53, 111, 16509):
        try: socket.create_connection((address, port), 2).close()
        except OSError: continue
        reached.append((address, port))
print(reached)
"""
CHECK = f"""
def test_nothing_is_reached(host):
    done = host.run("python3 -c %s", {ATTACK!r})
    assert done.stdout == "[]\\n", done
"""


Seen = dict[str, set[str]]


@pytest.fixture
def capture(host: Host, administrator: Administrator) -> Iterator[Callable[[], Seen]]:
    """What dom0 sees on all its interfaces: those on which each marker was seen."""
    host.run(
        "rm -f /run/sbtest.pcap; setsid tcpdump -i any -U -w /run/sbtest.pcap "
        ">/dev/null 2>&1 </dev/null & echo $! >/run/sbtest.pid; sleep 3"
    )

    def seen() -> Seen:
        host.run("sleep 2; kill $(cat /run/sbtest.pid); sleep 1")
        shown = host.run("tcpdump -r /run/sbtest.pcap -A -n 2>/dev/null")
        found: Seen = {MARKER: set(), CONTROL: set()}
        current = ""
        for line in shown.splitlines():
            if re.match(r"\d\d:\d\d:\d\d\.", line):
                current = line.split()[1]
            for marker in found:
                if marker in line:
                    found[marker].add(current)
        return found

    yield seen
    host.run("kill $(cat /run/sbtest.pid) 2>/dev/null; rm -f /run/sbtest.*", check=False)


def test_a_hostile_clone_of_a_stopped_guest_on_a_file_system_with_reflinks(
    xen: Xen,
    host: Host,
    administrator: Administrator,
    capture: Callable[[], Seen],
) -> None:
    """Nothing leaves its bridge; its upgrade fails, and the verdict is of the upgrade."""
    administrator.inside(
        "bash -c 'nic=$(ls /sys/class/net | grep -v lo | head -n 1); "
        f'echo {CONTROL} >"/dev/udp/ff02::1%$nic/9"\''
    )
    facts = "stat -c '%i %Y %s' /srv/images/db01.qcow2; sha256sum /srv/images/db01.qcow2"
    before = host.run(facts)
    scenario = xen.scenario(BY_SCRIPT, test_attack=CHECK)
    (scenario / "upgrade.sh").write_text("#!/bin/sh\nexit 3\n")
    record = xen.run(scenario, STOPPED)
    assert verdict(record) is Verdict.FAIL, reason(record)
    assert "3" in reason(record)
    assert record.facts.checks_before is not None
    (attack,) = (c for c in record.facts.checks_before.results if "nothing_is_reached" in c.name)
    assert attack.outcome is Outcome.PASSED, attack.detail
    assert record.source is not None
    assert record.source.method == "reflink copy"
    assert record.source.consistency == "clean"
    assert host.run(facts) == before
    bridge = names(record.id).bridge
    seen = capture()
    assert "xenbr0" in seen[CONTROL], "the capture sees nothing where there was something to see"
    assert seen[MARKER], "the clone did not say anything"
    # tcpdump names interfaces when it shows what it kept: "?" is one that is gone by then, as the
    # run's own are. All others of dom0 are still there.
    assert [name for name in seen[MARKER] if name != "?" and not name.startswith(bridge)] == []
