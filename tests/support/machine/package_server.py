"""A package source on loopback that counts, and misbehaves on request; and a raw proxy client."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from sandbox.network.proxy.package_proxy import PackageProxy

DEB = "/debian/pool/n/nginx_1.0_amd64.deb"
INDEX = "/debian/dists/stable/InRelease"


@dataclass
class Source:
    """What the server was asked, and how it is to answer."""

    url: str = ""
    port: int = 0
    objects: dict[str, bytes] = field(default_factory=dict)
    etag: str = '"one"'
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    delay: float = 0.0
    truncate: bool = False
    drip: threading.Event | None = None  # when to go on after the first half of a body
    chunked: bool = False
    redirect: str = ""

    def count(self, path: str) -> int:
        return sum(1 for _, asked, _ in self.requests if asked == path)


@contextmanager
def package_source() -> Iterator[Source]:
    source = Source()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            source.requests.append((self.command, self.path, dict(self.headers.items())))
            time.sleep(source.delay)
            if source.redirect:
                self.answer(302, b"", {"Location": source.redirect})
                return
            body = source.objects.get(self.path.partition("?")[0])
            if body is None:
                self.answer(404, b"no such file", {})
            elif self.headers.get("If-None-Match") == source.etag:
                self.answer(304, b"", {})
            elif "Range" in self.headers:
                start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
                extent = f"bytes {start}-{len(body) - 1}/{len(body)}"
                self.answer(206, body[start:], {"Content-Range": extent})
            else:
                self.answer(200, body, {"ETag": source.etag})

        do_HEAD = do_GET

        def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if source.chunked:
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                self.wfile.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
                return
            if status != 304:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                half = len(body) // 2
                self.wfile.write(body[:half])
                if source.drip is not None:
                    source.drip.wait(60)
                self.wfile.write(b"" if source.truncate else body[half:])
            self.close_connection = source.truncate

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    source.port = server.server_address[1]
    source.url = f"http://127.0.0.1:{source.port}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield source
    finally:
        server.shutdown()
        server.server_close()


@dataclass
class Answer:
    status: int
    reason: str
    headers: dict[str, str]
    body: bytes


def connect(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(10)
    connection.connect(str(path))
    return connection


def receive(connection: socket.socket, method: str = "GET") -> Answer:
    response = HTTPResponse(connection, method=method)
    response.begin()
    body = response.read()
    return Answer(response.status, response.reason, dict(response.getheaders()), body)


def ask(path: Path, request: bytes | str, method: str = "GET") -> Answer:
    """Send raw bytes, read one response."""
    with connect(path) as connection:
        connection.sendall(request if isinstance(request, bytes) else request.encode())
        return receive(connection, method)


def get(path: Path, url: str, *headers: str, method: str = "GET") -> Answer:
    lines = [f"{method} {url} HTTP/1.1", "Host: whatever", *headers]
    return ask(path, "\r\n".join(lines) + "\r\n\r\n", method)


@contextmanager
def loopback_port(path: Path) -> Iterator[str]:
    """What ``ssh -R`` does: a loopback port for a unix socket; yields its http URL."""
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            target.close()

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            remote = socket.socket(socket.AF_UNIX)
            remote.connect(str(path))
            for pair in ((client, remote), (remote, client)):
                threading.Thread(target=pump, args=pair, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()


def proxy_for(tmp_path: Path, **options: object) -> PackageProxy:
    return PackageProxy([], tmp_path / "cache", **{"timeout": 5, **options})  # type: ignore[arg-type]
