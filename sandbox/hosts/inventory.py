"""The inventory: ``hosts.yaml`` says which hosts there are, how to reach them, and their limits.

Read strictly, as scenarios are. Without one there is the host of ``SANDBOX_URI``, else this
machine. A host's URI says everything that is needed to reach it: a run notes it, so that its
clone can be removed even when the inventory has changed.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from pydantic import Field, PlainValidator, ValidationError

from sandbox.core.config import scalars, strict_yaml
from sandbox.core.config.files import existing_file
from sandbox.core.config.problems import Problem, problem_lines, shape_problems
from sandbox.core.config.section import Section, Size
from sandbox.core.deadline import Deadline
from sandbox.core.errors import RequestError
from sandbox.core.settings import Settings
from sandbox.hosts import drivers
from sandbox.hosts.capacity import NO_LIMITS, Limits, VolumeStore
from sandbox.hosts.volumes.lvm import POOL_LIMIT

if TYPE_CHECKING:
    from sandbox.hosts.drivers import Hypervisor

CONNECT_SECONDS, REMOTE_CONNECT_SECONDS = 20.0, 90.0
_JUMP = re.compile(
    r"(?:[A-Za-z0-9_.+-]+@)?(?:[A-Za-z0-9][A-Za-z0-9._-]*|\[[0-9a-fA-F:.]+\])(?::[0-9]{1,5})?"
)
_POOL = re.compile(r"[A-Za-z0-9_+.][A-Za-z0-9_+.-]*/[A-Za-z0-9_+.][A-Za-z0-9_+.-]*")
# Keys that become parameters of the URI, which transport.py understands.
_WAYS = {"jump": "jump", "identity": "keyfile", "ssh_config": "ssh_config"}


def _uri(value: object) -> str:
    """One that there is a driver for: else it would be refused when it is too late."""
    uri = scalars.text(value)
    try:
        parts = urlsplit(uri)
        host, _port = parts.hostname, parts.port
    except ValueError as problem:
        raise ValueError(f"{scalars.shown(uri)} is no URI: {problem}") from problem
    kind, _, transport = parts.scheme.partition("+")
    if kind not in ("xen", "qemu") or not uri.startswith(f"{parts.scheme}://"):
        raise ValueError(
            f"{scalars.shown(uri)} is not a URI like xen+ssh://root@HOST/system or qemu:///system"
        )
    if transport not in ("", "unix", "ssh") or (kind, transport) == ("qemu", "ssh"):
        raise ValueError(
            f"{scalars.shown(uri)}: supported are qemu:///system, xen:///system and "
            "xen+ssh://root@HOST/system"
        )
    if bool(host) != (transport == "ssh"):
        need = "names no host" if transport else f"needs +ssh to reach {host}"
        raise ValueError(f"{scalars.shown(uri)} {need}: xen+ssh://root@HOST/system")
    if parts.password:
        raise ValueError("a URI must not hold a password: reports show it; use a key")
    return uri


def _jump(value: object) -> str:
    jump = scalars.text(value)
    if not _JUMP.fullmatch(jump):
        raise ValueError(f"{scalars.shown(jump)} is not a host on the way: USER@HOST or HOST:PORT")
    return jump


def _own_file(value: object) -> str:
    path = Path(scalars.text(value))
    try:
        path = path.expanduser()
    except RuntimeError as problem:
        raise ValueError(f"{scalars.shown(str(path))}: there is no such home folder") from problem
    if not path.is_absolute():
        raise ValueError(
            f"{scalars.shown(str(path))} is not an absolute path: begin it with / or ~/"
        )
    if path.suffix == ".pub":
        raise ValueError(f"{scalars.shown(str(path))} is the public half: name the private key")
    return str(existing_file(path))


def _place(value: object) -> str:
    place = scalars.text(value)
    if not place.startswith("/") and not _POOL.fullmatch(place):
        raise ValueError(f"{scalars.shown(place)} is neither GROUP/POOL nor an absolute folder")
    return place.rstrip("/") or "/"


OwnFile = Annotated[str, PlainValidator(_own_file)]
Percent = Annotated[int, Field(ge=1, le=int(POOL_LIMIT))]


class HostEntry(Section):
    """One host of the file."""

    name: Annotated[str, PlainValidator(scalars.host_name)] = Field(description="for --host: xen1")
    uri: Annotated[str, PlainValidator(_uri)] = Field(
        description="libvirt's: xen+ssh://root@xen1.example.org/system"
    )
    jump: Annotated[str, PlainValidator(_jump)] | None = Field(
        default=None, description="host on the way, entered with the same key: user@host:port"
    )
    identity: OwnFile | None = Field(default=None, description="private key that the host accepts")
    ssh_config: OwnFile | None = Field(
        default=None, description="read by ssh instead of the user's"
    )
    store: VolumeStore = Field(default="auto", description="where its guests' disks have to be")
    place: Annotated[str, PlainValidator(_place)] | None = Field(
        default=None, description="the store's: GROUP/POOL of lvm-thin, a folder for reflink"
    )
    parallel: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        default=None, description="most clones at once, kept ones included"
    )
    keep_free: Size | None = Field(default=None, description="memory that clones leave: 2GiB")
    pool_data: Percent = Field(
        default=int(POOL_LIMIT), description="percent of a thin pool's data: no clones beyond it"
    )
    pool_metadata: Percent = Field(
        default=int(POOL_LIMIT), description="percent of its metadata: no clones beyond it"
    )

    @property
    def known(self) -> KnownHost:
        """The host as the rest of the product knows it."""
        given = {name: getattr(self, key) for key, name in _WAYS.items()}
        parts = urlsplit(self.uri)
        options = dict(parse_qsl(parts.query)) | {k: v for k, v in given.items() if v}
        uri = urlunsplit(parts._replace(query=urlencode(options))) if options else self.uri
        limits = Limits(
            parallel=self.parallel,
            keep_free=self.keep_free or 0,
            pool_data=float(self.pool_data),
            pool_metadata=float(self.pool_metadata),
            store=self.store,
            place=self.place or "",
        )
        return KnownHost(self.name, uri, limits)


class HostsFile(Section):
    """The file."""

    hosts: tuple[HostEntry, ...] = Field(description="a list of hosts, each with name and uri")


@dataclass(frozen=True)
class KnownHost:
    """A host that can be connected to."""

    name: str
    uri: str
    limits: Limits = NO_LIMITS

    @property
    def kind(self) -> str:
        return "xen" if self.uri.startswith("xen") else "qemu"

    @property
    def remote(self) -> bool:
        return bool(urlsplit(self.uri).hostname)


def read_hosts(path: Path) -> tuple[KnownHost, ...]:
    """The hosts of a file; raises :class:`RequestError` with all that is wrong with it."""
    document = strict_yaml.load(path)
    problems = list(_rule_problems(document.data))
    parsed = None
    try:
        parsed = HostsFile.model_validate_json(json.dumps(document.data))
    except ValidationError as invalid:
        problems += shape_problems(invalid, HostsFile)
    if parsed is None or problems:
        lines = problem_lines(document, problems)
        head = f"{len(lines)} problems:\n" if len(lines) > 1 else ""
        raise RequestError(head + "\n".join(lines), "correct the inventory; nothing was done")
    return tuple(entry.known for entry in parsed.hosts)


def _rule_problems(data: Mapping[str, Any]) -> Iterator[Problem]:
    """Entries that contradict themselves or one another; the types may still be wrong."""
    entries = data.get("hosts")
    seen: dict[tuple[str, str], int] = {}
    for number, entry in enumerate(entries if isinstance(entries, list) else []):
        if not isinstance(entry, dict):
            continue
        for key in ("name", "uri"):
            value = str(entry.get(key))
            first = seen.setdefault((key, value), number)
            if first != number and entry.get(key) is not None:
                what = f"{scalars.shown(value)} is given twice, first in hosts.{first}: keep one"
                yield Problem(("hosts", number, key), what)
        yield from _entry_problems(("hosts", number), entry)


def _entry_problems(key: tuple[str | int, ...], entry: Mapping[str, Any]) -> Iterator[Problem]:
    uri, store, place = (str(entry.get(name) or "") for name in ("uri", "store", "place"))
    given = dict(parse_qsl(uri.partition("?")[2]))
    for name, parameter in _WAYS.items():
        if entry.get(name) is not None and "+ssh:" not in uri:
            yield Problem((*key, name), "is for hosts that are reached by ssh (+ssh in the uri)")
        elif entry.get(name) is not None and parameter in given:
            yield Problem((*key, name), f"is in the uri as well ({parameter}=): keep one")
    if store not in ("", "auto") and uri.startswith("qemu"):
        yield Problem((*key, "store"), "is for Xen hosts: QEMU's clones are made on exports")
    if place and store not in ("lvm-thin", "reflink"):
        yield Problem((*key, "place"), "needs store: lvm-thin (GROUP/POOL) or reflink (a folder)")
    elif place and (store == "reflink") != place.startswith("/"):
        need = "a folder, as in /srv/guests" if store == "reflink" else "GROUP/POOL, as in vg0/thin"
        yield Problem((*key, "place"), f"{scalars.shown(place)}: store: {store} needs {need}")


def inventory(settings: Settings) -> tuple[KnownHost, ...]:
    """All hosts of the inventory; none without one."""
    if settings.hosts is None:
        return ()
    try:
        about = settings.hosts.stat()
    except OSError:
        return read_hosts(settings.hosts)  # it says what is wrong
    return _as_it_is_now(settings.hosts, (about.st_ino, about.st_mtime_ns, about.st_size))


@lru_cache(maxsize=4)
def _as_it_is_now(path: Path, _version: tuple[int, ...]) -> tuple[KnownHost, ...]:
    """Workers ask for each run: 200 hosts take 30 ms of CPU to read."""
    return read_hosts(path)


def default_host(settings: Settings) -> KnownHost:
    """The host that is meant where none is named, with its limits where the inventory has any."""
    return at(settings.uri, inventory(settings), settings.own_name)


def at(uri: str, known: tuple[KnownHost, ...] = (), own: str = Settings.own_name) -> KnownHost:
    """The host with a URI: as the inventory knows it, or by its name in the URI."""
    listed = next((host for host in known if host.uri == uri), None)
    return listed or KnownHost(urlsplit(uri).hostname or own, uri)


def find_host(name: str | None, settings: Settings) -> KnownHost:
    """The host that `--host` names: one of the inventory, a libvirt URI, or as the default host
    calls itself where no inventory names it."""
    if name is None:
        return default_host(settings)
    known = inventory(settings)
    if "://" in name:
        try:
            return at(_uri(name), known, settings.own_name)
        except ValueError as problem:
            raise RequestError(f"--host {problem}", "or give a name of hosts.yaml") from problem
    for host in known:
        if host.name == name:
            return host
    default = at(settings.uri, known, settings.own_name)
    if default.name == name:
        return default
    if settings.hosts is None:
        hint = "there is no inventory: write /etc/upgrade-sandbox/hosts.yaml, or give a libvirt URI"
        raise RequestError(f"no host {name!r}", hint)
    near = scalars.nearest(name, [host.name for host in known])
    listed = ", ".join(host.name for host in known[:10]) or "none"
    hint = f"did you mean {near!r}? " if near else ""
    raise RequestError(f"no host {name!r} in {settings.hosts}", f"{hint}hosts there: {listed}")


@contextlib.contextmanager
def connected(host: KnownHost) -> Iterator[Hypervisor]:
    """A connection to a host, closed afterwards."""
    seconds = REMOTE_CONNECT_SECONDS if host.remote else CONNECT_SECONDS
    hypervisor = drivers.driver_for(host.uri, Deadline(seconds, "connecting"))
    try:
        yield hypervisor
    finally:
        hypervisor.close()
