"""Disk image files: facts, lies about their format, and sparse overlays."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from sandbox.core.deadline import Deadline
from sandbox.core.errors import CommandFailed, NoRoom, RequestError
from sandbox.core.process import run
from sandbox.core.records import Disk
from sandbox.hosts.drivers import Export

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
_STATE_IT = f"state the format that it has: {', '.join(FORMATS)}"
_ONE_FILE = (
    "an image may name files in its own folder only, unless the scenario states them (source: "
    "{image: {bases: [FILE]}}); or make one image of all: qemu-img convert -f FORMAT -O qcow2 "
    "IMAGE NEW"
)
_LONGEST_CHAIN = 64


def read_image(
    target: str, path: Path, format: str, deadline: Deadline, stated: Collection[Path] = ()
) -> Disk:
    """The facts of an image whose format is stated; raises :class:`RequestError` on a lie.

    What its header names besides (a backing file, extents, a data file) becomes part of the
    clone's disk: it has to be in the image's own folder, or to be ``stated`` itself.
    """
    if not path.is_file():
        raise RequestError(f"no disk image at {path}", "give the path of an existing file")
    seen = _signature(path)
    if seen != format and (seen is not None or format in ("qcow2", "vhdx")):
        looks = f"it looks like {seen}" if seen else f"it has no {format} header"
        raise RequestError(f"{path} is said to be {format}, but {looks}", _STATE_IT)
    facts = _info(path, format, deadline)
    chain = tuple(str(file) for file in _beneath(path, facts, path.parent, stated, deadline))
    size = int(facts["virtual-size"])
    return Disk(target=target, format=format, path=str(path), size=size, chain=chain)


def _info(path: Path, format: str, deadline: Deadline) -> dict[str, Any]:
    """What qemu-img says of one file; its backing file is not opened."""
    try:
        # -U: reads beside a writer without waiting for its lock; nothing is written.
        argv = ["qemu-img", "info", "-U", "--output=json", "-f", format, str(path)]
        return dict(json.loads(run(argv, deadline).stdout))
    except CommandFailed as problem:
        raise RequestError(
            f"{path} cannot be read as {format}: {problem.tail}", _STATE_IT
        ) from problem


def _beneath(
    path: Path, facts: dict[str, Any], folder: Path, stated: Collection[Path], deadline: Deadline
) -> Iterator[Path]:
    """Every other file that an image is made of, each looked at before it is opened as an image."""
    for _ in range(_LONGEST_CHAIN):
        own = facts.get("format-specific", {}).get("data", {})
        parts = [extent["filename"] for extent in own.get("extents", ())]
        parts += [own["data-file"]] if own.get("data-file") else []
        for part in parts:
            file = _allowed(path, part, folder, stated)
            if file != path:
                yield file
        name, format = facts.get("backing-filename"), facts.get("backing-filename-format")
        if not name:
            return
        if not format:
            raise RequestError(
                f"{path} stands on {name} without stating that file's format",
                "state it: qemu-img rebase -u -F FORMAT -b FILE IMAGE",
            )
        path = _allowed(path, name, folder, stated)
        yield path
        facts = _info(path, format, deadline)
    raise RequestError(f"{path} stands on itself, or on very many files", _ONE_FILE)


def _allowed(path: Path, name: str, folder: Path, stated: Collection[Path]) -> Path:
    """The file that an image names; an untrusted image must not name one of the host's files."""
    if ":" in name.partition("/")[0]:  # QEMU takes it for a protocol, or for options in JSON
        raise RequestError(f"{path} names {name!r}, which is no plain file", _ONE_FILE)
    file = (path.parent / name).resolve()
    if not file.is_relative_to(folder) and file not in stated:
        raise RequestError(f"{path} takes a part of its content from {file}", _ONE_FILE)
    if not file.is_file():
        raise RequestError(f"{path} needs {file}, which is no file", "is it in another place?")
    return file


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
        raise NoRoom(
            f"{folder} has {free >> 20} MiB free, a rehearsal needs {needed >> 20} MiB",
            "free some space, or set `state` in the settings to a larger filesystem",
        )


def make_folder(path: Path, mode: int) -> Path:
    """A folder of ours with exactly this mode, whatever the umask is."""
    path.mkdir(parents=True, exist_ok=True)
    os.chmod(path, mode)
    return path
