"""The package proxy's way out: to checked addresses, or through the operator's own proxy."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

import urllib3
from urllib3.exceptions import HTTPError
from urllib3.response import BaseHTTPResponse
from urllib3.util import Retry, Timeout, make_headers

from sandbox.core.errors import RequestError
from sandbox.network.proxy.rules import Addresses, Refused, Rule, Target, forbidden_address
from sandbox.network.proxy.sockets import break_off

CONNECT_SECONDS = 10.0
POOLS = 32  # hosts with connections kept open
# A kept connection that the other side has just closed is worth a second try; nothing else is.
RETRIES = Retry(total=2, connect=1, read=1, redirect=0, status=0, other=0, raise_on_redirect=False)


@dataclass(frozen=True)
class UpstreamProxy:
    """The operator's proxy, taken apart."""

    url: str  # without credentials
    host: str
    port: int
    headers: dict[str, str]


def parse_upstream(url: str) -> UpstreamProxy | None:
    """``http://[user:password@]host:port`` or ""; raises :class:`RequestError`."""
    if not url:
        return None
    parts = urlsplit(url)
    try:
        host, port = parts.hostname, parts.port or 3128
    except ValueError:
        host, port = None, 0
    if parts.scheme != "http" or not host:
        raise RequestError(
            "the upstream proxy is not an http:// URL", "write http://[user:password@]host:port"
        )
    headers: dict[str, str] = {}
    if parts.username is not None:
        secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers = dict(make_headers(proxy_basic_auth=secret))
    bracketed = f"[{host}]" if ":" in host else host
    return UpstreamProxy(f"http://{bracketed}:{port}", host, port, headers)


class Upstream:
    """Fetches and tunnels. Safe to use from many threads; ``break_off`` wakes those that wait for
    a source, ``close`` ends the kept connections."""

    def __init__(self, addresses: Addresses, proxy: UpstreamProxy | None, timeout: float) -> None:
        self._addresses = addresses
        self._proxy = proxy
        self._timeout = timeout
        self._lock = threading.Lock()
        self._pools: dict[tuple[str, int], urllib3.HTTPConnectionPool] = {}
        self._responses: weakref.WeakSet[BaseHTTPResponse] = weakref.WeakSet()
        self._tunnels: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        limits = Timeout(connect=CONNECT_SECONDS, read=timeout)
        self._manager = (
            urllib3.ProxyManager(proxy.url, proxy_headers=proxy.headers, timeout=limits)
            if proxy
            else None
        )

    def fetch(
        self, method: str, target: Target, rule: Rule, headers: Mapping[str, str]
    ) -> BaseHTTPResponse:
        """The response, its body not yet read. Redirects are the client's to follow.

        Raises :class:`Refused`: 403 for a forbidden address, 502 when no address answers.
        """
        response = self._fetch(method, target, rule, headers)
        with self._lock:
            self._responses.add(response)
        return response

    def _fetch(
        self, method: str, target: Target, rule: Rule, headers: Mapping[str, str]
    ) -> BaseHTTPResponse:
        sent = {**headers, "Accept-Encoding": "identity"}
        if self._manager:
            self._check_behind_proxy(target.host, target.port, rule)
            return _request(self._manager, method, target.url, sent, target.host)
        sent["Host"] = target.authority
        problem = Refused(f"{target.host} does not answer", 502)
        for address in self._addresses.of(target.host, target.port, operator=rule.operator):
            pool = self._pool(address, target.port)
            try:
                return _request(pool, method, target.path + target.query, sent, target.host)
            except Refused as refused:
                problem = refused
        raise problem

    def tunnel(self, host: str, port: int, rule: Rule) -> socket.socket:
        """A connected socket for CONNECT; raises :class:`Refused`."""
        connected = self._connect(host, port, rule)
        with self._lock:
            self._tunnels.add(connected)
        return connected

    def _connect(self, host: str, port: int, rule: Rule) -> socket.socket:
        if self._proxy:
            self._check_behind_proxy(host, port, rule)
            return self._tunnel_through(self._proxy, host, port)
        for address in self._addresses.of(host, port, operator=rule.operator):
            try:
                return socket.create_connection((address, port), timeout=CONNECT_SECONDS)
            except OSError:
                continue
        raise Refused(f"{host} does not answer", 502)

    def break_off(self) -> None:
        """End all transfers: a source may drip for hours, and no client waits for them any more."""
        with self._lock:
            responses, tunnels = list(self._responses), list(self._tunnels)
        for response in responses:
            with contextlib.suppress(OSError, RuntimeError, ValueError):  # it has ended
                response.shutdown()
        for tunnel in tunnels:
            break_off(tunnel)

    def close(self) -> None:
        with self._lock:
            pools, self._pools = list(self._pools.values()), {}
        for pool in pools:
            pool.close()
        if self._manager:
            self._manager.clear()

    def _pool(self, address: str, port: int) -> urllib3.HTTPConnectionPool:
        with self._lock:
            pool = self._pools.get((address, port))
            if pool is None:
                if len(self._pools) >= POOLS:
                    self._pools.pop(next(iter(self._pools))).close()
                limits = Timeout(connect=CONNECT_SECONDS, read=self._timeout)
                pool = urllib3.HTTPConnectionPool(address, port, timeout=limits, maxsize=8)
                self._pools[address, port] = pool
            return pool

    def _check_behind_proxy(self, host: str, port: int, rule: Rule) -> None:
        """The operator's proxy resolves names itself, perhaps better than we can: what we know
        to be forbidden stays forbidden, what we cannot resolve is its decision."""
        if rule.operator:
            return
        try:
            found = self._addresses.resolve(host, port)
        except Refused:
            return
        if reason := next(filter(None, map(forbidden_address, found)), ""):
            raise Refused(f"{host} is {reason}")

    def _tunnel_through(self, proxy: UpstreamProxy, host: str, port: int) -> socket.socket:
        connection = http.client.HTTPConnection(proxy.host, proxy.port, timeout=CONNECT_SECONDS)
        connection.set_tunnel(host, port, headers=proxy.headers)
        try:
            connection.connect()
        except (OSError, http.client.HTTPException) as problem:
            connection.close()
            raise Refused(f"the upstream proxy does not reach {host}", 502) from problem
        return connection.sock


def _request(
    pool: urllib3.HTTPConnectionPool | urllib3.PoolManager,
    method: str,
    url: str,
    headers: Mapping[str, str],
    host: str,
) -> BaseHTTPResponse:
    try:
        return pool.request(
            method,
            url,
            headers=dict(headers),
            preload_content=False,
            decode_content=False,
            redirect=False,
            retries=RETRIES,
        )
    except (HTTPError, OSError, http.client.HTTPException) as problem:
        raise Refused(f"{host} does not answer: {type(problem).__name__}", 502) from problem
