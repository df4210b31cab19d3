"""Where artifacts are copied: a folder, or a bucket of any S3-compatible server.

A clone's artifacts may hold production's secrets: a folder's files are for its owner only, a
bucket must be private. One name is one record's folder, its record (``run.json``) copied last: what
has one is complete.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from sandbox.core.errors import HostError, RequestError
from workers.settings import ServiceSettings

RECORD = "run.json"
_PROBE = "probe"
_PORTION = 1 << 16  # bytes


class NoSuchFile(RequestError):
    """A record has no such file among its artifacts."""

    def __init__(self, name: str, file: str) -> None:
        super().__init__(f"{name} has no file {file!r}", "`sandbox artifacts RUN` lists them")


@dataclass(frozen=True)
class Stored:
    """A file of a record's artifacts."""

    name: str  # with "/" between folders
    size: int


Wanted = Callable[[str], bool]


def everything(_name: str) -> bool:
    return True


class Place(Protocol):
    """What is done with artifacts; raises :class:`HostError` when the place does not answer."""

    @property
    def url(self) -> str:
        """For people."""

    def put(self, name: str, folder: Path) -> int:
        """Copy a record's folder, in place of what is there under its name; the bytes copied."""

    def files(self, name: str) -> tuple[Stored, ...]:
        """The files under a name, by name; none when there is nothing."""

    def fetch(self, name: str, to: Path, wanted: Wanted = everything) -> None:
        """Copy them, or those that are wanted by their names, into a folder, which is made."""

    def stream(self, name: str, file: str) -> Iterator[bytes]:
        """One of its files in portions; raises :class:`NoSuchFile` at once for none of them."""

    def remove(self, name: str) -> None:
        """Remove them; nothing there is fine."""

    def check(self) -> str:
        """Really write, read and remove something; says what room there is."""


def place_for(settings: ServiceSettings) -> Place | None:
    """The place that the settings name; None when artifacts stay on their worker."""
    text = settings.artifacts
    if not text:
        return None
    if text.startswith("s3://"):
        bucket, _, prefix = text.removeprefix("s3://").partition("/")
        if not bucket:
            raise RequestError(f"{text!r} names no bucket", "s3://BUCKET/PREFIX")
        return S3(bucket, prefix.strip("/"), settings.s3_endpoint)
    if not text.startswith("/"):
        raise RequestError(
            f"the place for artifacts is no absolute path: {text!r}", "/PATH, or s3://BUCKET/PREFIX"
        )
    return Folder(Path(text))


def files_of(folder: Path) -> tuple[Stored, ...]:
    """The regular files beneath a folder, its record last; a link is not followed."""
    found = []
    for root, _folders, names in os.walk(folder):
        for name in names:
            path = Path(root, name)
            if path.is_file() and not path.is_symlink():
                relative = path.relative_to(folder).as_posix()
                found.append(Stored(relative, path.stat().st_size))
    return tuple(sorted(found, key=lambda one: (one.name == RECORD, one.name)))


@dataclass(frozen=True)
class Folder:
    """Implements :class:`Place`: a folder, perhaps on a network file system."""

    path: Path

    @property
    def url(self) -> str:
        return str(self.path)

    def put(self, name: str, folder: Path) -> int:
        total = 0
        with self._explained("copied to"):
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            place = self._place(name)
            for left in self.path.glob(f".{name}.*"):  # of a copy that was killed
                _remove_tree(left)
            fresh = self.path / f".{name}.{secrets.token_hex(4)}"
            try:
                for one in files_of(folder):
                    _copy(folder / one.name, _inside(fresh, one.name))
                    total += one.size
                fresh.mkdir(exist_ok=True, mode=0o700)
                _remove_tree(place)
                fresh.rename(place)
            finally:
                _remove_tree(fresh)
        return total

    def files(self, name: str) -> tuple[Stored, ...]:
        with self._explained("looked at"):
            return tuple(sorted(files_of(self._place(name)), key=lambda one: one.name))

    def fetch(self, name: str, to: Path, wanted: Wanted = everything) -> None:
        with self._explained("copied from"):
            to.mkdir(parents=True, exist_ok=True, mode=0o700)
            for one in _those(self.files(name), wanted):
                _copy(self._place(name) / one.name, _inside(to, one.name))

    def stream(self, name: str, file: str) -> Iterator[bytes]:
        _require(self, name, file)
        path = _inside(self._place(name), file)
        with self._explained("read from"):
            opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        return self._portions(opened)

    def _portions(self, opened: int) -> Iterator[bytes]:
        with self._explained("read from"), os.fdopen(opened, "rb") as content:
            while portion := content.read(_PORTION):
                yield portion

    def remove(self, name: str) -> None:
        with self._explained("removed from"):
            _remove_tree(self._place(name))

    def check(self) -> str:
        with self._explained("written to"):
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            probe = self.path / f".{_PROBE}.{secrets.token_hex(4)}"
            probe.touch(mode=0o600)
            probe.unlink()
            return f"{shutil.disk_usage(self.path).free >> 20} MiB free"

    def _place(self, name: str) -> Path:
        return self.path / _bare(name)

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as problem:
            raise HostError(
                f"artifacts could not be {what} {self.path}: {problem}",
                "is there room, and may this user write there?",
            ) from problem


