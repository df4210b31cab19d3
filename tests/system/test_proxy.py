"""The package proxy: what it fetches and keeps, its socket, its tunnels."""

from __future__ import annotations

import socket
import stat
import threading
import time
from pathlib import Path

import pytest

from sandbox.core.errors import HostError, RequestError
from sandbox.network.proxy.package_proxy import PackageProxy
from tests.support.machine.package_server import (
    DEB,
    INDEX,
    Source,
    ask,
    connect,
    get,
    loopback_port,
    package_source,
    proxy_for,
    receive,
)
from tests.support.waiting import wait_until

# --- fetching and caching -------------------------------------------------------------------


def test_a_package_is_fetched_once(proxy: PackageProxy, source: Source) -> None:
    first = get(proxy.socket, source.url + DEB)
    second = get(proxy.socket, source.url + DEB)
    assert (first.status, first.body) == (200, source.objects[DEB])
    assert second.body == first.body
    assert source.count(DEB) == 1
    counted = proxy.statistics
    assert (counted.requests, counted.hits, counted.refused) == (2, 1, 0)
    assert counted.sent == 2 * counted.fetched == 2 * len(first.body)


def test_an_index_is_revalidated(proxy: PackageProxy, source: Source) -> None:
    assert get(proxy.socket, source.url + INDEX).body == b"index"
    assert get(proxy.socket, source.url + INDEX).body == b"index"
    assert source.requests[1][2]["If-None-Match"] == '"one"'
    source.objects[INDEX], source.etag = b"newer", '"two"'
    assert get(proxy.socket, source.url + INDEX).body == b"newer"
    assert proxy.statistics.hits == 1


def test_the_clients_own_condition_is_answered_from_the_cache(
    proxy: PackageProxy, source: Source
) -> None:
    get(proxy.socket, source.url + INDEX)
    assert get(proxy.socket, source.url + INDEX, 'If-None-Match: "one"').status == 304
    assert get(proxy.socket, source.url + INDEX, 'If-None-Match: "older"').body == b"index"


def test_by_hash_is_immutable(proxy: PackageProxy, source: Source) -> None:
    path = "/debian/dists/stable/main/by-hash/SHA256/abc"
    source.objects[path] = b"packages"
    for _ in range(2):
        assert get(proxy.socket, source.url + path).body == b"packages"
    assert source.count(path) == 1


def test_no_cache_asks_again(proxy: PackageProxy, source: Source) -> None:
    get(proxy.socket, source.url + DEB)
    source.objects[DEB], source.etag = b"repaired", '"two"'
    assert get(proxy.socket, source.url + DEB, "Cache-Control: no-cache").body == b"repaired"
    assert get(proxy.socket, source.url + DEB).body == b"repaired"


def test_what_needs_a_password_is_not_shared(proxy: PackageProxy, source: Source) -> None:
    get(proxy.socket, source.url + DEB, "Authorization: Basic abc")
    get(proxy.socket, source.url + DEB)
    assert source.count(DEB) == 2
    assert source.requests[0][2]["Authorization"] == "Basic abc"


def test_ranges_pass_through(proxy: PackageProxy, source: Source) -> None:
    answer = get(proxy.socket, source.url + DEB, "Range: bytes=349990-")
    assert (answer.status, len(answer.body)) == (206, 10)
    assert get(proxy.socket, source.url + DEB).status == 200
    assert source.count(DEB) == 2


def test_a_truncated_download_is_noticed_and_not_kept(proxy: PackageProxy, source: Source) -> None:
    source.truncate = True
    with pytest.raises(Exception, match="IncompleteRead"):
        get(proxy.socket, source.url + DEB)
    source.truncate = False
    assert get(proxy.socket, source.url + DEB).body == source.objects[DEB]


def test_chunked_answers_arrive_whole(proxy: PackageProxy, source: Source) -> None:
    source.chunked = True
    assert get(proxy.socket, source.url + DEB).body == source.objects[DEB]
    old = ask(proxy.socket, f"GET {source.url + DEB} HTTP/1.0\r\n\r\n")
    assert old.body == source.objects[DEB]


