"""Answers for services that are not there, in a network of its own: see :mod:`sandbox.standins`.

``python -m sandbox.standin_server FOLDER SERVICES``, by ``unshare --net``: says "waiting", takes
the card that it is given, says "ready". What a clone sends here is read as nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import resource
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sandbox.deadline import Deadline
from sandbox.listener import SINK, become_nobody
from sandbox.process import run

CARD = "card"
_FILES = 256  # so many connections at once: more wait
_HEAD = 64 << 10  # bytes of a request before it counts as none
_PATIENCE = 60.0  # seconds that a request may take
_MAIL = 10 << 20
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def isolate() -> None:
    """Nothing is forwarded, and nothing is said by itself."""
    net = Path("/proc/sys/net")
    (net / "ipv4/ip_forward").write_text("0")
    for scope in ("all", "default"):
        path = net / f"ipv6/conf/{scope}/disable_ipv6"
        if path.exists():
            path.write_text("1")


def set_up(addresses: Sequence[str]) -> None:
    deadline = Deadline(30, "setting the stand-ins' card up")
    while CARD not in (name for _number, name in socket.if_nameindex()):
        deadline.check()
        time.sleep(0.01)
    mac = SINK.hex(":")
    run(["ip", "link", "set", CARD, "address", mac, "up"], deadline)
    for address in addresses:
        run(["ip", "address", "add", f"{address}/32", "dev", CARD], deadline)
    run(["ip", "route", "add", "default", "dev", CARD], deadline)


class Held(asyncio.Protocol):
    """Accepts, and says nothing."""


class Http(asyncio.Protocol):
    """An empty 200 to the first request, whatever it is; what follows is not read."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport, self._head, self._answered = transport, b"", False
        asyncio.get_running_loop().call_later(_PATIENCE, transport.abort)

    def data_received(self, data: bytes) -> None:
        if self._answered:
            return  # the rest of a body: to close now would reset what was answered
        self._head += data
        if b"\r\n\r\n" in self._head:
            self._answered = True
            self._transport.write(_ANSWER)
            self._transport.write_eof()
        elif len(self._head) > _HEAD:
            self._transport.abort()


def protocol_of(kind: str) -> Callable[[], asyncio.Protocol]:
    if kind != "smtp":
        return Http if kind == "http" else Held
    from aiosmtpd.smtp import SMTP

    class Sink:
        async def handle_DATA(self, *_mail: Any) -> str:
            return "250 OK"

    return lambda: SMTP(Sink(), data_size_limit=_MAIL, hostname="sandbox", timeout=_PATIENCE)


async def serve(services: Sequence[tuple[str, str, int]]) -> None:
    loop = asyncio.get_running_loop()
    for kind, address, port in services:
        make = protocol_of(kind)
        await loop.create_server(make, address, port)
    become_nobody()
    print("ready", flush=True)
    await asyncio.Event().wait()


def main() -> None:
    os.chdir("/")  # whoever started it may want to unmount where he was
    services = [(kind, address, port) for kind, address, port in json.loads(sys.argv[2])]
    resource.setrlimit(resource.RLIMIT_NOFILE, (_FILES, _FILES))
    logging.disable()  # a guest must not be able to fill the disk
    isolate()
    print("waiting", flush=True)
    set_up(sorted({address for _kind, address, _port in services}))
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(services))


if __name__ == "__main__":
    main()
