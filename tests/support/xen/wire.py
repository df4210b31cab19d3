"""Production's wires, as dom0 sees them: what a clone says on them, and what happens when the way
to the host is cut.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sandbox.core.deadline import Deadline
from sandbox.core.process import run
from tests.support.xen.xenlab import Administrator, Host

MARKER, CONTROL = "upgrade-sandbox-attack", "upgrade-sandbox-control"
# Run in the clone as a check: whatever it may try, on every way there is.
ATTACK = f"""
import os, socket, subprocess
nic = next(name for name in sorted(os.listdir("/sys/class/net")) if name != "lo")
for line in ("ip addr add 198.51.100.77/24 dev NIC", "ip route add default dev NIC"):
    subprocess.run(line.replace("NIC", nic).split(), stderr=subprocess.DEVNULL)
index, said = socket.if_nametoindex(nic), b"{MARKER}"
own = subprocess.run(["ip", "-4", "-o", "addr", "show", nic], capture_output=True, text=True).stdout
gateways = [w.rsplit(".", 1)[0] + ".1" for w in own.split() if w.startswith("198.18.")]
hosts = ["198.51.100.1", "198.51.100.91", "169.254.169.254", "10.0.2.2", "255.255.255.255"]
for address in hosts + gateways:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        for port in (53, 67, 123, 4789):
            try: s.sendto(said, (address, port))
            except OSError: pass
with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as s:
    for address in ("ff02::1", "ff02::2"):
        s.sendto(said, (address, 5353, 0, index))
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
    raw.bind((nic, 0))
    for target in ("ffffffffffff", "0180c200000e", "0180c2000000", "333300000001"):
        raw.send(bytes.fromhex(target + "00163e5a0b01" + "88b5") + said)
reached = []
for address in hosts[:1] + gateways:
    for port in (22, 53, 111, 16509):
        try: socket.create_connection((address, port), 2).close()
        except OSError: continue
        reached.append((address, port))
print(reached)
"""
CHECK = f"""
def test_nothing_is_reached(host):
    done = host.run("python3 -c %s", {ATTACK!r})
    assert done.stdout == "[]\\n", done
"""


Seen = dict[str, set[str]]


@pytest.fixture
def capture(host: Host, administrator: Administrator) -> Iterator[Callable[[], Seen]]:
    """What dom0 sees on all its interfaces: those on which each marker was seen.

    The source itself says the control's, so that it is known that there is something to be seen.
    """
    # Without SSH, through which go all packages of an upgrade.
    host.run(
        "rm -f /run/sbtest.*; setsid tcpdump -i any -s 256 -U -w /run/sbtest.pcap "
        "'not tcp port 22' >/dev/null 2>/run/sbtest.log </dev/null & echo $! >/run/sbtest.pid; "
        "for i in $(seq 60); do grep -q 'listening on' /run/sbtest.log && exit; sleep 1; done; "
        "cat /run/sbtest.log >&2; exit 1"
    )
    administrator.inside(
        "bash -c 'nic=$(ls /sys/class/net | grep -v lo | head -n 1); "
        f'echo {CONTROL} >"/dev/udp/ff02::1%$nic/9"\''
    )

    def seen() -> Seen:
        host.run("sleep 2; kill $(cat /run/sbtest.pid); sleep 1")
        shown = host.run("tcpdump -r /run/sbtest.pcap -A -n 2>/dev/null")
        found: Seen = {MARKER: set(), CONTROL: set()}
        current = ""
        for line in shown.splitlines():
            if re.match(r"\d\d:\d\d:\d\d\.", line):
                current = line.split()[1]
            for marker in found:
                if marker in line:
                    found[marker].add(current)
        return found

    yield seen
    host.run("kill $(cat /run/sbtest.pid) 2>/dev/null; rm -f /run/sbtest.*", check=False)


def expect_nothing_on(own: str | tuple[str, ...], seen: Seen, production: str) -> None:
    """The clone sent on its ``own`` bridge, or the control on another, and nothing was heard by
    others: neither production nor dom0.

    tcpdump names interfaces when it shows what it kept: "?" is one that is gone by then, as the
    run's own are. All others of dom0 are still there.
    """
    assert production in seen[CONTROL], "the capture sees nothing where there was something to see"
    assert seen[MARKER], "the clone did not say anything"
    assert [name for name in seen[MARKER] if name != "?" and not name.startswith(own)] == []


CUT_SECONDS = 90.0  # longer than it takes OpenSSH, as we start it, to call a connection dead
_TABLE = "sbtest_cut"


class Cut:
    """The way to the host, cut for a while: nothing comes back, not even a refusal."""

    def __init__(self) -> None:
        self.ways: set[tuple[str, str]] = set()  # address and port
        self._timer = threading.Timer(CUT_SECONDS, self.mend)

    def now(self) -> None:
        """Cut it; it mends by itself."""
        self.ways = ways_to_the_host()
        assert self.ways, "no ssh connection of ours: there is nothing to cut"
        rules = [
            f"{'ip6' if ':' in address else 'ip'} {side}addr {address} tcp {side}port {port} drop"
            for address, port in self.ways
            for side in "ds"
        ]
        chains = [
            f"chain {hook} {{ type filter hook {hook} priority -200; {'; '.join(rules)}; }}"
            for hook in ("input", "output")
        ]
        table = f"table inet {_TABLE} {{\n" + "\n".join(chains) + "\n}\n"
        run(["nft", "-f", "-"], Deadline(60, "cutting"), input=table.encode())
        self._timer.start()

    def mend(self) -> None:
        run(["nft", "delete", "table", "inet", _TABLE], Deadline(60, "mending"), check=False)

    def end(self) -> None:
        self._timer.cancel()
        self.mend()


@contextmanager
def cut() -> Iterator[Cut]:
    made = Cut()
    try:
        yield made
    finally:
        made.end()


def our_ssh() -> dict[int, bytes]:
    """The command lines of all ssh processes that are ways of ours to a host."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            argv = (entry / "cmdline").read_bytes()
        except OSError:
            continue  # it ended meanwhile
        if argv.startswith(b"ssh") and b"/run/upgrade-sandbox/ssh" in argv:
            found[int(entry.name)] = argv
    return found


def ways_to_the_host() -> set[tuple[str, str]]:
    """Where these connections lead to, whatever is on the way."""
    ours, found = our_ssh(), set()
    for line in run(
        ["ss", "-Htnp", "state", "established"], Deadline(60, "ss")
    ).stdout.splitlines():
        pids = {int(pid) for pid in re.findall(r"pid=(\d+)", line)}
        if pids & set(ours):
            address, _, port = line.split()[3].rpartition(":")
            found.add((address.strip("[]").partition("%")[0], port))
    return found