def test_redirects_are_left_to_the_client(proxy: PackageProxy, source: Source) -> None:
    source.redirect = f"{source.url}/secret"
    answer = get(proxy.socket, source.url + DEB)
    assert (answer.status, answer.headers["Location"]) == (302, source.redirect)
    assert get(proxy.socket, answer.headers["Location"]).status == 403


def test_head_and_missing(proxy: PackageProxy, source: Source) -> None:
    head = get(proxy.socket, source.url + DEB, method="HEAD")
    assert (head.status, head.headers["Content-Length"], head.body) == (200, "350000", b"")
    assert get(proxy.socket, f"{source.url}/debian/none").status == 404
    assert get(proxy.socket, source.url + DEB).body == source.objects[DEB]


def test_requests_in_a_pipeline(proxy: PackageProxy, source: Source) -> None:
    one = f"GET {source.url + INDEX} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    with connect(proxy.socket) as connection:
        connection.sendall(one * 3)
        connection.shutdown(socket.SHUT_WR)
        everything = b"".join(iter(lambda: connection.recv(65536), b""))
    assert everything.count(b"200 OK") == everything.count(b"\r\n\r\nindex") == 3


def test_the_same_download_at_once_is_fetched_once(proxy: PackageProxy, source: Source) -> None:
    source.delay = 0.3
    bodies: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: bodies.append(get(proxy.socket, source.url + DEB).body))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bodies == [source.objects[DEB]] * 4
    assert source.count(DEB) == 1


