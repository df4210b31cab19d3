"""The mail server that drops what it takes: asked by the standard library, and by hostile hands."""

from __future__ import annotations

import asyncio
import contextlib
import smtplib
import socket
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.network import stand_in_server

END = b"\r\n.\r\n"


@contextlib.contextmanager
def serving(kind: str) -> Iterator[int]:
    """A stand-in on loopback; its port."""
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(stand_in_server.listen(kind, "127.0.0.1", 0))
    assert isinstance(server, asyncio.base_events.Server)
    runs = threading.Thread(target=loop.run_forever)
    runs.start()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        runs.join()
        server.close()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serving("smtp") as made:
        yield made


@contextlib.contextmanager
def client(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as stream:
        assert stream.recv(100) == b"220 sandbox ESMTP\r\n"
        yield stream


def ends(stream: socket.socket) -> bytes:
    """What is still said until the connection ends; to be cut off is an end as well."""
    said = b""
    with contextlib.suppress(ConnectionError):
        while data := stream.recv(1 << 16):
            said += data
    return said


def is_there(port: int) -> bool:
    with smtplib.SMTP("127.0.0.1", port, timeout=20) as mail:
        return mail.sendmail("a@example.org", ["b@example.org"], "hello") == {}


@pytest.mark.parametrize(
    "body",
    [
        b"Subject: hello\r\n\r\n.\r\n..\r\nhello",
        b"",
        bytes(range(256)) * 100,
        b"x" * 200_000 + b"\r\n.hello",
        b"\r\n".join([b"y" * 70] * 10_000),
    ],
    ids=["dots", "empty", "binary", "one long line", "many lines"],
)
def test_mail_is_taken_whatever_is_in_it(port: int, body: bytes) -> None:
    with smtplib.SMTP("127.0.0.1", port, timeout=20) as mail:
        for _ in range(2):
            assert mail.sendmail("a@example.org", ["b@example.org", "c"], body) == {}


def test_what_a_client_asks_beside_that_is_answered(port: int) -> None:
    with smtplib.SMTP("127.0.0.1", port, timeout=20) as mail:
        assert mail.helo() == (250, b"sandbox")
        assert mail.ehlo()[0] == 250
        assert mail.esmtp_features == {"8bitmime": "", "pipelining": "", "size": "10485760"}
        assert mail.noop()[0] == 250
        assert mail.rset()[0] == 250
        assert mail.verify("a")[0] == 252
        assert mail.docmd("StartTLS")[0] == 502
        assert mail.docmd("AUTH", "PLAIN AGEAYg==")[0] == 502
        assert mail.docmd("BDAT 5")[0] == 500
        assert mail.docmd("")[0] == 500
        with pytest.raises(smtplib.SMTPNotSupportedError):
            mail.starttls()
        assert mail.quit()[0] == 221


def test_it_may_all_be_said_at_once(port: int) -> None:
    with client(port) as stream:
        stream.sendall(b"EHLO a\r\nMAIL FROM:<>\r\nRCPT TO:<b>\r\nDATA\r\nhello" + END + b"QUIT\n")
        codes = [line[:3] for line in ends(stream).splitlines() if line[3:4] == b" "]
    assert codes == [b"250", b"250", b"250", b"354", b"250", b"221"]


def test_a_mail_ends_wherever_its_end_is_cut(port: int) -> None:
    with client(port) as stream:
        for at in range(len(END) + 1):
            stream.sendall(b"DATA\r\n")
            assert stream.recv(100).startswith(b"354")
            for part in (b"a.\r\n.b" + END[:at], END[at:]):
                stream.sendall(part)
            assert stream.recv(100) == b"250 OK\r\n"


# -- hostile clients ----------------------------------------------------------------------------


def test_an_endless_line_ends_the_connection(port: int) -> None:
    with client(port) as stream:
        with contextlib.suppress(ConnectionError):
            for _ in range(1000):
                stream.sendall(b"x" * 100_000)
            pytest.fail("it read 100 MB")
        assert ends(stream) == b""
    assert is_there(port)


@pytest.mark.parametrize("line", [b"y" * 998 + b"\r\n", b"z" * 1000], ids=["lines", "one line"])
def test_an_endless_mail_ends_the_connection(port: int, line: bytes) -> None:
    with client(port) as stream:
        stream.sendall(b"DATA\r\n")
        assert stream.recv(100).startswith(b"354")
        with contextlib.suppress(ConnectionError):
            for _ in range(100_000):
                stream.sendall(line)
            pytest.fail("it read 100 MB")
        assert ends(stream) in (b"", b"552 Too much\r\n")
    assert is_there(port)


def test_whoever_does_not_read_is_not_read(port: int) -> None:
    """What waits for it is bounded: the replies, and so what is heard."""
    with client(port) as stream:
        stream.settimeout(2)
        with pytest.raises(TimeoutError):
            stream.sendall(b"EHLO\n" * 20_000_000)
        assert is_there(port)


def test_whoever_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stand_in_server, "_PATIENCE", 0.2)
    with serving("smtp") as port:
        for said in (b"", b"EH", b"DATA\r\nhello\r\n"):
            with client(port) as stream:
                stream.sendall(said)
                assert ends(stream) in (b"", stand_in_server._SMTP[b"DATA"] + b"\r\n")
    with serving("http") as port, socket.create_connection(("127.0.0.1", port), 20) as stream:
        stream.sendall(b"GET / HTTP/1.1\r\n")
        assert ends(stream) == b""


def test_an_endless_request_is_no_request() -> None:
    with serving("http") as port, socket.create_connection(("127.0.0.1", port), 20) as stream:
        with contextlib.suppress(ConnectionError):
            for _ in range(1000):
                stream.sendall(b"x" * 100_000)
            pytest.fail("it read 100 MB")
        assert ends(stream) == b""


def test_any_bytes_are_survived(port: int) -> None:
    words = st.sampled_from([b"DATA\r\n", b".\r\n", b"\r\n", b"\n", b"MAIL", b" ", b"QUIT\r\n"])

    @settings(max_examples=60, deadline=None)
    @given(st.lists(words | st.binary(max_size=40), max_size=30))
    def survive(parts: list[bytes]) -> None:
        with client(port) as stream:
            with contextlib.suppress(ConnectionError):  # QUIT was among them
                stream.sendall(b"".join(parts))
                stream.shutdown(socket.SHUT_WR)
            ends(stream)

    survive()
    assert is_there(port)


def test_many_at_once_are_served(port: int) -> None:
    with contextlib.ExitStack() as stack:
        many = [stack.enter_context(client(port)) for _ in range(200)]
        for stream in many:
            stream.sendall(b"NOOP\r\n")
        assert {stream.recv(100) for stream in many} == {b"250 OK\r\n"}
    assert is_there(port)
