"""Sockets of the package proxy: threads over a unix socket, none of which outlives the proxy."""

from __future__ import annotations

import io
import socket
import socketserver
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sandbox.network.proxy.package_proxy import PackageProxy

MAX_CONNECTIONS = 64  # of one clone; apt uses a handful
GOODBYE_SECONDS = 5.0  # for threads to notice that their connection was broken


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """A thread a connection, over a unix socket that only its owner can open."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(
        self, path: Path, handler: type[socketserver.BaseRequestHandler], proxy: PackageProxy
    ) -> None:
        self.proxy = proxy
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(str(path), handler, bind_and_activate=False)
        try:
            self.server_bind()
            path.chmod(0o600)  # before it listens
            self.server_activate()
        except BaseException:
            self.server_close()
            raise

    def process_request(self, request: object, client_address: object) -> None:
        assert isinstance(request, socket.socket)
        if not self._free.acquire(blocking=False):
            self.proxy.counter.refuse(f"more than {MAX_CONNECTIONS} connections at once")
            request.close()
            return
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: object) -> None:
        assert isinstance(request, socket.socket)
        with self._lock:
            known = request in self._open
            self._open.discard(request)
        super().shutdown_request(request)
        if known:
            self._free.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away in the middle is no news."""

    def end(self) -> None:
        """Stop listening, break every open connection, both ends, and let their threads finish."""
        self.server_close()
        with self._lock:
            left = list(self._open)
        for connection in left:
            break_off(connection)
        self.proxy.upstream.break_off()
        until = time.monotonic() + GOODBYE_SECONDS
        for _ in range(MAX_CONNECTIONS):
            if not self._free.acquire(timeout=max(0.0, until - time.monotonic())):
                return


class PatientReader(io.RawIOBase):
    """Reads a socket until the moment ``until``, however the bytes drip."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.until = 0.0  # monotonic seconds
        self.dry = False  # nothing more from the socket, only what is buffered already

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int | None:  # type: ignore[override]
        if self.dry:
            return None
        left = self.until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


def break_off(connection: socket.socket) -> None:
    """Wake the threads that wait for this socket."""
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # it is already closed
