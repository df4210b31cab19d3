"""A rehearsal by hand: the least that a person has to do with the same guest.

An overlay on the image, the same machine as our clone's on a bridge that is up already, a wait
for ssh that looks twice a second, apt through the same package proxy, a restart, the checks
once with testinfra's own ssh backend, and the machine's end. No look at the guest before the
upgrade, no comparison, no record, no isolation: what the person has prepared or does not do is
not timed.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lxml import etree

from sandbox.clone.discovery import link_local
from sandbox.core.deadline import Deadline
from sandbox.core.process import Completed, run
from sandbox.demo.image import DemoImage
from sandbox.hosts.drivers import Hypervisor, Mark
from sandbox.hosts.drivers.acceleration import acceleration
from sandbox.hosts.drivers.clone_xml import CloneDisk, CloneSpec, clone_xml, macs
from sandbox.hosts.source import ImageSpec, image_source
from sandbox.hosts.transport import LocalHost

NAME = "benchmark-by-hand"
BRIDGE = "handbr0"
PROXY_PORT = 3142
POLL_SECONDS = 0.5
BANNER_SECONDS = 10.0  # a busy emulated guest takes its time to say who it is
VIRSH = ("virsh", "-q", "-c", "qemu:///system")
SSH_CONFIG = """\
Host guest
  HostName {address}
  User root
  IdentityFile {key}
  ConnectTimeout 10
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
  LogLevel ERROR
"""
# Without a terminal, as the person's script would run it; the old configuration files stay.
UPGRADE = """\
set -e
export DEBIAN_FRONTEND=noninteractive
via="-o Acquire::http::Proxy={proxy} -o Acquire::https::Proxy={proxy}"
apt-get -q $via -o APT::Update::Error-Mode=any update </dev/null
echo "lists: $(cut -d' ' -f1 /proc/uptime)"
apt-get -q -y $via -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confdef \
    -o Dpkg::Options::=--force-confold dist-upgrade </dev/null
echo "done: $(cut -d' ' -f1 /proc/uptime)"
echo "boot: $(cat /proc/sys/kernel/random/boot_id)"
"""

# What differs between two clones of one machine; the last is named after its bridge.
PLACES = (
    "./name",
    "./metadata",
    "./devices/*/source",
    "./devices/serial/log",
    "./devices/interface/target",
)


@dataclass(frozen=True)
class ByHand:
    """``seconds`` of each step, in order; ``changed`` packages, new ones included."""

    seconds: dict[str, float]
    changed: int
    machine: str

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


class Clock:
    """Times the steps."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - started


def rehearse_by_hand(
    hypervisor: Hypervisor,
    image: DemoImage,
    spec: ImageSpec,
    proxy: Path,
    checks: Path,
    folder: Path,
    deadline: Deadline,
) -> ByHand:
    """Do all of it once. ``proxy`` is the package proxy's socket, ``checks`` a file of checks.

    Raises what :func:`sandbox.core.process.run` raises when a step fails.
    """
    overlay, definition, config = folder / "vda.qcow2", folder / "hand.xml", folder / "ssh_config"
    machine = machine_xml(hypervisor, spec, overlay, folder / "console.log", deadline)
    definition.write_text(machine)
    address = f"{link_local(macs(machine)[0])}%{BRIDGE}"
    config.write_text(SSH_CONFIG.format(address=address.replace("%", "%%"), key=image.key))
    clock = Clock()
    with _network(folder, deadline):
        try:
            with clock.step("overlay"):
                run(
                    [
                        *("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2"),
                        *("-b", str(image.path), str(overlay)),
                    ],
                    deadline,
                )
            with clock.step("start"):
                run([*VIRSH, "create", str(definition)], deadline)
            with clock.step("boot"):
                _wait_for_ssh(address, deadline)
            with clock.step("upgrade"):
                done = _upgrade(config, proxy, deadline)
            before = _said(done, r"^boot: (\S+)$")
            with clock.step("reboot"):
                _reboot(config, address, before, deadline)
            with clock.step("checks"):
                _check(config, checks, folder, deadline)
        finally:
            with clock.step("removal"):
                run([*VIRSH, "destroy", NAME], deadline, check=False)
                overlay.unlink(missing_ok=True)
    counts = _said(done, r"^(\d+ upgraded, \d+ newly installed)")
    return ByHand(clock.seconds, sum(map(int, re.findall(r"\d+", counts))), machine)


