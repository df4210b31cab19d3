"""Small observations for the tests of the shared checks."""

from __future__ import annotations

from sandbox.core.records import Filesystem, Observation, Package, Port


def seen(**changed: object) -> Observation:
    """A healthy small web server, changed as told."""
    facts: dict[str, object] = {
        "boot_id": "b",
        "kernel": "6.1.0-31-amd64",
        "kernels": ("6.1.0-30-amd64", "6.1.0-31-amd64"),
        "state": "running",
        "target": "graphical.target",
        "packages": {"nginx:amd64": Package(version="1.22.1-9")},
        "units": {"nginx.service": "active/running", "ssh.service": "active/running"},
        "ports": (tcp(80, process="nginx"), tcp(22, process="sshd")),
        "filesystems": (filesystem("/", 40), filesystem("/boot", 30)),
        "kernel_errors": ("ata1: failed to resume link (SControl 0)",),
        **changed,
    }
    return Observation.model_validate(facts)


def tcp(port: int, address: str = "0.0.0.0", process: str = "", protocol: str = "tcp") -> Port:
    return Port(protocol=protocol, address=address, port=port, process=process)


def filesystem(mount: str, percent: int, inodes: int = 1) -> Filesystem:
    used = percent * 10**7
    return Filesystem(
        mount=mount, size=10**9, used=used, available=10**9 - used, inodes_percent=inodes
    )
