"""Answers for services that are not there, in a network of its own; run on the bridge's host.

Started by :mod:`sandbox.network.stand_ins` as a program of its own, by its text, so that a host
needs nothing of ours: the standard library of Python 3.9 is enough. It ends when the services
answer, or with what went wrong, and leaves two processes. One runs as the user nobody and reads
what a clone sends, in a network whose one card is plugged into the bridge. The other stays in the
host's network and ends both when the bridge is gone, even after the sandbox has ended. They need no
ssh session (sshd allows ten), and they answer on when the connection to the host is cut.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import logging
import os
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CARD = "card"
_SECONDS = 120  # for a program to end, on an emulated host
_FILES = 256  # so many connections at once: more wait
_HEAD = 64 << 10  # bytes of a request, or of a line, before it counts as none
_PATIENCE = 60.0  # seconds that a request may take
_MAIL = 10 << 20
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_SMTP = {
    b"HELO": b"250 sandbox",
    b"EHLO": b"250-sandbox\r\n250-8BITMIME\r\n250-PIPELINING\r\n250 SIZE %d" % _MAIL,
    b"DATA": b"354 End with <CR><LF>.<CR><LF>",
    b"VRFY": b"252 Try it",
    b"QUIT": b"221 Bye",
    **dict.fromkeys((b"MAIL", b"RCPT", b"RSET", b"NOOP"), b"250 OK"),
    **dict.fromkeys((b"AUTH", b"STARTTLS"), b"502 Not here"),
}
_NOBODY = 65534
_NEW_NETWORK = 0x40000000  # CLONE_NEWNET of linux/sched.h
_ATTACH_FILTER, _EVERYTHING, _RETURN = 26, 3, 0x06  # as in sandbox.network.egress_listener
_DONE = b"."  # what the two tell each other


# -- the services, in a network of their own ----------------------------------------------------


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


async def take_mail(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A mail server that drops what it takes. Our own, since on a Xen host there is nothing but
    Python's own library, which has none any more."""
    # Whatever goes wrong is the clone's affair, and ends this connection. Before Python 3.11 the
    # error of asyncio was one of its own.
    gone = (OSError, EOFError, ValueError, asyncio.TimeoutError)
    writer.write(b"220 sandbox ESMTP\r\n")
    with contextlib.suppress(*gone):
        while not writer.is_closing():
            await asyncio.wait_for(_hear_command(reader, writer), _PATIENCE)
    writer.close()
    asyncio.get_running_loop().call_later(_PATIENCE, writer.transport.abort)


