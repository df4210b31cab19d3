"""A package archive of our own, seen by guests as http://packages.example/ through the proxy."""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

SOURCE = "http://packages.example/web01/"
SOURCES_LIST = f"deb [trusted=yes] {SOURCE} ./\n"


class Archive:
    """An upstream HTTP proxy that knows one host; ``down`` makes it answer like a dead mirror.

    ``failing`` does so for what ends like that only; what ends like ``slow`` takes a second for
    each byte.
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.down = False
        self.failing = self.slow = ""
        self.url = ""
        self.offer([])

    def offer(self, packages: Sequence[Path]) -> None:
        """Offer exactly these packages."""
        entries = [self._entry(package) for package in packages]
        index = "\n".join(entries).encode()
        release = f"Suite: stable\nSHA256:\n {_sha256(index)} {len(index)} Packages\n".encode()
        self.objects = {f"{SOURCE}{package.name}": package.read_bytes() for package in packages} | {
            f"{SOURCE}Packages": index,
            f"{SOURCE}Release": release,
        }

    @staticmethod
    def _entry(package: Path) -> str:
        fields = subprocess.run(
            ["dpkg-deb", "-f", str(package)], check=True, capture_output=True, text=True
        ).stdout
        content = package.read_bytes()
        return (
            f"{fields}Filename: ./{package.name}\n"
            f"Size: {len(content)}\nSHA256: {_sha256(content)}\n"
        )


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@contextmanager
def serving() -> Iterator[Archive]:
    """The archive on loopback."""
    archive, ended = Archive(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            archive.asked.append(self.path)
            path = urlsplit(self.path)
            body = archive.objects.get(
                f"{path.scheme}://{path.netloc}{path.path}".replace("/./", "/")
            )
            fails = archive.failing and path.path.endswith(archive.failing)
            status = 503 if archive.down or fails else 404 if body is None else 200
            content = body if status == 200 and body is not None else b"no"
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET" and archive.slow and path.path.endswith(archive.slow):
                self._trickle(content)
            elif self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET

        def _trickle(self, content: bytes) -> None:
            with contextlib.suppress(OSError):  # nobody waits any more
                for number in range(len(content)):
                    self.wfile.write(content[number : number + 1])
                    if ended.wait(1):
                        return

        def log_message(self, format: str, *args: object) -> None:
            """Nobody reads it."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    archive.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.1,))
    thread.start()
    try:
        yield archive
    finally:
        ended.set()
        server.shutdown()
        thread.join()
        server.server_close()
