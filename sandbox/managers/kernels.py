"""Which packages are kernels, by name: what a guest with its host's kernel cannot try."""

from __future__ import annotations

import re
from pathlib import Path

from sandbox.core.deadline import Deadline
from sandbox.core.errors import ToolMissing
from sandbox.core.process import run
from sandbox.managers import UpgradeRequest

# Debian's and Ubuntu's images with the names that stand for the newest one, Proxmox's; and of
# those who use RPM.
_KERNEL = re.compile(
    r"(linux-(image|signed-image|signed|generic|virtual|lowlatency|aws|azure|gcp|gke|ibm|kvm|oem|"
    r"oracle|raspi)|(pve|proxmox)-kernel)(-.*)?|kernel(-core|-default|-uek|-lt|-ml)?"
)
_NO_KERNEL = re.compile(r"-(dbg|dbgsym|headers|tools)$")


def is_kernel(name: str) -> bool:
    """Whether a package of this name is, or brings, an image of a kernel; pure."""
    return bool(_KERNEL.fullmatch(name)) and not _NO_KERNEL.search(name)


def named_kernels(request: UpgradeRequest, deadline: Deadline) -> tuple[str, ...]:
    """The kernels among the packages and files that a request names, as it names them."""
    named = [(spec, re.split("[=:]", spec)[0]) for spec in request.packages]
    named += [(file.name, _package_in(file, deadline)) for file in request.files]
    return tuple(shown for shown, name in named if is_kernel(name))


def _package_in(file: Path, deadline: Deadline) -> str:
    """The name that a package file has inside; its file's name where that cannot be read."""
    try:
        shown = run(["dpkg-deb", "--field", file, "Package"], deadline, check=False)
    except ToolMissing:
        return file.name.partition("_")[0]
    return shown.stdout.strip() if shown.ok else file.name.partition("_")[0]