async def _hear_command(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await writer.drain()  # a client that reads no answers gets no further
    words = (await _line(reader)).split(None, 1)
    verb = words[0].upper() if words else b""
    writer.write(_SMTP.get(verb, b"500 Not known") + b"\r\n")
    if verb == b"DATA":
        await writer.drain()
        whole = await _drop_mail(reader)
        writer.write(b"250 OK\r\n" if whole else b"552 Too much\r\n")
        if not whole:
            writer.close()
    elif verb == b"QUIT":
        writer.close()


async def _drop_mail(reader: asyncio.StreamReader) -> bool:
    """Read up to the end of a mail; false when that does not come in time."""
    size, fresh = 0, True
    while size <= _MAIL:
        try:
            line = await _line(reader)
        except ValueError:  # too long for us: the next one is a rest of it
            size, fresh = size + _HEAD, False
            continue
        if fresh and line == b".\r\n":
            return True
        size, fresh = size + len(line), True
    return False


async def _line(reader: asyncio.StreamReader) -> bytes:
    """Raises ValueError when it is too long, EOFError when it is the last and not whole."""
    line = await reader.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    return line


async def listen(kind: str, address: str, port: int) -> asyncio.AbstractServer:
    if kind == "smtp":
        return await asyncio.start_server(take_mail, address, port, limit=_HEAD)
    make = Http if kind == "http" else Held
    return await asyncio.get_running_loop().create_server(make, address, port)


async def serve(services: Sequence[Sequence[Any]], keeper: socket.socket) -> None:
    """Until the one who keeps us has ended."""
    for kind, address, port in services:
        await listen(kind, address, port)
    become_nobody()
    be_silent()
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(keeper, ended.set)
    keeper.send(_DONE)
    await ended.wait()


def take_card(order: Mapping[str, Any], keeper: socket.socket) -> None:
    """Leave the host's network for one of our own, and wait for the card that comes there."""
    if ctypes.CDLL(None, use_errno=True).unshare(_NEW_NETWORK):
        raise OSError(ctypes.get_errno(), "no network of its own can be made")
    isolate()
    keeper.send(_DONE)
    expect(keeper)
    addresses = sorted({address for _kind, address, _port in order["services"]})
    ip(
        f"link set {CARD} address {order['mac']} up",
        *(f"address add {address}/32 dev {CARD}" for address in addresses),
        f"route add default dev {CARD}",
    )


def isolate() -> None:
    """Nothing is forwarded, and nothing is said by itself."""
    net = Path("/proc/sys/net")
    (net / "ipv4/ip_forward").write_text("0")
    for scope in ("all", "default"):
        path = net / f"ipv6/conf/{scope}/disable_ipv6"
        if path.exists():
            path.write_text("1")


def become_nobody() -> None:
    """What a hostile guest sends is read by a process that may do nothing but this."""
    os.setgroups([])
    os.setresgid(_NOBODY, _NOBODY, _NOBODY)
    os.setresuid(_NOBODY, _NOBODY, _NOBODY)


def be_silent() -> None:
    """Close the standard streams: the starter waits until no process holds them open."""
    null = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(null, stream)
    os.close(null)


# -- the one who keeps them, in the host's network ----------------------------------------------


def keep(bridge: str, order: Mapping[str, Any], told: int) -> None:
    """Until the bridge is gone, or they have ended; ``told`` hears when they answer."""
    wire, (here, there) = watch(bridge), socket.socketpair()
    server = os.fork()
    if not server:
        for one in (wire, here):  # the host's network is nothing for who reads a clone's words
            one.close()
        os.close(told)
        take_card(order, there)
        asyncio.run(serve(order["services"], there))
        return
    there.close()
    port = f"{bridge}-s"
    try:
        expect(here)  # before it has a network of its own, the card would be one of the host's
        ip(
            f"link add {port} type veth peer name {CARD} netns {server}",
            f"link set {port} master {bridge} up",
        )
        here.send(_DONE)
        expect(here)
        be_silent()
        os.write(told, _DONE)
        os.close(told)
        until_one_ends(wire, here)
    finally:
        os.kill(server, signal.SIGKILL)
        os.waitpid(server, 0)  # its network goes with it, and the bridge's end of its card


def watch(bridge: str) -> socket.socket:
    """Fails when the bridge goes; else nothing comes."""
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    nothing = ctypes.create_string_buffer(struct.pack("HBBI", _RETURN, 0, 0, 0))
    program = struct.pack("HL", 1, ctypes.addressof(nothing))
    wire.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, program)
    wire.bind((bridge, _EVERYTHING))
    return wire


def until_one_ends(wire: socket.socket, server: socket.socket) -> None:
    ends = select.poll()
    ends.register(wire, 0)  # an error is always told
    ends.register(server, select.POLLIN)
    ends.poll()


def expect(other: socket.socket) -> None:
    """Wait for the other one; should it end instead, it says itself why."""
    if not other.recv(1):
        sys.exit(1)


def ip(*commands: str) -> None:
    argv = ["ip", "-batch", "-"]
    text = "".join(f"{command}\n" for command in commands).encode()
    done = subprocess.run(argv, input=text, capture_output=True, check=False, timeout=_SECONDS)
    if done.returncode:
        raise OSError(done.stderr.decode(errors="replace").partition("\n")[0])


def main() -> None:
    _name, bridge, _folder, order = sys.argv[1:]
    done, told = os.pipe()
    if os.fork():
        os.close(told)
        sys.exit(0 if os.read(done, 1) else 1)
    os.close(done)
    os.setsid()
    os.chdir("/")  # its starter may want to unmount the folder that it was in
    os.nice(5)
    logging.disable()  # a guest must not be able to fill the disk
    resource.setrlimit(resource.RLIMIT_NOFILE, (_FILES, _FILES))
    try:
        keep(bridge, json.loads(order), told)
    except OSError as problem:
        sys.exit(f"{bridge}: {problem}")


if __name__ == "__main__":
    main()
