"""What comes and goes in any guest by itself, and so says nothing of an upgrade."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

from sandbox.core.records import Port

_ID = "[0-9a-f]" * 64  # a container's, in the names of its mounts and of its timers

# Units that come and go by themselves: login sessions, ours among them, and services that
# D-Bus or a socket starts on demand and that end when idle.
TRANSIENT_UNITS = (
    "user@*.service",
    "user-runtime-dir@*.service",
    "session-*.scope",
    "run-user-*.mount",
    "run-credentials-*.mount",
    "snap-*.mount",
    "proc-sys-fs-binfmt_misc.mount",
    "ssh@*.service",
    "sshd@*.service",
    "systemd-hostnamed.service",
    "systemd-timedated.service",
    "systemd-localed.service",
    # File systems are checked when they were not unmounted cleanly, as a running source's are.
    "systemd-fsck*",
    "e2scrub_reap.service",
    "systemd-firstboot.service",
    "systemd-machine-id-commit.service",
    "systemd-rfkill.service",
    "packagekit.service",
    "fwupd.service",
    # What is mounted for containers and for network namespaces is mounted anew for each of them. A
    # disk of its own at /var/lib/docker, at its volumes or at Podman's storage is none of these.
    "run-docker-*.mount",
    "run-netns-*.mount",
    "run-containerd-*.mount",
    "run-containers-*.mount",
    "run-k3s-*.mount",
    "var-lib-docker-[!v]*.mount",
    "var-lib-docker-volumes-*.mount",
    "var-lib-containers-storage-*.mount",
    "var-lib-kubelet-*.mount",
    f"*-{_ID}*.mount",
    # Podman asks after the health of a container with a timer of that container's name.
    f"{_ID}*.service",
    f"{_ID}*.timer",
)


def comes_and_goes(unit: str) -> bool:
    """Whether a unit starts and ends on its own."""
    return any(fnmatchcase(unit, pattern) for pattern in TRANSIENT_UNITS)


_CONTAINERS = re.compile(
    r"/var/lib/(?:docker/(?!volumes$)|containers/storage/|kubelet/).+|(?:/.*)?/[0-9a-f]{64}(?:/.*)?"
)


def is_a_containers(mount: str) -> bool:
    """Whether a container's file system is mounted there: as long as that container runs."""
    return _CONTAINERS.fullmatch(mount) is not None


FIRST_RANDOM_PORT = 32768  # net.ipv4.ip_local_port_range
_FIRST_PLAIN_PORT = 1024
_DHCP_CLIENT_PORTS = (68, 546)
# Programs that listen on a port the kernel picks anew at every start. The nameless one is the
# kernel itself (NFS locking), sshd's is the way to the package proxy.
_RANDOM_PORT_PROGRAMS = ("", "rpc.statd", "rpc.mountd", "rpcbind", "sshd", "sshd-session")


def is_lasting(port: Port) -> bool:
    """Whether this socket is a service's own and not one that was numbered at random."""
    if port.protocol == "udp":
        return (
            port.port < FIRST_RANDOM_PORT
            and port.port not in _DHCP_CLIENT_PORTS
            and not _is_for_questions(port)
        )
    return port.port < FIRST_RANDOM_PORT or port.process not in _RANDOM_PORT_PROGRAMS


def _is_for_questions(port: Port) -> bool:
    """From where the NFS helpers ask: any of the ports that are root's alone."""
    if port.port >= _FIRST_PLAIN_PORT:
        return False
    if port.process == "rpcbind":
        return port.port != 111
    return port.process == "rpc.statd" and port.address == "127.0.0.1"


# What a kernel says of the machine's clock when the host was busy at that moment of the start.
_BUSY_HOST = ("MP-BIOS bug: 8254 timer not connected",)


def tells_of_the_host(message: str) -> bool:
    """Whether a kernel message is about the host that the guest happened to start on."""
    return any(words in message for words in _BUSY_HOST)


_VARYING = re.compile(
    r"""
      [0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}  # UUID
    | [0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-9a-f]                 # PCI address
    | (?:[0-9a-f]{2}:){5}[0-9a-f]{2}                                # MAC address
    | (?<![\w:.#])(?:[0-9a-f]{0,4}:){2,7}[0-9a-f]{0,4}(?![\w:#])    # IPv6 address
    | 0x[0-9a-f]+
    | \b(?=[a-f]*[0-9])[0-9a-f]{5,}\b                               # a bare address, a short id
    | [0-9]+
    """,
    re.VERBOSE | re.IGNORECASE | re.ASCII,
)
_STAMP = re.compile(r"^(?:<\d+>)?\s*(?:\[\s*\d+\.\d+\]\s*)?(?:kernel:\s*)?", re.ASCII)


def normalised(message: str) -> str:
    """A log line without what differs from boot to boot: stamps, addresses, ids, numbers."""
    return " ".join(_VARYING.sub("#", _STAMP.sub("", message)).split())
