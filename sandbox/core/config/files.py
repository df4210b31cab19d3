"""Files of this machine that a strict file names."""

from __future__ import annotations

from pathlib import Path

from sandbox.core.config.scalars import shown


def expanded(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as problem:
        raise ValueError(f"{shown(path)}: there is no such home folder") from problem


def existing_file(path: Path) -> Path:
    """The resolved path of a regular file; raises :class:`ValueError`."""
    try:
        resolved = path.resolve()
        if resolved.is_file():
            return resolved
        what = "is a folder" if resolved.is_dir() else "does not exist"
        if resolved.exists() and not resolved.is_dir():
            what = "is a block device" if resolved.is_block_device() else "is a special file"
            what += "; a regular file is needed"
    except (OSError, RuntimeError) as problem:
        what = f"cannot be read: {getattr(problem, 'strerror', None) or problem}"
    raise ValueError(f"{shown(str(path))} {what}")
