"""Hostile clients of the package proxy: refused with a reason, and nothing reaches a source."""

from __future__ import annotations

import contextlib
import socket
import time
from pathlib import Path

import pytest

from sandbox.network.proxy.package_proxy import PackageProxy
from tests.support.machine.package_server import DEB, Source, ask, connect, get, proxy_for, receive
from tests.support.waiting import wait_until

# --- hostile clients ------------------------------------------------------------------------

HOSTILE = {
    "other path": ("GET {url}/secret HTTP/1.1", 403),
    "prefix that only looks alike": ("GET {url}/debian-private/x HTTP/1.1", 403),
    "dots": ("GET {url}/debian/../secret HTTP/1.1", 400),
    "escaped dots": ("GET {url}/debian/%2e%2e/secret HTTP/1.1", 400),
    "half escaped dots": ("GET {url}/debian/.%2E/secret HTTP/1.1", 400),
    "dots escaped twice": ("GET {url}/debian/%252e%252e/secret HTTP/1.1", 400),
    "escaped slash": ("GET {url}/debian/..%2fsecret HTTP/1.1", 400),
    "backslash": ("GET {url}/debian\\..\\secret HTTP/1.1", 400),
    "escaped backslash": ("GET {url}/debian/..%5csecret HTTP/1.1", 400),
    "escaped letters": ("GET {url}/debi%61n/x HTTP/1.1", 400),
    "broken escape": ("GET {url}/debian/%zz HTTP/1.1", 400),
    "escaped newline": ("GET {url}/debian/a%0d%0aX:%20y HTTP/1.1", 400),
    "fragment": ("GET {url}/debian/x#y HTTP/1.1", 400),
    "user": ("GET http://127.0.0.1@evil.example/debian/ HTTP/1.1", 400),
    "other host": ("GET http://evil.example/debian/x HTTP/1.1", 403),
    "other port": ("GET http://127.0.0.1:1/debian/x HTTP/1.1", 403),
    "other spelling of the address": ("GET http://127.1:{port}/debian/x HTTP/1.1", 400),
    "number as address": ("GET http://2130706433:{port}/debian/x HTTP/1.1", 400),
    "metadata": ("GET http://169.254.169.254/latest/meta-data/ HTTP/1.1", 403),
    "https without CONNECT": ("GET https://127.0.0.1:{port}/debian/x HTTP/1.1", 403),
    "ftp": ("GET ftp://127.0.0.1/debian/x HTTP/1.1", 400),
    "as to a web server": ("GET /debian/x HTTP/1.1", 400),
    "CONNECT to an http source": ("CONNECT 127.0.0.1:{port} HTTP/1.1", 403),
    "CONNECT to ssh": ("CONNECT 127.0.0.1:22 HTTP/1.1", 403),
    "CONNECT without a port": ("CONNECT 127.0.0.1 HTTP/1.1", 400),
    "POST": ("POST {url}/debian/x HTTP/1.1", 405),
    "PUT": ("PUT {url}/debian/x HTTP/1.1", 405),
    "a made up method": ("BREW {url}/debian/x HTTP/1.1", 405),
    "lower case": ("get {url}/debian/x HTTP/1.1", 400),
    "a body": ("GET {url}/debian/x HTTP/1.1\r\nContent-Length: 5", 400),
    "a chunked body": ("GET {url}/debian/x HTTP/1.1\r\nTransfer-Encoding: chunked", 400),
    "both": ("GET {url}/debian/x HTTP/1.1\r\nContent-Length: 0\r\nTransfer-Encoding: x", 400),
    "hidden length": ("GET {url}/debian/x HTTP/1.1\r\nContent-Length : 5", 400),
    "folded header": ("GET {url}/debian/x HTTP/1.1\r\nUser-Agent: a\r\n b", 400),
    "bare return": ("GET {url}/debian/x HTTP/1.1\r\nUser-Agent: a\rTransfer-Encoding: b", 400),
    "nul": ("GET {url}/debian/x HTTP/1.1\r\nUser-Agent: a\0b", 400),
    "no colon": ("GET {url}/debian/x HTTP/1.1\r\nnonsense", 400),
    "two hosts": ("GET {url}/debian/x HTTP/1.1\r\nHost: a\r\nHost: b", 400),
    "two ranges": ("GET {url}/debian/x HTTP/1.1\r\nRange: bytes=1-\r\nRange: bytes=2-", 400),
    "websocket": ("GET {url}/debian/x HTTP/1.1\r\nUpgrade: websocket", 400),
    "expect": ("GET {url}/debian/x HTTP/1.1\r\nExpect: 100-continue", 400),
    "tab instead of blank": ("GET\t{url}/debian/x\tHTTP/1.1", 400),
    "a long URL": ("GET {url}/debian/" + "x" * 5000 + " HTTP/1.1", 414),
    "an endless URL": ("GET {url}/debian/" + "x" * 70_000 + " HTTP/1.1", 414),
    "many headers": ("GET {url}/debian/x HTTP/1.1" + "\r\nA: b" * 150, 431),
    "an endless header": ("GET {url}/debian/x HTTP/1.1\r\nA: " + "b" * 70_000, 431),
    "HTTP/2": ("GET {url}/debian/x HTTP/2.0", 505),
}


