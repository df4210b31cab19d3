"""The machine that a hypervisor runs on: this one, or one behind SSH.

A remote host is reached by OpenSSH's own client, over one connection that all commands, libvirt
and the clones' own SSH share (ControlMaster); it closes by itself a minute after its last use, so
that nothing has to be cleaned up after a kill.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import select
import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from sandbox.core.deadline import Deadline
from sandbox.core.errors import CommandFailed, DeadlineExceeded, HostError, RequestError
from sandbox.core.process import Completed, kill_group, run, tail

BANNER = b"SSH-"
LOST = 255  # what ssh itself exits with
_SOCKETS = Path("/run/upgrade-sandbox/ssh")
_PERSIST = 60  # seconds
_PORT = re.compile(r":[0-9]+$")
# Parameters of a libvirt URI that say how its ssh is to be started; the last two are ours alone.
_COMMAND, _KEY, _NO_VERIFY = "command", "keyfile", "no_verify"
_CONFIG, _JUMP = "ssh_config", "jump"
_REMOTE = "a host is reached by xen+ssh://root@HOST/system"
_CONSUMED = (_COMMAND, _KEY, _CONFIG, _JUMP)  # libvirt gets one program that does all of it


class HostLost(HostError):
    """A remote host cannot be reached (any more)."""


class Host(Protocol):
    """Where the hypervisor's storage, bridges and clones are."""

    name: str

    @property
    def proxy_command(self) -> str:
        """For ssh to what only the host reaches; "" where that is us."""

    def run(
        self,
        argv: Sequence[str | Path],
        deadline: Deadline,
        *,
        input: bytes | None = None,
        check: bool = True,
        hint: str = "",
    ) -> Completed:
        """As :func:`sandbox.core.process.run`, on the host."""

    def command(self, argv: Sequence[str]) -> list[str]:
        """The arguments of a local program that runs ``argv`` there."""

    def answers_ssh(self, address: str, port: int, seconds: float) -> bool:
        """Whether something there says the SSH banner, seen from the host: an open port alone
        is not a booted guest."""


class LocalHost:
    """This machine."""

    name = "this machine"
    proxy_command = ""

    def run(
        self,
        argv: Sequence[str | Path],
        deadline: Deadline,
        *,
        input: bytes | None = None,
        check: bool = True,
        hint: str = "",
    ) -> Completed:
        return run(argv, deadline, input=input, check=check, hint=hint)

    def command(self, argv: Sequence[str]) -> list[str]:
        return list(argv)

    def answers_ssh(self, address: str, port: int, seconds: float) -> bool:
        host, _, bridge = address.partition("%")
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            with socket.socket(family, socket.SOCK_STREAM) as stream:
                stream.settimeout(seconds)
                if bridge:
                    stream.connect((host, port, 0, socket.if_nametoindex(bridge)))
                else:
                    stream.connect((host, port))
                return _reads_banner(stream.fileno(), seconds)
        except OSError:
            return False


class RemoteHost:
    """A machine behind SSH, as a libvirt URI names it.

    ``xen+ssh://user@host:port/system?keyfile=…&command=…``: ``command`` is a program used in
    place of ``ssh``; libvirt knows the same parameters. ``jump=user@host:port`` is a host on the
    way, entered with the same key, ``ssh_config`` a file that ssh reads instead of the user's.
    """

    def __init__(self, uri: str) -> None:
        parts = urlsplit(uri)
        options = dict(parse_qsl(parts.query))
        if not parts.hostname or parts.hostname.startswith("-"):
            raise RequestError(f"the URI {uri!r} names no host", _REMOTE)
        self.name = parts.hostname
        self._program = options.get(_COMMAND, "ssh")
        self._digest = hashlib.sha256(uri.encode()).hexdigest()[:12]
        # %C alone would be the same for hosts of one name behind different hosts on the way.
        socket = f"{_SOCKETS}/{self._digest}-%C"
        self._options = _ssh_options(self._program, parts.username, parts.port, options, socket)
        self.uri = self._own_uri(uri, options)

    def _own_uri(self, uri: str, options: dict[str, str]) -> str:
        """The URI for libvirt, with an ssh that shares our connection."""
        self._wrapper = wrapper = _SOCKETS / f"ssh-{self._digest}"
        line = shlex.join([self._program, *self._options])
        try:
            _write_program(wrapper, f'#!/bin/sh\nexec {line} "$@"\n')
        except OSError as problem:
            raise HostError(f"cannot make {wrapper}: {problem}", "run as root") from problem
        parts = urlsplit(uri)
        rest = {k: v for k, v in options.items() if k not in _CONSUMED}
        return urlunsplit(parts._replace(query=urlencode({**rest, _COMMAND: str(wrapper)})))

    @property
    def proxy_command(self) -> str:
        # For the operator's shell, whichever that is, and ssh, which replaces %h and %p.
        name = shlex.quote(self.name).replace("%", "%%")
        return f"{shlex.quote(str(self._wrapper))} -W '[%h]:%p' {name}"

    def command(self, argv: Sequence[str]) -> list[str]:
        return [str(self._wrapper), self.name, shlex.join(argv)]

    def run(
        self,
        argv: Sequence[str | Path],
        deadline: Deadline,
        *,
        input: bytes | None = None,
        check: bool = True,
        hint: str = "",
    ) -> Completed:
        words = tuple(str(word) for word in argv)
        done = run(self.command(words), deadline, input=input or b"", check=False)
        said = tail(f"{done.stdout}\n{done.stderr}")
        if done.status == LOST:
            raise HostLost(
                f"the host {self.name} cannot be reached: {tail(done.stderr, 2) or 'no reason'}",
                f"try: ssh {self.name}",
            )
        if check and done.status != 0:
            raise CommandFailed(words, done.status, said, hint or f"on the host {self.name}")
        return Completed(words, done.status, done.stdout, done.stderr)

    def answers_ssh(self, address: str, port: int, seconds: float) -> bool:
        host = f"[{address}]" if ":" in address else address
        argv = [str(self._wrapper), "-W", f"{host}:{port}", self.name]
        child = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert child.stdout is not None
        assert child.stdin is not None
        try:
            return _reads_banner(child.stdout.fileno(), seconds)
        finally:
            kill_group(child.pid)
            child.wait()
            child.stdout.close()
            with contextlib.suppress(OSError):
                child.stdin.close()


