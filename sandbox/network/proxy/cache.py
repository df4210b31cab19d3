"""The package cache: one file an object, complete or not there, oldest use removed first.

Several runs share it. A file is a line of JSON (URL, response headers) and the body; it is
written beside and renamed, so a reader meets a whole object or none. A cache that fails (disk
full) costs speed, never a run.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

log = logging.getLogger(__name__)

MAX_HEAD = 65_536
STALE_PART = 86_400.0  # seconds after which a part of a killed download is removed
IMMUTABLE_SUFFIXES = (".deb", ".udeb", ".ddeb", ".rpm")


def is_immutable(path: str) -> bool:
    """Whether what is at this path never changes: packages by version, indexes by their hash."""
    return path.endswith(IMMUTABLE_SUFFIXES) or "/by-hash/" in path


@dataclass
class Entry:
    """An object in the cache, open for reading: eviction meanwhile does not take the body away."""

    url: str
    headers: dict[str, str]  # names in lower case
    size: int
    body: IO[bytes]

    def close(self) -> None:
        self.body.close()


class Cache:
    """A folder of objects, at most ``limit`` bytes. Safe for many threads and processes."""

    def __init__(self, folder: Path, limit: int) -> None:
        """``folder`` is made, mode 0700; raises OSError when that is not possible."""
        self.folder = folder
        self.limit = limit
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = threading.Lock()
        self._keys: dict[str, _KeyLock] = {}
        self._used = sum(size for _, size, _ in self._files())
        self._remove_stale_parts()

    def open(self, url: str) -> Entry | None:
        """The object of this URL, its use noted; None when there is no whole one."""
        path = self._path(url)
        try:
            body = path.open("rb")
        except OSError:
            return None
        with contextlib.ExitStack() as undo:
            undo.callback(body.close)
            entry = self._read_head(url, body)
            if entry is None:
                return None
            with contextlib.suppress(OSError):
                os.utime(path)
            undo.pop_all()
        return entry

    def _read_head(self, url: str, body: IO[bytes]) -> Entry | None:
        try:
            head = json.loads(body.readline(MAX_HEAD))
            size = os.fstat(body.fileno()).st_size - body.tell()
            if head["url"] != url or head["size"] != size:
                return None
            return Entry(url, {str(k): str(v) for k, v in head["headers"].items()}, size, body)
        except (ValueError, KeyError, TypeError, AttributeError, OSError):
            return None

    def store(self, url: str, headers: Mapping[str, str], size: int) -> Part | None:
        """Begin an object of ``size`` bytes; None when it cannot be cached."""
        if size > self.limit:
            return None
        head = json.dumps({"url": url, "headers": dict(headers), "size": size}).encode() + b"\n"
        if len(head) >= MAX_HEAD:
            return None
        try:
            path = self._path(url)
            path.parent.mkdir(exist_ok=True, mode=0o700)
            descriptor, name = tempfile.mkstemp(prefix="part-", dir=self.folder)
            part = Part(self, Path(name), path, os.fdopen(descriptor, "wb"), size)
        except OSError as problem:
            log.warning("package cache: %s", problem)
            return None
        part.write_head(head)
        return part

    @contextlib.contextmanager
    def joined(self, url: str, seconds: float) -> Iterator[None]:
        """Hold the URL, so that others wait for this download instead of starting their own.

        Waits at most ``seconds``, then goes on without: a slow first one must not starve others.
        """
        with self._lock:
            key = self._keys.setdefault(url, _KeyLock(threading.Lock()))
            key.users += 1
        held = key.lock.acquire(timeout=seconds)
        try:
            yield
        finally:
            if held:
                key.lock.release()
            with self._lock:
                key.users -= 1
                if key.users == 0:
                    self._keys.pop(url, None)

    def _added(self, size: int) -> None:
        with self._lock:
            self._used += size
            if self._used > self.limit:
                self._evict()

    def _evict(self) -> None:
        """Remove the longest unused until a tenth is free; sizes are measured anew, because
        other processes use the folder too."""
        files = sorted(self._files())
        self._used = sum(size for _, size, _ in files)
        for _, size, path in files:
            if self._used <= self.limit * 0.9:
                return
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            self._used -= size

    def _files(self) -> Iterator[tuple[float, int, Path]]:
        """(time of last use, size, path) of every whole object."""
        for path in self.folder.glob("??/*"):
            with contextlib.suppress(FileNotFoundError):
                facts = path.stat()
                yield facts.st_mtime, facts.st_size, path

    def _remove_stale_parts(self) -> None:
        for path in self.folder.glob("part-*"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > STALE_PART:
                    path.unlink()

    def _path(self, url: str) -> Path:
        key = hashlib.sha256(url.encode()).hexdigest()
        return self.folder / key[:2] / key


@dataclass
class _KeyLock:
    lock: threading.Lock
    users: int = 0


class Part:
    """An object being written. ``commit`` only when every byte came; else ``discard``."""

    def __init__(self, cache: Cache, temporary: Path, final: Path, file: IO[bytes], size: int):
        self._cache = cache
        self._temporary = temporary
        self._final = final
        self._file = file
        self._left = size
        self._head = 0
        self._broken = False

    def write_head(self, head: bytes) -> None:
        self._head = len(head)
        self._left += len(head)
        self.write(head)

    def write(self, data: bytes) -> None:
        """Never raises: after an error the rest is swallowed and nothing will be committed."""
        self._left -= len(data)
        if self._broken:
            return
        try:
            self._file.write(data)
        except OSError as problem:
            log.warning("package cache: %s", problem)
            self._broken = True

    def commit(self) -> bool:
        """Put the object in place, if it is whole."""
        if self._broken or self._left != 0:
            self.discard()
            return False
        try:
            self._file.close()
            size = self._temporary.stat().st_size
            self._temporary.replace(self._final)
        except OSError as problem:
            log.warning("package cache: %s", problem)
            self.discard()
            return False
        self._cache._added(size)
        return True

    def discard(self) -> None:
        """Remove what was written; harmless after a commit."""
        with contextlib.suppress(OSError):  # closing flushes, which fails on a full disk
            self._file.close()
        self._temporary.unlink(missing_ok=True)
