"""A package source that is slow: what it has sent is passed on; nobody outlives the run for it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.network.proxy.package_proxy import PackageProxy
from tests.support.machine.package_server import INDEX, Source, connect, proxy_for


@pytest.fixture
def slow(source: Source) -> Iterator[Source]:
    """Sends the first half of a file, and then nothing for a minute."""
    source.drip = threading.Event()
    yield source
    source.drip.set()


def ask_for(proxy: PackageProxy, url: str) -> socket.socket:
    connection = connect(proxy.socket)
    connection.sendall(f"GET {url} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return connection


def read_until(connection: socket.socket, end: bytes) -> None:
    said = b""
    while not said.endswith(end):
        more = connection.recv(1)
        assert more, f"it ended with {said[-80:]!r}"
        said += more


def test_what_has_come_is_passed_on_at_once(proxy: PackageProxy, slow: Source) -> None:
    """apt takes a source for dead that has sent nothing for half a minute."""
    with ask_for(proxy, slow.url + INDEX) as connection:
        read_until(connection, b"\r\n\r\nin")
        assert slow.drip is not None
        slow.drip.set()
        assert connection.recv(100) == b"dex"


@pytest.mark.parametrize("tunnel", [False, True])
def test_leaving_breaks_off_what_a_source_still_sends(
    slow: Source, tmp_path: Path, tunnel: bool
) -> None:
    before = threading.active_count()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        there = f"127.0.0.1:{silent.getsockname()[1]}"
        proxy = proxy_for(tmp_path, operator_allowed=[slow.url, f"https://{there}/"], timeout=50)
        with proxy as running:
            if tunnel:
                client = connect(running.socket)
                client.sendall(f"CONNECT {there} HTTP/1.1\r\n\r\n".encode())
                assert b"200" in client.recv(100)
            else:
                client = ask_for(running, slow.url + INDEX)
                read_until(client, b"\r\n\r\nin")
            began = time.monotonic()
        assert time.monotonic() - began < 25, "it waited for threads that wait"
        client.close()
    names = [thread.name for thread in threading.enumerate()]
    assert threading.active_count() <= before + 1, names  # the source's own still waits