def machine_xml(
    hypervisor: Hypervisor, spec: ImageSpec, overlay: Path, console: Path, deadline: Deadline
) -> str:
    """Our clone's own machine, with the person's name, disk and bridge, and without our mark."""
    source = image_source(hypervisor, spec, deadline)
    derived = clone_xml(
        source.xml,
        CloneSpec(
            name=NAME,
            mark=Mark("", "", 0),
            disks=tuple(CloneDisk(disk.target, overlay) for disk in source.disks),
            bridge=BRIDGE,
            console_log=console,
            accelerated=acceleration() == "kvm",
            nvram=overlay.with_name("nvram.fd"),
        ),
    )
    root = etree.fromstring(derived.xml.encode())
    for metadata in root.findall("./metadata"):
        root.remove(metadata)
    return etree.tostring(root).decode()


def essence(machine: str) -> bytes:
    """A machine without its name, mark and places: equal machines have equal essences."""
    root = etree.fromstring(machine.encode(), etree.XMLParser(remove_blank_text=True))
    for place in PLACES:
        for element in root.findall(place):
            parent = element.getparent()
            assert parent is not None
            parent.remove(element)
    etree.cleanup_namespaces(root)
    return bytes(etree.tostring(root, method="c14n"))


@contextlib.contextmanager
def _network(folder: Path, deadline: Deadline) -> Iterator[None]:
    """A network without an uplink, up before the clock runs; a killed benchmark's is replaced."""
    definition = folder / "network.xml"
    definition.write_text(network_xml())
    run([*VIRSH, "net-destroy", NAME], deadline, check=False)
    run([*VIRSH, "net-create", str(definition)], deadline)
    try:
        run(["sysctl", "-qw", f"net.ipv6.conf.{BRIDGE}.disable_ipv6=0"], deadline)
        yield
    finally:
        run([*VIRSH, "net-destroy", NAME], Deadline(60, "removing the network"))


def network_xml() -> str:
    """DHCP as on our clone's network: apt refuses a proxy on loopback without an IPv4 address."""
    network = etree.Element("network")
    etree.SubElement(network, "name").text = NAME
    etree.SubElement(network, "bridge", name=BRIDGE, stp="off", delay="0")
    etree.SubElement(network, "dns", enable="no")
    ip = etree.SubElement(network, "ip", address="192.168.231.1", netmask="255.255.255.0")
    leases = etree.SubElement(ip, "dhcp")
    etree.SubElement(leases, "range", start="192.168.231.10", end="192.168.231.250")
    return etree.tostring(network).decode()


def _wait_for_ssh(address: str, deadline: Deadline) -> None:
    while not LocalHost().answers_ssh(address, 22, BANNER_SECONDS):
        deadline.sleep(POLL_SECONDS)


def _upgrade(config: Path, proxy: Path, deadline: Deadline) -> Completed:
    script = UPGRADE.format(proxy=f"http://127.0.0.1:{PROXY_PORT}")
    forward = ("-R", f"127.0.0.1:{PROXY_PORT}:{proxy}")
    return run([*_ssh(config, *forward), "sh", "-s"], deadline, input=script.encode())


def _reboot(config: Path, address: str, before: str, deadline: Deadline) -> None:
    """Until a new boot answers: the port of the old one may still be open for a while."""
    run([*_ssh(config), "systemctl", "reboot"], deadline, check=False)
    while True:
        _wait_for_ssh(address, deadline)
        seen = run([*_ssh(config), "cat", "/proc/sys/kernel/random/boot_id"], deadline, check=False)
        if seen.ok and seen.stdout.strip() != before:
            return
        deadline.sleep(POLL_SECONDS)


def _check(config: Path, checks: Path, folder: Path, deadline: Deadline) -> None:
    run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", folder),
            *("-p", "no:cacheprovider", "--hosts=ssh://guest", f"--ssh-config={config}", checks),
        ],
        deadline,
    )


def _ssh(config: Path, *options: str) -> Sequence[str]:
    return ("ssh", "-F", str(config), *options, "guest")


def _said(done: Completed, pattern: str) -> str:
    found = re.search(pattern, done.stdout, re.MULTILINE)
    assert found is not None, f"apt did not say {pattern!r}: {done.stdout[-2000:]}"
    return found[1]
