"""The promise we live by: nothing that a clone does leaves its bridge.

A clone that attacks from its first second on (hostile_program.py) is rehearsed while the host
captures on every interface and listens on every address. Then the gate is opened, part by part:
the same attacks must now arrive, or the test before would have proved nothing.
"""

from __future__ import annotations

import json
import shlex
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from sandbox.clone.reaper import remove_run
from sandbox.core.records import RunRecord, UpgradeStatus, Verdict
from sandbox.core.store import Store
from sandbox.demo.guest import BRIDGE, Production
from sandbox.demo.image import DemoImage, derive_image
from sandbox.hosts.drivers import Hypervisor
from sandbox.network import isolation
from tests.support.guests import capture, hostile_program, leftovers
from tests.support.guests.archive import SOURCE, Archive
from tests.support.guests.guests import Lab, new_state, settings_for
from tests.support.guests.hostile_program import (
    ATTACKS,
    EVIL_MAC,
    REACHED,
    ROUNDS,
    TARGETS,
    TRAP,
    words,
)
from tests.support.waiting import wait_until

pytestmark = pytest.mark.vm

_wait = partial(wait_until, seconds=300, every=0.5)  # most of what is asked is asked through SSH
PROGRAM = "/usr/local/sbin/hostile"
UNIT = f"""[Unit]
DefaultDependencies=no

[Service]
ExecStart=/usr/bin/python3 {PROGRAM}
StandardError=null
Restart=always
"""
UNITS = "/etc/systemd/system"
LISTENERS = ("tcp4 listener", "tcp6 listener", "udp4 listener", "udp6 listener")
LOOPBACK = ("127.0.0.1", "::1")  # in a socket's mouth these are the clone's own
SCENARIO = """
upgrade: {what: script, script: probe.py}
reboot: never
checks: {shared: []}
memory: 512MiB
"""
CHECK = "def test_is_up(host):\n    assert host.file('/etc/hostname').exists\n"
PROBE = """#!/usr/bin/python3
import http.client, os, sys
from urllib.parse import urlsplit
proxy = urlsplit(os.environ["http_proxy"])
for method, url in {requests!r}:
    connection = http.client.HTTPConnection(proxy.hostname, proxy.port, timeout=60)
    connection.putrequest(method, url, skip_host=True)
    connection.putheader("Host", urlsplit(url).netloc or url)
    connection.endheaders()
    print("probe:", method, url, connection.getresponse().status, flush=True)
    connection.close()
"""


@dataclass(frozen=True)
class Siege:
    """All that was seen of a hostile clone's run."""

    record: RunRecord
    own: frozenset[str]  # the clone's bridge and its ports
    controls: dict[str, dict[str, int]]  # what the capture saw of our own packets, by interface
    heard_of_controls: dict[str, int]
    seen: dict[tuple[str, str], int]  # on the wires, while the gate was closed
    examples: dict[tuple[str, str], str]
    lost: int
    heard: dict[str, int]
    reached: str  # what the clone itself found open
    neighbours: tuple[dict[tuple[str, str], str], dict[tuple[str, str], str]]
    heard_past_gate: dict[str, int]  # without the chain at the ports
    heard_open: dict[str, int]  # without any gate
    reached_open: str
    probes: dict[tuple[str, str], int]
    asked: tuple[str, ...]  # of the archive
    left: dict[str, int]


@pytest.fixture(scope="module")
def theirs(production: Production) -> tuple[str, str]:
    """Production's addresses, known to the host as a neighbour's.

    The one that ssh uses is there before production has heard of its lease.
    """
    show = production.ssh("ip", "-4", "-o", "addr", "show", "scope", "global")
    end = time.monotonic() + 120
    while time.monotonic() < end:
        shown = subprocess.run(show, capture_output=True, text=True, check=True).stdout
        for word in shown.split():
            if word.count(".") == 3 and "/" in word:
                return word.partition("/")[0], production.address.partition("%")[0]
        time.sleep(1)
    pytest.fail("production has had no IPv4 address for two minutes")


def _ask_for(theirs: tuple[str, str]) -> None:
    """The host forgets a neighbour that it did not need for a minute: ask for them anew."""
    v4, v6 = theirs
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as old,
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as new,
    ):
        old.sendto(b"who has it?", (v4, 9))
        new.sendto(b"who has it?", (v6, 9, 0, socket.if_nametoindex(BRIDGE)))
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if {(BRIDGE, address) for address in theirs} <= capture.neighbours().keys():
            break
        time.sleep(0.1)


