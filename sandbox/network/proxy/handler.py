"""One connection from a clone to the package proxy: read strictly, judge, answer.

Nothing that the client sent is passed on but a method, a URL taken apart and put together
again, and a few headers in plain characters; so there is nothing to smuggle a request in.
"""

from __future__ import annotations

import io
import re
import selectors
import socket
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler

from urllib3.exceptions import HTTPError
from urllib3.response import BaseHTTPResponse

from sandbox.network.proxy.cache import Entry, Part, is_immutable
from sandbox.network.proxy.rules import Refused, Rule, Target, parse_authority, parse_url
from sandbox.network.proxy.sockets import PatientReader, Server

CHUNK = 65_536
MAX_REQUESTS = 10_000  # on one connection
HEADER_SECONDS = 30.0  # for a whole request head, however slowly it drips
JOIN_SECONDS = 15.0  # to wait for the same download by another; apt gives up after 30

_REQUEST_LINE = re.compile(r"[A-Z]{1,16} [\x21-\x7e]+ HTTP/1\.[01]")
_VALUE = re.compile(r"[\x20-\x7e\t]{0,2000}")
SENT_ON = (
    "Authorization", "Cache-Control", "If-Modified-Since", "If-None-Match", "If-Range",
    "Range", "User-Agent", "Accept",
)  # fmt: skip
CONDITIONS = ("If-Modified-Since", "If-None-Match")
HANDED_BACK = (
    "Accept-Ranges", "Age", "Cache-Control", "Content-Range", "Content-Type", "Date", "ETag",
    "Expires", "Last-Modified", "Location", "WWW-Authenticate",
)  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    """Requests of one connection, one after the other."""

    protocol_version = "HTTP/1.1"
    server: Server
    connection: socket.socket

    def setup(self) -> None:
        super().setup()
        self.proxy = self.server.proxy
        self._reader = PatientReader(self.connection)
        self.rfile = io.BufferedReader(self._reader, CHUNK)
        self._requests = 0
        self.command = ""
        self._answered = False

    def handle_one_request(self) -> None:
        self._reader.until = time.monotonic() + min(HEADER_SECONDS, self.proxy.timeout)
        self._requests += 1
        if self._requests > MAX_REQUESTS:
            self.close_connection = True
            return
        try:
            super().handle_one_request()
        except OSError:
            self.close_connection = True

    def parse_request(self) -> bool:
        """The base class reads; what it would forgive, we do not."""
        if not super().parse_request():
            return False
        self._answered = False
        self.connection.settimeout(self.proxy.timeout)
        try:
            self._check_form()
        except Refused as refused:
            self.close_connection = True
            self._refuse(refused)
            return False
        return True

    def _check_form(self) -> None:
        if not _REQUEST_LINE.fullmatch(self.requestline):
            raise Refused("not a plain HTTP/1 request line", 400)
        if self.command not in ("GET", "HEAD", "CONNECT"):
            raise Refused("only GET, HEAD and CONNECT", 405)
        defects = getattr(self.headers, "defects", None)
        if defects or self.headers.get_payload():
            raise Refused("malformed headers", 400)
        for name, value in self.headers.raw_items():
            if "\r" in value or "\n" in value or not name.isprintable():
                raise Refused("malformed headers", 400)
        for name in ("Host", "Range", "Authorization"):
            if len(self.headers.get_all(name, [])) > 1:
                raise Refused(f"{name} twice", 400)
        lengths = self.headers.get_all("Content-Length", [])
        if "Transfer-Encoding" in self.headers or any(value != "0" for value in lengths):
            raise Refused("a request with a body", 400)
        if "Upgrade" in self.headers or "Expect" in self.headers:
            raise Refused("no Upgrade and no Expect", 400)

    # -- GET and HEAD -----------------------------------------------------------------------

    def do_GET(self) -> None:
        self._serve(self._get)

    def do_HEAD(self) -> None:
        self._serve(self._get)

    def do_CONNECT(self) -> None:
        self.close_connection = True
        self._serve(self._connect)

    def _serve(self, answer: Callable[[], None]) -> None:
        self.proxy.counter.add("requests")
        try:
            answer()
        except Refused as refused:
            self._refuse(refused)
        except (HTTPError, OSError):
            # The source or the client went away in the middle: the connection's end tells.
            self.close_connection = True
            if not self._answered:
                self._refuse(Refused("the package source broke off", 502))

    def _get(self) -> None:
        target = parse_url(self.path)
        if target.scheme != "http":
            raise Refused("https sources are reached with CONNECT")
        rule = self.proxy.rules.find(target)
        headers = self._headers_to_send()
        cacheable = self.command == "GET" and "Range" not in headers
        if not cacheable or "Authorization" in headers or target.query:
            self._pass_through(target, rule, headers)
            return
        with self.proxy.cache.joined(target.url, JOIN_SECONDS):
            self._get_cached(target, rule, headers)

    def _headers_to_send(self) -> dict[str, str]:
        headers = {}
        for name in SENT_ON:
            value = self.headers.get(name)
            if value is not None:
                if not _VALUE.fullmatch(value):
                    raise Refused(f"{name} is not plain text", 400)
                headers[name] = value
        return headers

    def _get_cached(self, target: Target, rule: Rule, headers: dict[str, str]) -> None:
        entry = self.proxy.cache.open(target.url)
        if entry is None:
            self._fetch(target, rule, headers)
            return
        try:
            if is_immutable(target.path) and "no-cache" not in headers.get("Cache-Control", ""):
                self.proxy.counter.add("hits")
                self._send_entry(entry, headers)
            else:
                self._revalidate(entry, target, rule, headers)
        finally:
            entry.close()

    def _revalidate(
        self, entry: Entry, target: Target, rule: Rule, headers: dict[str, str]
    ) -> None:
        ours = {name: value for name, value in headers.items() if name not in CONDITIONS}
        if etag := entry.headers.get("etag"):
            ours["If-None-Match"] = etag
        if modified := entry.headers.get("last-modified"):
            ours["If-Modified-Since"] = modified
        response = self.proxy.upstream.fetch("GET", target, rule, ours)
        if response.status == HTTPStatus.NOT_MODIFIED:
            response.drain_conn()
            response.release_conn()
            self.proxy.counter.add("hits")
            self._send_entry(entry, headers)
        else:
            self._hand_back(response, target)

    def _fetch(self, target: Target, rule: Rule, headers: dict[str, str]) -> None:
        self._hand_back(self.proxy.upstream.fetch("GET", target, rule, headers), target)

    def _pass_through(self, target: Target, rule: Rule, headers: dict[str, str]) -> None:
        response = self.proxy.upstream.fetch(self.command, target, rule, headers)
        self._hand_back(response, None)

    def _hand_back(self, response: BaseHTTPResponse, target: Target | None) -> None:
        """Stream a response to the client and, for a ``target``, into the cache if it may."""
        length = _length(response)
        part = self._begin_part(response, target, length)
        try:
            self._send_head(response.status, _chosen(response), length)
            self._copy(response, part, chunked=length is None)
            if part:
                part.commit()
            response.release_conn()
        except BaseException:
            response.close()
            raise
        finally:
            if part:
                part.discard()

    def _begin_part(
        self, response: BaseHTTPResponse, target: Target | None, length: int | None
    ) -> Part | None:
        if target is None or response.status != HTTPStatus.OK or length is None:
            return None
        headers = {name.lower(): value for name, value in _chosen(response).items()}
        if not is_immutable(target.path) and not {"etag", "last-modified"} & headers.keys():
            return None  # could never be revalidated
        if "no-store" in headers.get("cache-control", "") or "private" in headers.get(
            "cache-control", ""
        ):
            return None
        return self.proxy.cache.store(target.url, headers, length)

    def _copy(self, response: BaseHTTPResponse, part: Part | None, *, chunked: bool) -> None:
        if not self._has_body(response.status):
            return
        chunked = chunked and self.request_version == "HTTP/1.1"
        while data := response.read1(CHUNK):  # what there is: apt gives up where nothing comes
            self.proxy.counter.add("fetched", len(data))
            if part:
                part.write(data)
            self.proxy.counter.add("sent", len(data))
            if chunked:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
            else:
                self.wfile.write(data)
        if chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _send_entry(self, entry: Entry, asked: dict[str, str]) -> None:
        etag, modified = entry.headers.get("etag"), entry.headers.get("last-modified")
        unchanged = (
            etag in [tag.strip() for tag in asked["If-None-Match"].split(",")]
            if "If-None-Match" in asked
            else bool(modified) and asked.get("If-Modified-Since") == modified
        )
        if unchanged:
            self._send_head(304, entry.headers, None)
            return
        self._send_head(200, entry.headers, entry.size)
        while data := entry.body.read(CHUNK):
            self.proxy.counter.add("sent", len(data))
            self.wfile.write(data)

    # -- CONNECT ----------------------------------------------------------------------------

    def _connect(self) -> None:
        host, port = parse_authority(self.path, None)
        rule = self.proxy.rules.find_tunnel(host, port)
        with self.proxy.upstream.tunnel(host, port, rule) as remote:
            self._answered = True
            self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            self._reader.dry = True
            assert isinstance(self.rfile, io.BufferedReader)
            remote.sendall(self.rfile.read1(CHUNK))  # what the client sent ahead
            for connection in (self.connection, remote):
                connection.settimeout(self.proxy.timeout)
            self._relay(remote)

    def _relay(self, remote: socket.socket) -> None:
        """Both ways until both ends are done, or nothing moves for the proxy's timeout."""
        partner = {self.connection: remote, remote: self.connection}
        with selectors.DefaultSelector() as waiting:
            for end in partner:
                waiting.register(end, selectors.EVENT_READ)
            while waiting.get_map():
                ready = waiting.select(self.proxy.timeout)
                if not ready:
                    return
                for key, _ in ready:
                    end = self.connection if key.fileobj is self.connection else remote
                    data = end.recv(CHUNK)
                    if data:
                        self._pass_on(data, partner[end], from_clone=end is self.connection)
                    else:
                        waiting.unregister(end)
                        partner[end].shutdown(socket.SHUT_WR)

    def _pass_on(self, data: bytes, to: socket.socket, *, from_clone: bool) -> None:
        if not from_clone:
            self.proxy.counter.add("fetched", len(data))
            self.proxy.counter.add("sent", len(data))
        to.sendall(data)

    # -- answers ----------------------------------------------------------------------------

    def _has_body(self, status: int) -> bool:
        return self.command != "HEAD" and status not in (204, 304) and status >= 200

    def _send_head(self, status: int, headers: dict[str, str], length: int | None) -> None:
        self._answered = True
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() != "content-length" and _VALUE.fullmatch(value):
                self.send_header(name, value)
        if length is not None:
            self.send_header("Content-Length", str(length))
        elif self._has_body(status):
            if self.request_version == "HTTP/1.1":
                self.send_header("Transfer-Encoding", "chunked")
            else:
                self.close_connection = True
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()

    def _refuse(self, refused: Refused) -> None:
        """Say no, with the reason where apt shows it: in the status line."""
        self._answered = True
        line = self.requestline if self.requestline.isascii() else "a request"
        printable = "".join(c for c in line if c.isprintable())
        self.proxy.counter.refuse(f"{printable[:200]}: {refused.reason}")
        words = f"{refused.reason} (package proxy)"
        reason = "".join(c for c in words if " " <= c <= "~")[:200]
        body = b"" if self.command == "HEAD" else (reason + "\n").encode()
        self.send_response_only(refused.status, reason)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(reason) + 1))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """The base class found something that is not HTTP."""
        self.close_connection = True
        self.command, self.request_version = self.command or "", "HTTP/1.1"
        self._refuse(Refused(message or "not an HTTP request", code))

    def handle_expect_100(self) -> bool:
        return True  # refused a moment later, without a "continue" before it

    def version_string(self) -> str:
        return "upgrade-sandbox"

    def address_string(self) -> str:
        return "clone"

    def log_message(self, format: str, *args: object) -> None:
        """The statistics tell; a hostile guest must not fill a log."""


def _chosen(response: BaseHTTPResponse) -> dict[str, str]:
    """The response's headers that matter to a package manager, in plain characters."""
    found = {name: response.headers.get(name) for name in HANDED_BACK}
    return {name: value for name, value in found.items() if value and _VALUE.fullmatch(value)}


def _length(response: BaseHTTPResponse) -> int | None:
    if "Transfer-Encoding" in response.headers:
        return None
    value = response.headers.get("Content-Length", "")
    return int(value) if re.fullmatch(r"[0-9]{1,15}", value) else None