def _write_program(path: Path, text: str) -> None:
    """Make or replace a program that others may be running."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if path.exists() and path.read_text() == text:
        return
    fresh = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
    fresh.write_text(text)
    fresh.chmod(0o700)
    fresh.replace(path)


def _reads_banner(descriptor: int, seconds: float) -> bool:
    deadline, read = Deadline(seconds, "reading a banner"), b""
    with contextlib.suppress(DeadlineExceeded):
        while len(read) < len(BANNER):
            ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline.remaining()))
            data = os.read(descriptor, 16) if ready else b""
            if not data:
                return False
            read += data
    return read.startswith(BANNER)


def _ssh_options(
    program: str, user: str | None, port: int | None, options: dict[str, str], socket: str
) -> tuple[str, ...]:
    config = ("-F", options[_CONFIG]) if options.get(_CONFIG) else ()
    given = {"BatchMode": "yes", "ConnectTimeout": "20", "LogLevel": "ERROR"}
    given |= {"ServerAliveInterval": "10", "ServerAliveCountMax": "6"}
    if options.get(_KEY):
        given["IdentityFile"] = quoted(options[_KEY].replace("%", "%%"))  # ssh would replace %h
    if options.get(_NO_VERIFY, "0") not in ("", "0"):
        given["StrictHostKeyChecking"] = "no"
    common = (*config, *_as_options(given))
    own = {
        "ControlMaster": "auto",
        "ControlPersist": str(_PERSIST),
        "ControlPath": socket,
    }
    if options.get(_JUMP):
        # ssh's own ProxyJump gives the host on the way none of these options, not even the key.
        own["ProxyCommand"] = _through(program, common, options[_JUMP])
    if user:
        own["User"] = user
    if port:
        own["Port"] = str(port)
    return (*common, *_as_options(own))


def _through(program: str, common: Sequence[str], jump: str) -> str:
    """The command by which ssh reaches a host through another: ``user@host:port``."""
    target, _, port = jump.rpartition(":") if _PORT.search(jump) else (jump, "", "")
    target = target.replace("[", "").replace("]", "")  # around IPv6, where a port follows
    words = [program, *common, *(("-p", port) if port else ())]
    # ssh replaces %h and %p; what we were given is meant as it stands.
    fixed = shlex.join(words).replace("%", "%%")
    return f"{fixed} -W '[%h]:%p' -- {shlex.quote(target).replace('%', '%%')}"


def quoted(value: str) -> str:
    """A value as ssh's configuration takes it."""
    if not any(odd in value for odd in " \t#'\"\\"):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _as_options(given: dict[str, str]) -> tuple[str, ...]:
    return tuple(word for key, value in given.items() for word in ("-o", f"{key}={value}"))


def by_text(host: Host, module: str) -> list[str]:
    """How a module of ours is run on a host: by its text, since there is nothing of ours on one
    behind ssh. The standard library is all that it has."""
    python = "python3" if host.proxy_command else sys.executable
    package, _, name = module.rpartition(".")
    text = files(package).joinpath(f"{name}.py").read_text()
    return [python, "-I", "-S", "-c", text]


def host_of(uri: str) -> Host:
    """The machine that a libvirt URI names."""
    transport = uri.partition(":")[0].partition("+")[2]
    if transport == "ssh":
        return RemoteHost(uri)
    # libvirt goes to a host that is named without a transport by TLS: its disks would not be here.
    if transport not in ("", "unix") or urlsplit(uri).netloc:
        raise RequestError(f"the way to the host in {uri!r} is not supported", _REMOTE)
    return LocalHost()