@pytest.fixture(scope="module")
def evil(image: DemoImage, production: Production, theirs: tuple[str, str]) -> Iterator[DemoImage]:
    """The image with the attacker in it, who knows the host's and production's addresses."""
    hosts = [a for known in capture.addresses().values() for a in known if a not in LOOPBACK]
    world = {
        "addresses": sorted({*hosts, *theirs}),
        "production": [theirs[0]],
        "mac": [production.mac.replace(":", "")],
    }
    # Not in the cache: another host, another lease, another image.
    with tempfile.TemporaryDirectory(prefix="sbvm-hostile-", dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        yield derive_image(
            image,
            "hostile",
            print,
            files={
                PROGRAM: Path(hostile_program.__file__).read_text(),
                str(TARGETS): json.dumps(world),
                f"{UNITS}/hostile.service": UNIT,
            },
            links={f"{UNITS}/sysinit.target.wants/hostile.service": f"{UNITS}/hostile.service"},
            cache=Path(folder),
        )


@pytest.fixture(scope="module")
def siege(
    evil: DemoImage,
    archive: Archive,
    hypervisor: Hypervisor,
    theirs: tuple[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Siege]:
    archive.offer([])
    with new_state() as state:
        settings = settings_for(state, archive)
        lab = Lab(settings, hypervisor, evil, tmp_path_factory.mktemp("hostile"))
        yield _besiege(lab, archive, theirs)


def _besiege(lab: Lab, archive: Archive, theirs: tuple[str, str]) -> Siege:
    scenario = lab.scenario(SCENARIO, test_up=CHECK)
    (scenario / "probe.py").write_text(PROBE.format(requests=_requests(archive)))
    with capture.Capture() as watch, capture.Ears() as ears:
        _ask_for(theirs)
        before = capture.neighbours()
        controls, heard_of_controls = _control(watch, ears)
        watch.forget()
        ears.forget()
        record = lab.run(scenario, keep=True)
        net, clone = isolation.names(record.id), shlex.split(record.ssh_command)
        try:
            _wait_for_rounds(clone, 2)
            own = capture.ports(net.bridge)
            seen, heard, reached = dict(watch.seen), ears.all(), _inside(clone, "cat", REACHED)
            lost = watch.lost()
            _ask_for(theirs)
            after = capture.neighbours()
            past_gate, opened, reached_open = _open_gate(net, clone, ears)
        finally:
            remove_run(lab.hypervisor, Store(lab.settings).folder(record.id))
    return Siege(
        record=record,
        own=frozenset(own),
        controls=controls,
        heard_of_controls=heard_of_controls,
        seen=seen,
        examples=watch.examples,
        lost=lost,
        heard=heard,
        reached=reached,
        neighbours=(before, after),
        heard_past_gate=past_gate,
        heard_open=opened,
        reached_open=reached_open,
        probes=_probes(lab.artifacts(record) / "upgrade.log"),
        asked=tuple(archive.asked),
        left=dict(leftovers.count(lab.settings.state)),
    )


def _control(
    watch: capture.Capture, ears: capture.Ears
) -> tuple[dict[str, dict[str, int]], dict[str, int]]:
    """Send packets with the attacker's words ourselves, on wires where the clone is not."""
    said = words("control")
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.sendto(said, (address, TRAP))
    for interface in ("lo", BRIDGE):
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
            wire.bind((interface, 0))
            wire.send(b"\xff" * 6 + EVIL_MAC + b"\x88\xb5" + said)
            wire.send(b"\xff" * 6 + EVIL_MAC + b"\x88\xb5" + bytes(50))
    _wait(lambda: {"control", "mac"} <= set(watch.on(BRIDGE)), "the controls")
    _wait(lambda: len(ears.all()) >= 3, "the controls")
    return {name: watch.on(name) for name in ("lo", BRIDGE)}, ears.all()


def _open_gate(
    net: isolation.Network, clone: list[str], ears: capture.Ears
) -> tuple[dict[str, int], dict[str, int], str]:
    """Open the gate part by part; what is heard then, and what the clone itself found open."""
    # The host itself must not believe the rogue router: that would be its end, not the test's.
    _do("sysctl", "-qw", f"net.ipv6.conf.{net.bridge}.accept_ra=0")
    _do("nft", "delete", "table", "bridge", net.table)
    _do("ip", "link", "set", net.bridge, "type", "bridge", "group_fwd_mask", "0")
    _wait_to_hear(ears, "udp4 listener: group", "udp6 listener: group")
    past_gate = ears.forget()
    _do("nft", "delete", "table", "netdev", net.table)
    _wait_to_hear(ears, *LISTENERS)
    _wait(lambda: "tcp" in _inside(clone, "cat", REACHED), "the clone")
    return past_gate, ears.all(), _inside(clone, "cat", REACHED)


def _requests(archive: Archive) -> list[tuple[str, str]]:
    """What the probe asks of the package proxy."""
    port = urlsplit(archive.url).port  # a service of the host on its loopback, and it is up
    return [
        ("GET", f"{SOURCE}Packages"),
        ("GET", "http://mirror.example/web01/Packages"),
        ("GET", "http://packages.example/other/Packages"),
        ("GET", f"http://{hostile_program.METADATA}/latest/meta-data/"),
        ("GET", f"http://127.0.0.1:{port}/web01/Packages"),
        ("GET", f"http://localhost:{port}/web01/Packages"),
        ("GET", f"http://[::1]:{port}/web01/Packages"),
        ("HEAD", f"http://127.0.0.1:{port}/web01/Packages"),
        ("CONNECT", "mirror.example:443"),
        ("CONNECT", f"127.0.0.1:{port}"),
        ("CONNECT", "packages.example:80"),
        ("POST", f"{SOURCE}Packages"),
    ]


def _probes(log: Path) -> dict[tuple[str, str], int]:
    lines = [line.split() for line in log.read_text().splitlines() if line.startswith("probe: ")]
    return {(method, url): int(status) for _, method, url, status in lines}


def _wait_for_rounds(clone: list[str], rounds: int) -> None:
    """Until the attacker has gone through everything so often again."""

    def done() -> int:
        return int(_inside(clone, "cat", ROUNDS) or 0)

    goal = done() + rounds
    _wait(lambda: done() >= goal, "the attacker's rounds")


def _inside(clone: list[str], *command: object) -> str:
    argv = [*clone, "--", *(str(word) for word in command)]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def _do(*command: str) -> None:
    subprocess.run(command, check=True)


def _wait_to_hear(ears: capture.Ears, *words: str) -> None:
    def done() -> bool:
        heard = ears.all()
        return all(any(word in name for name in heard) for word in words)

    _wait(done, f"ears to hear {words}")


def test_the_rehearsal_itself_goes_well(siege: Siege) -> None:
    assert siege.record.decision is not None
    assert siege.record.decision.verdict is Verdict.PASS, siege.record.decision.reason
    assert siege.record.facts.upgrade is not None
    assert siege.record.facts.upgrade.status is UpgradeStatus.APPLIED


def test_the_capture_sees_such_packets_elsewhere(siege: Siege) -> None:
    for interface, signs in siege.controls.items():
        assert {"control", "mac"} <= set(signs), interface
    assert {"udp4 listener: control", "udp6 listener: control"} <= set(siege.heard_of_controls)
    assert "the host's own stack: control" in siege.heard_of_controls


@pytest.mark.parametrize("attack", ATTACKS)
def test_every_attack_was_really_made(siege: Siege, attack: str) -> None:
    assert sum(siege.seen.get((interface, attack), 0) for interface in siege.own) > 0


def test_no_packet_is_seen_on_any_other_interface(siege: Siege) -> None:
    outside = {key: n for key, n in siege.seen.items() if key[0] not in siege.own}
    assert outside == {}, {key: siege.examples[key] for key in outside}
    assert siege.lost == 0, "the capture was too slow: it proves nothing"


def test_no_service_of_the_host_is_reached(siege: Siege) -> None:
    assert siege.heard == {}


def test_the_clone_finds_nothing_open(siege: Siege) -> None:
    assert siege.reached == ""


def test_neighbours_on_other_interfaces_are_unchanged(
    siege: Siege, theirs: tuple[str, str], production: Production
) -> None:
    before, after = siege.neighbours
    there = {key: mac for key, mac in after.items() if key[0] not in siege.own}
    assert {there[BRIDGE, address] for address in theirs} == {production.mac}
    for key in before.keys() & there.keys():
        if key[0] != BRIDGE:  # where other tests' productions come and go
            assert there[key] == before[key], key
    lies = (EVIL_MAC.hex(":"), *hostile_program.ALIENS)
    assert [entry for entry in there.items() if entry[1] in lies or entry[0][1] in lies] == []


def test_without_the_chain_at_the_ports_the_host_would_be_reached(siege: Siege) -> None:
    """A bridge hands frames to 01:80:c2:00:00:0x to the host on the port that they come by."""
    assert any(name.startswith("udp4 listener: group") for name in siege.heard_past_gate)
    assert any(name.startswith("udp6 listener: group") for name in siege.heard_past_gate)
    assert not any("tcp" in name for name in siege.heard_past_gate), "the gate itself still held"


def test_without_the_gate_the_host_would_be_reached(siege: Siege) -> None:
    assert {name.partition(":")[0] for name in siege.heard_open} >= set(LISTENERS)
    assert f" {TRAP}\n" in siege.reached_open


def test_the_package_proxy_lets_only_the_guests_own_sources_through(siege: Siege) -> None:
    assert siege.probes.pop(("GET", f"{SOURCE}Packages")) == 200
    assert len(siege.probes) == 11
    refused = {status for (method, _), status in siege.probes.items() if method != "POST"}
    assert refused == {403}, siege.probes
    assert siege.probes["POST", f"{SOURCE}Packages"] in (403, 405, 501)
    assert {url.startswith(SOURCE) for url in siege.asked} == {True}


def test_nothing_is_left_of_it(siege: Siege) -> None:
    assert siege.left == {}


def test_what_listens_at_its_bridge_bears_it(siege: Siege) -> None:
    ledger = siege.record.facts.ledger
    assert ledger is not None
    assert ledger.missing == "", "it ended"
    tried = {(one.kind, one.address, one.port) for one in ledger.destinations}
    assert len(tried) <= 500
    assert ("tcp", hostile_program.METADATA, TRAP) in tried
