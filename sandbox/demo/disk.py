"""A bootable disk from a folder: no loop device, no device node, no mount.

Many machines this runs on (containers, micro-VMs) have a kernel without partition parsing or
loop devices, and a builder that mounts things leaves them behind when it is killed. So the
file system is filled by mke2fs itself and GRUB is placed by hand: its boot sector finds the
core image in the sectors right behind it, which is where an image made by grub-mkimage
expects to be.
"""

from __future__ import annotations

import filecmp
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from uuid import UUID

from sandbox.core.deadline import Deadline
from sandbox.core.errors import HostError
from sandbox.core.process import run

SECTOR = 512
FIRST_SECTOR = 2048  # of the only partition: 1 MiB, the gap holds GRUB's core image
OFFSET = FIRST_SECTOR * SECTOR
BOOT_CODE = 440  # bytes of the first sector; behind them the disk's signature and partitions
GRUB_FOLDER = "boot/grub/i386-pc"
GRUB_MODULES = ("biosdisk", "part_msdos", "ext2", "search_fs_uuid", "normal")


def write_disk(tree: Path, raw: Path, size: int, uuid: UUID, deadline: Deadline) -> None:
    """Make ``raw``: one ext4 partition with ``tree``'s content, started by the tree's GRUB.

    ``size`` is in bytes; the file is sparse. The tree must have the package grub-pc-bin.
    """
    core = _install_grub(tree, deadline)
    with raw.open("wb") as disk:
        disk.truncate(size)
    run(
        ["sfdisk", "--quiet", raw],
        deadline,
        input=f"label: dos\nlabel-id: 0x{uuid.fields[0]:08x}\n"
        f"start={FIRST_SECTOR}, type=83, bootable\n".encode(),
    )
    run(
        # The features that GRUB 2.06 cannot read stay off, whatever the host's defaults are.
        [
            *("mke2fs", "-q", "-F", "-t", "ext4", "-O", "^metadata_csum_seed,^orphan_file"),
            *("-L", "root", "-U", str(uuid), "-m", "1", "-d", str(tree)),
            *("-E", f"offset={OFFSET},lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0"),
            *(str(raw), f"{(size - OFFSET) // 1024}k"),
        ],
        deadline,
    )
    with raw.open("r+b") as disk:
        disk.write((tree / GRUB_FOLDER / "boot.img").read_bytes()[:BOOT_CODE])
        disk.seek(SECTOR)
        disk.write(core)


def to_qcow2(raw: Path, qcow2: Path, deadline: Deadline) -> None:
    """Convert, keeping holes."""
    run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, qcow2], deadline)


def to_raw(qcow2: Path, raw: Path, deadline: Deadline) -> None:
    """Convert back, keeping holes."""
    run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", qcow2, raw], deadline)


def edit_disk(
    raw: Path,
    deadline: Deadline,
    *,
    files: Mapping[str, Path],
    links: Mapping[str, str],
    remove: Sequence[str],
) -> None:
    """Change files of a disk made by :func:`write_disk` without booting or mounting it.

    ``files`` maps paths in the guest to local files (their mode is kept, owner is root),
    ``links`` maps paths to the targets of symbolic links; missing folders are made. Raises
    :class:`HostError` when debugfs could not do one of them.
    """
    wanted = [*files, *links]
    folders = sorted({str(parent) for path in wanted for parent in Path(path).parents} - {"/"})
    # debugfs leaks an inode when it makes a folder that is there: only those that are missing.
    # rm of what is not there fails harmlessly; what counts is checked below.
    missing = [f for f in folders if "Inode:" not in _debugfs(raw, [f'stat "{f}"'], deadline)]
    commands = [f'mkdir "{folder}"' for folder in missing]
    commands += [f'rm "{path}"' for path in (*remove, *wanted)]
    commands += [f'write "{local}" "{path}"' for path, local in files.items()]
    commands += [f'symlink "{path}" "{target}"' for path, target in links.items()]
    _debugfs(raw, commands, deadline, write=True)
    for path in {*remove, *wanted}:
        found = "Inode:" in _debugfs(raw, [f'stat "{path}"'], deadline)
        if found != (path in wanted) or not _holds(raw, path, files.get(path), deadline):
            raise HostError(f"debugfs could not change {path} in {raw}", "is that disk full?")
    # Exit status 1 is "errors corrected", which -n cannot reach; anything but 0 is a broken disk.
    run(["e2fsck", "-f", "-n", f"{raw}?offset={OFFSET}"], deadline)


def _holds(raw: Path, path: str, local: Path | None, deadline: Deadline) -> bool:
    """Whether a file got there whole: on a full disk debugfs leaves its size but not its data."""
    if local is None:
        return True
    with tempfile.NamedTemporaryFile() as copy:
        _debugfs(raw, [f'dump "{path}" {copy.name}'], deadline)
        return filecmp.cmp(copy.name, local, shallow=False)


def _debugfs(raw: Path, commands: Sequence[str], deadline: Deadline, *, write: bool = False) -> str:
    argv = ["debugfs", *(["-w"] if write else []), "-f", "/dev/stdin", f"{raw}?offset={OFFSET}"]
    return run(argv, deadline, input="".join(f"{c}\n" for c in commands).encode()).stdout


def _install_grub(tree: Path, deadline: Deadline) -> bytes:
    """What grub-install does, without a device: modules, boot.img and core.img under /boot."""
    source, target = tree / "usr/lib/grub/i386-pc", tree / GRUB_FOLDER
    target.mkdir(parents=True, exist_ok=True)
    for pattern in ("*.mod", "*.lst", "boot.img"):
        for part in source.glob(pattern):
            shutil.copyfile(part, target / part.name)
    # An empty disk in the prefix means "the disk I was started from".
    run(
        [
            *("chroot", str(tree), "grub-mkimage", "--format=i386-pc"),
            *("--prefix=(,msdos1)/boot/grub", f"--output=/{GRUB_FOLDER}/core.img", *GRUB_MODULES),
        ],
        deadline,
    )
    core = (target / "core.img").read_bytes()
    if len(core) > OFFSET - SECTOR:
        raise HostError(f"GRUB's core image has {len(core)} bytes and does not fit before the disk")
    return core
