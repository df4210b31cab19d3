"""A preflight of a guest with Debian's real package lists: against apt alone, and its allowance."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from table import Measurement, Results

from sandbox.deadline import Deadline
from sandbox.demo.guest import Production
from sandbox.demo.mirror import find_mirror
from sandbox.process import run
from sandbox.proxy import PackageProxy
from sandbox.settings import read_settings

pytestmark = [pytest.mark.benchmark, pytest.mark.vm]

ROUNDS = 2
ALLOWED = 10.0  # seconds of CPU, the guest's and ours: what it takes on a machine of its own
MOST = 3.0
PORT = 3142
VIRSH = ("virsh", "-q", "-c", "qemu:///system")


def test_a_preflight_against_apt_alone_and_its_allowance(
    results: Results, production: Production, state: Path
) -> None:
    refresh_lists(production, state)
    key = inside(production, "cat /etc/ssh/ssh_host_ed25519_key.pub").split()
    known_hosts = state / "known_hosts"
    known_hosts.write_text(f"{production.address} {key[0]} {key[1]}\n")
    hands, ours, cpu = [], [], []
    for _ in range(ROUNDS):
        hands.append(seconds(lambda: inside(production, "apt-get -q -s dist-upgrade")))
        before = cpu_seconds(production)
        ours.append(seconds(lambda: preflight(production, known_hosts)))
        cpu.append(cpu_seconds(production) - before)
    hand, took, spent = map(statistics.mean, (hands, ours, cpu))
    results.add(
        Measurement(
            name="preflight-against-apt",
            what="`sandbox preflight` of a guest against `ssh GUEST apt-get -s dist-upgrade`",
            ratio=took / hand,
            most=MOST,
            seconds={"sandbox preflight": took, "apt-get over ssh": hand},
            note=f"means of {ROUNDS}, by turns",
        )
    )
    results.add(
        Measurement(
            name="preflight-against-allowance",
            what=f"CPU time of a preflight, the guest's too, against the {ALLOWED:g} s it may take",
            ratio=spent / ALLOWED,
            most=1.0,
            seconds={"guest and command, CPU": spent, "on the clock": took},
        )
    )


def seconds(step: Callable[[], object]) -> float:
    started = time.monotonic()
    step()
    return time.monotonic() - started


def cpu_seconds(production: Production) -> float:
    """Of the guest's emulator, and of all programs that were waited for here."""
    shown = run([*VIRSH, "domstats", "--cpu-total", production.name], Deadline(30, "CPU time"))
    (line,) = [one for one in shown.stdout.splitlines() if "cpu.time=" in one]
    ours = resource.getrusage(resource.RUSAGE_CHILDREN)
    return int(line.partition("=")[2]) / 1e9 + ours.ru_utime + ours.ru_stime


def preflight(production: Production, known_hosts: Path) -> None:
    done = subprocess.run(
        [
            *(str(Path(sys.executable).with_name("sandbox")), "preflight", "security"),
            *("--address", production.address, "--key", str(production.key)),
            *("--known-hosts", str(known_hosts)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "packages would change" in done.stdout, done.stdout + done.stderr


def refresh_lists(production: Production, state: Path) -> None:
    """As the guest's own timer does it once a day."""
    settings, mirror = read_settings(), find_mirror()
    with PackageProxy(
        [mirror.release_uri, mirror.security_uri],
        settings.cache / "packages",
        state / "proxy.sock",
        operator_allowed=settings.proxy_allow,
        upstream_proxy=settings.upstream_proxy,
    ) as proxy:
        via = f"http://127.0.0.1:{PORT}"
        options = f"-o Acquire::http::Proxy={via} -o Acquire::https::Proxy={via}"
        forward = ("-R", f"127.0.0.1:{PORT}:{proxy.socket}")
        inside(production, f"apt-get -q {options} update", *forward)


def inside(production: Production, script: str, *options: str) -> str:
    ssh, *rest = production.ssh(script)
    done = subprocess.run([ssh, *options, *rest], capture_output=True, text=True, check=True)
    return done.stdout
