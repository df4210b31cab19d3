"""Disk image files: facts, lies about their format, and sparse overlays."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from sandbox.deadline import Deadline
from sandbox.errors import CommandFailed, HostError, RequestError
from sandbox.hypervisors import Export
from sandbox.process import run
from sandbox.records import Disk

FORMATS = ("qcow2", "raw", "vmdk", "vhdx", "vpc")
# First bytes of each format; vpc keeps a copy of its footer ("conectix") at the start unless
# the disk is of fixed size, so its absence proves nothing.
_MAGIC = {
    b"QFI\xfb": "qcow2",
    b"KDMV": "vmdk",
    b"# Disk DescriptorFile": "vmdk",
    b"vhdxfile": "vhdx",
    b"conectix": "vpc",
}


def read_image(target: str, path: Path, format: str, deadline: Deadline) -> Disk:
    """The facts of an image whose format is stated; raises :class:`RequestError` on a lie."""
    if not path.is_file():
        raise RequestError(f"no disk image at {path}", "give the path of an existing file")
    seen = _signature(path)
    if seen != format and (seen is not None or format in ("qcow2", "vhdx")):
        looks = f"it looks like {seen}" if seen else f"it has no {format} header"
        raise RequestError(
            f"{path} is said to be {format}, but {looks}",
            f"state the format that it has: {', '.join(FORMATS)}",
        )
    try:
        shown = run(
            # -U: reads beside a writer without waiting for its lock; nothing is written.
            ["qemu-img", "info", "-U", "--output=json", "-f", format, str(path)],
            deadline,
        )
    except CommandFailed as problem:
        raise RequestError(
            f"{path} cannot be read as {format}: {problem.tail}",
            f"state the format that it has: {', '.join(FORMATS)}",
        ) from problem
    facts = json.loads(shown.stdout)
    if facts.get("backing-filename") and not facts.get("backing-filename-format"):
        raise RequestError(
            f"{path} stands on {facts['backing-filename']} without stating that file's format",
            "state it: qemu-img rebase -u -F FORMAT -b FILE IMAGE",
        )
    return Disk(target=target, format=format, path=str(path), size=int(facts["virtual-size"]))


def _signature(path: Path) -> str | None:
    with path.open("rb") as file:
        head = file.read(32)
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)


def create_overlay(export: Export, overlay: Path, deadline: Deadline) -> None:
    """A sparse qcow2 over an NBD export: some 200 KB whatever the disk's size."""
    run(
        [
            *("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw"),
            *("-b", f"nbd+unix:///{export.export}?socket={export.socket}"),
            *(str(overlay), str(export.size)),
        ],
        deadline,
    )
    overlay.chmod(0o600)


def allocated(path: Path) -> int:
    """Bytes that a file really takes on its filesystem."""
    return path.stat().st_blocks * 512


def require_space(folder: Path, needed: int) -> None:
    """Raise :class:`HostError` before a clone is begun that could not be finished."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise HostError(
            f"{folder} has {free >> 20} MiB free, a rehearsal needs {needed >> 20} MiB",
            "free some space, or set `state` in the settings to a larger filesystem",
        )


def make_folder(path: Path, mode: int) -> Path:
    """A folder of ours with exactly this mode, whatever the umask is."""
    path.mkdir(parents=True, exist_ok=True)
    os.chmod(path, mode)
    return path