@pytest.mark.parametrize(("request_", "status"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_requests_are_refused(
    proxy: PackageProxy, source: Source, request_: str, status: int
) -> None:
    text = request_.replace("{url}", source.url).replace("{port}", str(source.port))
    assert ask(proxy.socket, text + "\r\n\r\n").status == status
    assert source.requests == []
    assert proxy.statistics.refused == 1


def test_http_09_gets_nothing(proxy: PackageProxy, source: Source) -> None:
    with connect(proxy.socket) as connection:
        connection.sendall(f"GET {source.url}/debian/x\r\n\r\n".encode())
        said = b"".join(iter(lambda: connection.recv(65536), b""))
    assert b"not a plain HTTP/1 request" in said
    assert source.requests == []


def test_garbage_and_silence_end(proxy: PackageProxy, source: Source) -> None:
    for data in (b"\x16\x03\x01\x02\x00\x01\x00" + bytes(range(256)), b"\r\n" * 500, b"\0" * 9000):
        with connect(proxy.socket) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass
    assert source.requests == []
    assert get(proxy.socket, source.url + DEB).status == 200


def test_a_request_that_drips_is_cut_off(source: Source, tmp_path: Path) -> None:
    with (
        proxy_for(tmp_path, operator_allowed=[source.url], timeout=0.5) as proxy,
        connect(proxy.socket) as connection,
    ):
        started = time.monotonic()
        try:
            for byte in b"GET http://mirror.example/ HTTP/1.1\r\n" * 40:
                connection.sendall(bytes([byte]))
                time.sleep(0.05)
        except OSError:
            pass
        assert time.monotonic() - started < 30


def test_too_many_connections(proxy: PackageProxy, source: Source) -> None:
    held = [connect(proxy.socket) for _ in range(64)]

    def refuses() -> bool:
        with connect(proxy.socket) as one_more:
            one_more.settimeout(0.2)
            with contextlib.suppress(TimeoutError):  # it is served still
                return one_more.recv(10) == b""
        return False

    wait_until(refuses, "one more to be refused")
    for connection in held:
        connection.close()

    def serves() -> bool:
        with contextlib.suppress(OSError):  # it closes what is too much without an answer
            return get(proxy.socket, source.url + DEB).status == 200
        return False

    wait_until(serves, "the proxy to serve again")


def test_refusals_are_named_but_do_not_pile_up(proxy: PackageProxy) -> None:
    with connect(proxy.socket) as connection:
        for number in range(150):
            line = f"GET http://evil.example/{number} HTTP/1.1\r\nHost: x\r\n\r\n"
            connection.sendall(line.encode())
            assert receive(connection).status == 403
    told = proxy.statistics
    assert (told.refused, len(told.refusals)) == (150, 100)
    assert told.refusals[0].endswith("evil.example/0 HTTP/1.1: not a package source of this guest")
