"""The package proxy: a clone's only way out, and only to its own package sources.

It listens on a unix socket in the run's folder; ssh forwards a port on the clone's loopback to
it, so nothing else on the host or network can reach it. GET and HEAD beneath allowed base URIs
are fetched and cached; CONNECT is let through to the host and port of an allowed https source
(what is said inside cannot be seen). Everything else is answered with 403 and the reason, which
apt shows.
"""

from __future__ import annotations

import tempfile
import threading
from collections import deque
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from sandbox.core.errors import HostError
from sandbox.network.proxy.cache import Cache
from sandbox.network.proxy.handler import Handler
from sandbox.network.proxy.rules import Addresses, AllowList, Resolver, system_resolver
from sandbox.network.proxy.sockets import Server
from sandbox.network.proxy.upstream import Upstream, parse_upstream

CACHE_LIMIT = 8 << 30
TIMEOUT = 60.0  # seconds without a byte
LONGEST_SOCKET = 107  # bytes of a unix socket's path
KEPT_REFUSALS = 100


@dataclass(frozen=True)
class Statistics:
    """What the proxy did, for the report. Sizes in bytes."""

    requests: int
    hits: int  # answered from the cache, revalidated ones included
    sent: int  # to the clone
    fetched: int  # from the package sources
    refused: int
    refusals: tuple[str, ...]  # the first of them: "GET http://… : reason"


class Counter:
    """Statistics in the making; one lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = {"requests": 0, "hits": 0, "sent": 0, "fetched": 0, "refused": 0}
        self._refusals: deque[str] = deque()

    def add(self, name: str, amount: int = 1) -> None:
        with self._lock:
            self._numbers[name] += amount

    def refuse(self, words: str) -> None:
        with self._lock:
            self._numbers["refused"] += 1
            if len(self._refusals) < KEPT_REFUSALS and words not in self._refusals:
                self._refusals.append(words)

    def snapshot(self) -> Statistics:
        with self._lock:
            return Statistics(**self._numbers, refusals=tuple(self._refusals))


class PackageProxy:
    """A context manager; inside it the proxy serves on ``socket``.

    ``allowed``: base URIs of the guest's sources; more with :meth:`allow`, once they were read.
    ``operator_allowed``: base URIs that the host's owner allows, even at this host's own or
    loopback addresses. ``upstream_proxy``: ``http://[user:password@]host:port`` or "".
    """

    def __init__(
        self,
        allowed: Iterable[str],
        cache: Path,
        socket: Path | None = None,
        *,
        operator_allowed: Iterable[str] = (),
        upstream_proxy: str = "",
        cache_limit: int = CACHE_LIMIT,
        timeout: float = TIMEOUT,
        resolver: Resolver = system_resolver,
    ) -> None:
        """``socket``: where to listen, a path that does not exist; None: a private folder."""
        self.rules = AllowList()
        self.rules.add(operator_allowed, operator=True)
        self.unusable = self.allow(allowed)
        self.timeout = timeout
        self.counter = Counter()
        self._cache_folder = cache
        self._cache_limit = cache_limit
        self._socket = socket
        self._upstream_proxy = parse_upstream(upstream_proxy)
        self._resolver = resolver
        self._stack = ExitStack()

    def allow(self, uris: Iterable[str]) -> list[str]:
        """Let through more base URIs; returns those that are not http(s): cdrom:, file:, …"""
        return self.rules.add(uris)

    @property
    def statistics(self) -> Statistics:
        return self.counter.snapshot()

    @property
    def socket(self) -> Path:
        """Where the proxy listens; known inside the ``with``."""
        assert self._socket is not None, "the proxy is not running"
        return self._socket

    def __enter__(self) -> PackageProxy:
        with ExitStack() as stack:
            path = self._socket or self._private_socket(stack)
            self._socket = path
            if len(str(path).encode()) > LONGEST_SOCKET:
                raise HostError(
                    f"the path of the package proxy's socket is too long: {path}",
                    f"unix sockets allow {LONGEST_SOCKET} bytes: use a shorter state folder",
                )
            try:
                self.cache = Cache(self._cache_folder, self._cache_limit)
            except OSError as problem:
                raise HostError(
                    f"the package cache cannot be used: {problem}",
                    f"check {self._cache_folder} and its permissions",
                ) from problem
            self.upstream = Upstream(Addresses(self._resolver), self._upstream_proxy, self.timeout)
            stack.callback(self.upstream.close)
            server = self._listen(path, stack)
            thread = threading.Thread(
                target=server.serve_forever, args=(0.1,), name="package-proxy", daemon=True
            )
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stack.close()

    def _listen(self, path: Path, stack: ExitStack) -> Server:
        try:
            server = Server(path, Handler, self)
        except OSError as problem:
            raise HostError(
                f"the package proxy cannot listen on {path}: {problem.strerror}",
                "is there a proxy left from a run that died? `sandbox reap` removes it",
            ) from problem
        stack.callback(path.unlink, missing_ok=True)
        stack.callback(server.end)
        return server

    @staticmethod
    def _private_socket(stack: ExitStack) -> Path:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="upgrade-sandbox-proxy-"))
        return Path(folder) / "proxy.sock"
