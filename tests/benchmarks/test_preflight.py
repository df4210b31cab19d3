"""A preflight of a guest with Debian's real package lists, against the time that it may take."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from table import Measurement, Results

from sandbox.demo.guest import Production
from sandbox.demo.mirror import find_mirror
from sandbox.proxy import PackageProxy
from sandbox.settings import read_settings

pytestmark = [pytest.mark.benchmark, pytest.mark.vm]

ROUNDS = 3
ALLOWED = 10.0  # seconds, the command's own start included; on an emulated guest
PORT = 3142


def test_a_preflight_against_its_allowance(
    results: Results, production: Production, state: Path
) -> None:
    refresh_lists(production, state)
    key = inside(production, "cat /etc/ssh/ssh_host_ed25519_key.pub").split()
    known_hosts = state / "known_hosts"
    known_hosts.write_text(f"{production.address} {key[0]} {key[1]}\n")
    times = [preflight(production, known_hosts) for _ in range(ROUNDS)]
    took = statistics.median(times)
    results.add(
        Measurement(
            name="preflight-against-allowance",
            what=f"`sandbox preflight security` of a guest against the {ALLOWED:g} s it may take",
            ratio=took / ALLOWED,
            most=1.0,
            seconds={"sandbox preflight": took},
            note=f"median of {ROUNDS} ({' '.join(f'{one:.1f}' for one in times)} s)",
        )
    )


def preflight(production: Production, known_hosts: Path) -> float:
    started = time.monotonic()
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
    seconds = time.monotonic() - started
    assert "packages would change" in done.stdout, done.stdout + done.stderr
    return seconds


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
