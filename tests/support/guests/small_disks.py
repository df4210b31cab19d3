"""Empty disk images, and the XML of guests that have them; nothing boots from them."""

from __future__ import annotations

from pathlib import Path

from sandbox.core.process import run
from tests.support.waiting import soon

SIZE = 8 << 20  # bytes


def make_image(path: Path, format: str = "qcow2", size: int = SIZE) -> Path:
    """An empty image of ``size`` bytes, whatever its format rounds to."""
    options = ["-o", "force_size=on"] if format == "vpc" else []
    argv = ["qemu-img", "create", "-q", "-f", format, *options, str(path), str(size)]
    run(argv, soon())
    return path


def disk(target: str, source: str, *, attributes: str = "type='file'", more: str = "") -> str:
    """A disk's XML; ``source`` are the attributes of its source."""
    return (
        f"<disk {attributes}><driver name='qemu' type='qcow2'/><source {source}/>"
        f"<target dev='{target}' bus='virtio'/>{more}</disk>"
    )


def guest(devices: str, os: str = "<type>hvm</type>") -> str:
    """The XML of a guest ``web01``."""
    return (
        "<domain type='kvm'><name>web01</name><memory>65536</memory>"
        f"<os>{os}</os><devices>{devices}</devices></domain>"
    )
