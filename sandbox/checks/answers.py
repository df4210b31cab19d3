"""HTTP requests made inside the guest, through the SSH connection: the guest needs no tool."""

from __future__ import annotations

import http.client
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from sandbox.checks.compare import EVERY_ADDRESS, plain_address
from sandbox.checks.connection import CheckConnection
from sandbox.core.deadline import Deadline
from sandbox.core.records import Port

REQUEST_SECONDS = 10.0
DISCOVERY_SECONDS = 5.0
ASK_AT_ONCE = 8
PAUSE_SECONDS = 1.0
SERVER_ERROR = 500


@dataclass(frozen=True)
class Answer:
    """An HTTP status, or None with the reason why there was none."""

    status: int | None
    problem: str = ""
    timed_out: bool = False

    @property
    def words(self) -> str:
        return f"answers {self.status}" if self.status else f"does not answer ({self.problem})"


@contextmanager
def tunnel(connection: CheckConnection, host: str, port: int) -> Iterator[socket.socket]:
    """A socket to ``host:port`` as the guest's own sshd reaches it.

    The ssh client stays in the process group of the checks, so it ends with them.
    """
    ours, theirs = socket.socketpair()
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    with ours:
        with theirs:
            client = subprocess.Popen(
                connection.argv("-W", target, connection.host),
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=subprocess.DEVNULL,
            )
        try:
            yield ours
        finally:
            ours.close()
            client.terminate()
            client.wait()


def ask(connection: CheckConnection, url: str, seconds: float = REQUEST_SECONDS) -> Answer:
    """GET ``url`` in the guest. Certificates are not judged: the question is who answers."""
    parts = urlsplit(url)
    host, secure = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        with tunnel(connection, host, port) as raw:
            raw.settimeout(seconds)
            request = http.client.HTTPConnection(host, port, timeout=seconds)
            request.sock = _encrypted(raw, host) if secure else raw
            headers = {"Host": parts.netloc.rpartition("@")[2], "Connection": "close"}
            request.request("GET", path, headers={**headers, "User-Agent": "upgrade-sandbox"})
            return Answer(request.getresponse().status)
    except TimeoutError:
        return Answer(None, f"no answer in {seconds:.0f} s", timed_out=True)
    except http.client.RemoteDisconnected:
        return Answer(None, "nothing came back")
    except (OSError, http.client.HTTPException) as problem:
        return Answer(None, f"{type(problem).__name__}: {problem}")


def _encrypted(raw: socket.socket, host: str) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(raw, server_hostname=host)


def ask_until(
    connection: CheckConnection, url: str, good: Callable[[Answer], bool], deadline: Deadline
) -> Answer:
    """Ask again until the answer is good or the time is over; the last answer."""
    answer = ask(connection, url)
    while not good(answer) and deadline.remaining() > PAUSE_SECONDS:
        time.sleep(PAUSE_SECONDS)
        answer = ask(connection, url)
    return answer


def url_of(port: Port, scheme: str) -> str:
    """The root of whatever listens on ``port``."""
    address = plain_address(port.address)
    if address in EVERY_ADDRESS:
        address = "127.0.0.1"
    return f"{scheme}://{f'[{address}]' if ':' in address else address}:{port.port}/"


def is_candidate(port: Port) -> bool:
    """Whether it makes sense to ask this port for HTTP: sshd would only log a bad client."""
    return port.protocol == "tcp" and not port.process.startswith("sshd")


def discover(connection: CheckConnection, ports: Sequence[Port]) -> dict[str, int]:
    """Which ports speak HTTP and are well: status by URL, server errors left out."""
    with ThreadPoolExecutor(ASK_AT_ONCE) as pool:
        found = pool.map(lambda port: _first_answer(connection, port), filter(is_candidate, ports))
        return {url: status for url, status in found if 0 < status < SERVER_ERROR}


def _first_answer(connection: CheckConnection, port: Port) -> tuple[str, int]:
    """The URL and status of whatever answers; TLS is tried where plain HTTP is not understood."""
    for scheme in ("http", "https"):
        url = url_of(port, scheme)
        answer = ask(connection, url, DISCOVERY_SECONDS)
        if answer.status is not None:
            return url, answer.status
        if answer.timed_out:  # it waits for something else than HTTP: do not wait twice
            break
    return "", 0


def as_before(status: int, answer: Answer) -> bool:
    """Whether an answer is of the same kind (2xx, 3xx, …) as ``status``."""
    return answer.status is not None and answer.status // 100 == status // 100