def test_a_dead_source_is_a_502(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    allowed = [f"http://127.0.0.1:{port}/"]
    with proxy_for(tmp_path, operator_allowed=allowed) as proxy:
        answer = get(proxy.socket, f"http://127.0.0.1:{port}/x")
    assert answer.status == 502
    assert "does not answer" in answer.reason


def test_a_silent_source_times_out(source: Source, tmp_path: Path) -> None:
    source.delay = 30
    allowed = [f"{source.url}/debian/"]
    with proxy_for(tmp_path, operator_allowed=allowed, timeout=0.3) as proxy:
        started = time.monotonic()
        assert get(proxy.socket, source.url + DEB).status == 502
    assert time.monotonic() - started < 20


def test_the_operators_proxy_is_used(source: Source, tmp_path: Path) -> None:
    with package_source() as upstream:
        upstream.objects = {f"{source.url}{DEB}": b"through the other"}
        with proxy_for(
            tmp_path,
            operator_allowed=[f"{source.url}/debian/"],
            upstream_proxy=f"http://user:p%40ss@127.0.0.1:{upstream.port}",
        ) as proxy:
            assert get(proxy.socket, source.url + DEB).body == b"through the other"
    assert source.requests == []
    assert upstream.requests[0][2]["proxy-authorization"] == "Basic dXNlcjpwQHNz"


# --- the door -------------------------------------------------------------------------------


def test_only_the_owner_can_open_the_socket(proxy: PackageProxy) -> None:
    assert stat.S_IMODE(proxy.socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(proxy.socket.parent.stat().st_mode) == 0o700


def test_nothing_is_left_behind(source: Source, tmp_path: Path) -> None:
    path = tmp_path / "run" / "proxy.sock"
    path.parent.mkdir()
    source.delay = 1
    before = threading.active_count()
    with PackageProxy([], tmp_path / "cache", path, operator_allowed=[source.url]) as proxy:
        assert proxy.socket == path
        hanging = connect(path)
        hanging.sendall(f"GET {source.url + DEB} HTTP/1.1\r\n\r\n".encode())
        wait_until(lambda: source.requests, "the request to reach its source")
    assert hanging.recv(100) == b""
    assert not path.exists()
    assert not list((tmp_path / "cache").glob("part-*"))
    hanging.close()
    wait_until(lambda: threading.active_count() <= before, "its threads and the source's to end")


def test_sources_read_later_are_let_through(source: Source, tmp_path: Path) -> None:
    with proxy_for(tmp_path, resolver=lambda host, port: ["127.0.0.1"]) as proxy:
        assert "not a package source" in get(proxy.socket, source.url + DEB).reason
        assert proxy.allow([source.url + "/debian", "cdrom:[x]/", "file:/srv/"]) == [
            "cdrom:[x]/",
            "file:/srv/",
        ]
        assert "loopback" in get(proxy.socket, source.url + DEB).reason


def test_a_socket_path_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="too long"):
        PackageProxy([], tmp_path, tmp_path / ("x" * 120)).__enter__()


def test_a_second_proxy_on_the_same_socket(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with (
        PackageProxy([], tmp_path / "c", path),
        pytest.raises(HostError, match="cannot listen"),
        PackageProxy([], tmp_path / "c", path),
    ):
        pass


@pytest.mark.parametrize("url", ["https://proxy.example", "socks5://x:1", "x", "http://h:99999"])
def test_an_upstream_proxy_that_is_none(url: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="upstream proxy"):
        PackageProxy([], tmp_path, upstream_proxy=url)


# --- CONNECT --------------------------------------------------------------------------------


def echo_server() -> socket.socket:
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listener.accept()[0] as client:
            while data := client.recv(65536):
                client.sendall(data.upper())

    threading.Thread(target=serve, daemon=True).start()
    return listener


def test_a_tunnel_to_an_https_source(tmp_path: Path) -> None:
    with echo_server() as remote:
        base = f"https://127.0.0.1:{remote.getsockname()[1]}/debian"
        with (
            proxy_for(tmp_path, operator_allowed=[base]) as proxy,
            connect(proxy.socket) as client,
        ):
            target = base.removeprefix("https://").removesuffix("/debian")
            client.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: x\r\n\r\nsent ahead ".encode())
            client.sendall(b"and after")
            client.shutdown(socket.SHUT_WR)
            said = b"".join(iter(lambda: client.recv(65536), b""))
            assert said.startswith(b"HTTP/1.1 200 ")
            assert said.endswith(b"\r\n\r\nSENT AHEAD AND AFTER")
            assert proxy.statistics.sent == len("sent ahead and after")


def test_an_idle_tunnel_ends(tmp_path: Path) -> None:
    with echo_server() as remote:
        base = f"https://127.0.0.1:{remote.getsockname()[1]}/"
        with (
            proxy_for(tmp_path, operator_allowed=[base], timeout=0.3) as proxy,
            connect(proxy.socket) as client,
        ):
            target = base.removeprefix("https://").removesuffix("/")
            client.sendall(f"CONNECT {target} HTTP/1.1\r\n\r\n".encode())
            started = time.monotonic()
            assert b"".join(iter(lambda: client.recv(65536), b"")).endswith(b"\r\n\r\n")
            assert time.monotonic() - started < 30


def test_a_tunnel_home_is_refused(tmp_path: Path) -> None:
    with proxy_for(tmp_path, resolver=lambda host, port: ["::1"]) as proxy:
        proxy.allow(["https://mirror.example/"])
        answer = ask(proxy.socket, "CONNECT mirror.example:443 HTTP/1.1\r\n\r\n", "CONNECT")
    assert (answer.status, "loopback" in answer.reason) == (403, True)


def test_a_tunnel_through_the_operators_proxy(source: Source, tmp_path: Path) -> None:
    with (
        proxy_for(tmp_path / "outer", operator_allowed=[f"{source.url}/debian"]) as outer,
        loopback_port(outer.socket) as outer_url,
        proxy_for(
            tmp_path / "inner",
            operator_allowed=[f"https://127.0.0.1:{source.port}"],
            upstream_proxy=outer_url,
        ) as inner,
    ):
        request = f"CONNECT 127.0.0.1:{source.port} HTTP/1.1\r\n\r\n"
        assert ask(inner.socket, request, "CONNECT").status == 502  # the outer one says no
        outer.rules.add([f"https://127.0.0.1:{source.port}"], operator=True)
        with connect(inner.socket) as client:
            client.sendall(request.encode())
            assert client.recv(100).startswith(b"HTTP/1.1 200 ")
            client.sendall(f"GET {INDEX} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert receive(client).body == b"index"