@dataclass(frozen=True)
class S3:
    """Implements :class:`Place`: a bucket. Keys come from where boto3 looks for them."""

    bucket: str
    prefix: str = ""
    endpoint: str = ""
    page: int = 1000  # keys in an answer

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    def put(self, name: str, folder: Path) -> int:
        with self._client("copied to") as client:
            stale = {one.name for one in self.files(name)}
            client.delete_object(Bucket=self.bucket, Key=self._key(name, RECORD))
            total = 0
            for one in files_of(folder):
                client.upload_file(str(folder / one.name), self.bucket, self._key(name, one.name))
                total += one.size
                stale.discard(one.name)
            for left in stale:
                client.delete_object(Bucket=self.bucket, Key=self._key(name, left))
        return total

    def files(self, name: str) -> tuple[Stored, ...]:
        start = self._key(name, "")
        with self._client("looked at") as client:
            pages = client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=start, PaginationConfig={"PageSize": self.page}
            )
            return tuple(
                Stored(found["Key"].removeprefix(start), int(found["Size"]))
                for page in pages
                for found in page.get("Contents", ())
            )

    def fetch(self, name: str, to: Path, wanted: Wanted = everything) -> None:
        with self._client("copied from") as client:
            to.mkdir(parents=True, exist_ok=True, mode=0o700)
            for one in _those(self.files(name), wanted):
                path = _inside(to, one.name)
                _prepare(path)
                client.download_file(self.bucket, self._key(name, one.name), str(path))
                path.chmod(0o600)

    def stream(self, name: str, file: str) -> Iterator[bytes]:
        _require(self, name, file)
        with self._client("read from") as client:
            found = client.get_object(Bucket=self.bucket, Key=self._key(name, file))
        return self._portions(found["Body"])

    def _portions(self, body: Any) -> Iterator[bytes]:
        with self._client("read from"), contextlib.closing(body):
            yield from body.iter_chunks(_PORTION)

    def remove(self, name: str) -> None:
        with self._client("removed from") as client:
            for one in self.files(name):
                client.delete_object(Bucket=self.bucket, Key=self._key(name, one.name))

    def check(self) -> str:
        with self._client("written to") as client:
            key = self._key(f".{_PROBE}.{secrets.token_hex(4)}", _PROBE)
            client.put_object(Bucket=self.bucket, Key=key, Body=b"")
            client.delete_object(Bucket=self.bucket, Key=key)
        return "may be written to"

    def _key(self, name: str, file: str) -> str:
        return "/".join(part for part in (self.prefix, _bare(name), "") if part) + "/" + file

    @contextlib.contextmanager
    def _client(self, what: str) -> Iterator[Any]:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield _s3_client(self.endpoint)
        except (Boto3Error, BotoCoreError, ClientError, OSError, ValueError) as problem:
            raise HostError(
                f"artifacts could not be {what} {self.url}: {problem}",
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ~/.aws, have the key; "
                "SANDBOX_SERVICE_S3_ENDPOINT says where the server is",
            ) from problem


@lru_cache(maxsize=4)
def _s3_client(endpoint: str) -> Any:
    from boto3.session import Session
    from botocore.config import Config

    config = Config(
        connect_timeout=10,
        read_timeout=60,
        retries={"mode": "standard", "max_attempts": 3},
        # Newer checksums than MD5 are Amazon's own: other servers refuse them.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return Session().client("s3", endpoint_url=endpoint or None, config=config)


def _those(files: Iterable[Stored], wanted: Wanted) -> Iterator[Stored]:
    """The record is wanted whatever else is."""
    return (one for one in files if one.name == RECORD or wanted(one.name))


def _require(place: Place, name: str, file: str) -> None:
    """What is not listed is not there, however it is written."""
    if file not in {one.name for one in place.files(name)}:
        raise NoSuchFile(name, file)


def _bare(name: str) -> str:
    """A record's name, which is one folder and nothing else."""
    if not name or "/" in name or name in (".", ".."):
        raise RequestError(f"{name!r} is no name of a record", "`sandbox artifacts RUN` lists them")
    return name


def _inside(folder: Path, name: str) -> Path:
    """A file beneath a folder; a name that leads out is refused, since others write there too."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\0" in name:
        raise HostError(f"{name!r} leads out of its folder", "another program wrote to the place")
    return folder.joinpath(*parts)


def _prepare(path: Path) -> None:
    """An empty file for its owner only, so that no other user can read it while it grows."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)


def _copy(source: Path, target: Path) -> None:
    _prepare(target)
    shutil.copyfile(source, target)


def _remove_tree(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):  # another process was faster
        shutil.rmtree(path)
