"""A host and a guest as two network namespaces, joined by a bridge as a clone's is."""

from __future__ import annotations

import secrets
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from sandbox.network.isolation import Network, gate_rules, names

MAC = "52:54:00:12:34:56"
HOST, GUEST = "198.18.7.1", "198.18.7.10"
HOST_LL, GUEST_LL = "fe80::1", "fe80::5054:ff:fe12:3456"

# What runs in a namespace. Answers go to standard output.
LISTEN = """
import socket, sys, threading
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
server = socket.create_server((sys.argv[1], int(sys.argv[2])), family=family)
print("listening", flush=True)
while True:
    stream, _ = server.accept()
    stream.sendall(b"SSH-2.0-test\\r\\n")
    stream.close()
"""
CONNECT = """
import socket, sys
address, port, bridge, own_port = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
six = ":" in address
with socket.socket(socket.AF_INET6 if six else socket.AF_INET) as stream:
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    stream.settimeout(1.5)
    if own_port:
        stream.bind(("", own_port))
    scope = (0, socket.if_nametoindex(bridge)) if six else ()
    try:
        stream.connect((address, port, *scope))
        print(stream.recv(64).decode().strip())
    except OSError as problem:
        print("failed:", problem)
"""
RECEIVE = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
with socket.socket(family, socket.SOCK_DGRAM) as here:
    here.bind(("", int(sys.argv[2])))
    here.settimeout(1.5)
    print("listening", flush=True)
    try:
        print(here.recv(99).decode())
    except TimeoutError:
        print("nothing")
"""
SEND = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
scope = (0, socket.if_nametoindex("eth0")) if family == socket.AF_INET6 else ()
with socket.socket(family, socket.SOCK_DGRAM) as here:
    here.bind(("", int(sys.argv[3])))
    here.sendto(b"heard", (sys.argv[1], int(sys.argv[2]), *scope))
"""


@dataclass(frozen=True)
class Link:
    """Names of the two namespaces; in the host's there is the bridge, in the guest's ``eth0``."""

    host: str
    guest: str
    network: Network

    def run(self, namespace: str, *argv: str, input: str | None = None) -> str:
        done = subprocess.run(
            ["ip", "netns", "exec", namespace, *argv],
            input=input,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (argv, done.stderr)
        return done.stdout

    def close_gate(self, ssh_port: int = 22) -> None:
        self.run(self.host, "nft", "-f", "-", input=gate_rules(self.network, ssh_port))

    def python(self, namespace: str, program: str, *words: object) -> str:
        return self.run(namespace, sys.executable, "-c", program, *map(str, words)).strip()

    def from_guest(self, address: str, port: int, own_port: int = 0) -> str:
        return self.python(self.guest, CONNECT, address, port, "eth0", own_port)

    def from_host(self, address: str, port: int, own_port: int = 0) -> str:
        return self.python(self.host, CONNECT, address, port, self.network.bridge, own_port)

    def datagram(self, address: str, port: int, own_port: int) -> bool:
        """Whether the host hears one that the guest sends."""
        argv = (sys.executable, "-c", RECEIVE, address, str(port))
        with subprocess.Popen(
            ["ip", "netns", "exec", self.host, *argv], stdout=subprocess.PIPE, text=True
        ) as receiver:
            assert receiver.stdout
            assert receiver.stdout.readline() == "listening\n"
            self.python(self.guest, SEND, address, port, own_port)
            return receiver.stdout.readline() == "heard\n"

    @contextmanager
    def listening(self, namespace: str, address: str, port: int) -> Iterator[None]:
        argv: Sequence[str] = (sys.executable, "-c", LISTEN, address, str(port))
        server = subprocess.Popen(
            ["ip", "netns", "exec", namespace, *argv], stdout=subprocess.PIPE, text=True
        )
        try:
            assert server.stdout
            assert server.stdout.readline() == "listening\n"
            yield
        finally:
            server.kill()
            server.wait()
            if server.stdout:
                server.stdout.close()


@contextmanager
def linked() -> Iterator[Link]:
    token = secrets.token_hex(3)
    link = Link(f"sbtest-h-{token}", f"sbtest-g-{token}", names(f"sbtest-{token}"))
    bridge, port = link.network.bridge, f"{link.network.bridge}-0"
    made: list[str] = []
    try:
        for namespace in (link.host, link.guest):
            subprocess.run(["ip", "netns", "add", namespace], check=True)
            made.append(namespace)
            link.run(namespace, "sysctl", "-qw", "net.ipv6.conf.all.accept_dad=0")
            link.run(namespace, "sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0")
            link.run(namespace, "ip", "link", "set", "lo", "up")
        host = ("ip", "netns", "exec", link.host, "ip")
        for words in (
            ("link", "add", bridge, "type", "bridge"),
            ("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", link.guest),
            ("link", "set", port, "master", bridge),
            ("link", "set", port, "up"),
            ("link", "set", bridge, "addrgenmode", "none"),
            ("link", "set", bridge, "up"),
            ("addr", "add", f"{HOST}/24", "dev", bridge),
            ("addr", "add", f"{HOST_LL}/64", "dev", bridge),
        ):
            subprocess.run([*host, *words], check=True)
        link.run(link.guest, "ip", "link", "set", "eth0", "address", MAC)
        link.run(link.guest, "ip", "link", "set", "eth0", "up")
        link.run(link.guest, "ip", "addr", "add", f"{GUEST}/24", "dev", "eth0")
        yield link
    finally:
        for namespace in made:
            subprocess.run(["ip", "netns", "del", namespace], check=True)
