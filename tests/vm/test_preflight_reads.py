"""A preflight on production itself: it finds what is there, and changes nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from sandbox.demo.broken import DATA, SITE_CONFIG, SITE_PACKAGE, build_deb
from sandbox.demo.guest import Production
from tests.support.guests.archive import Archive

pytestmark = pytest.mark.vm

FOLDERS = "/etc /boot /root /usr/local /var/lib/dpkg /var/lib/apt /var/cache/apt"
# Names, owners, sizes, times of content and of attributes; then the content.
LISTING = f"find {FOLDERS} -printf '%p %M %u %g %s %T@ %C@\\n' | sort"
LISTING += f"; find {FOLDERS} -type f -print0 | sort -z | xargs -0 sha256sum"
CHANGED = "# edited by the administrator"


def inside(production: Production, script: str, *options: str) -> str:
    ssh, *rest = production.ssh(script)
    done = subprocess.run([ssh, *options, *rest], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def with_an_update(
    production: Production, archive: Archive, tmp_path: Path
) -> Iterator[Production]:
    """An administrator has edited a configuration file and refreshed the package lists."""
    files = {SITE_CONFIG: (DATA / "site-1.0.conf").read_text()}
    package = build_deb(
        SITE_PACKAGE, "1.1", out=tmp_path, files=files, conffiles=[SITE_CONFIG], depends="nginx"
    )
    archive.offer([package])
    port = urlsplit(archive.url).port
    inside(production, f"cp -p {SITE_CONFIG} /run/kept; echo '{CHANGED}' >>{SITE_CONFIG}")
    inside(
        production,
        "apt-get -q -o Acquire::http::Proxy=http://127.0.0.1:3142 update",
        *("-R", f"127.0.0.1:3142:127.0.0.1:{port}"),
    )
    yield production
    inside(production, f"cp -p /run/kept {SITE_CONFIG}; rm -f /var/lib/apt/lists/*_*")


def test_production_is_looked_at_and_left_as_it_was(
    with_an_update: Production, tmp_path: Path
) -> None:
    production = with_an_update
    key = inside(production, "cat /etc/ssh/ssh_host_ed25519_key.pub").split()
    known_hosts = tmp_path / "known_hosts"
    known_hosts.write_text(f"{production.address} {key[0]} {key[1]}\n")
    before = inside(production, LISTING)
    looked = subprocess.run(
        [
            *(sys.executable, "-m", "sandbox", "preflight", "everything", "--json"),
            *("--address", production.address, "--key", str(production.key)),
            *("--known-hosts", str(known_hosts)),
        ],
        env={k: v for k, v in os.environ.items() if not k.startswith("SANDBOX_")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert looked.returncode == 0, looked.stdout + looked.stderr
    assert inside(production, LISTING) == before
    found = json.loads(looked.stdout)
    assert [(c["name"], c["old"], c["new"]) for c in found["changes"]] == [
        (SITE_PACKAGE, "1.0", "1.1")
    ]
    points = {point["topic"]: point for point in found["points"]}
    assert f"{SITE_CONFIG} ({SITE_PACKAGE})" in points["conffiles"]["text"]
    (service,) = found["services"]
    assert (service["service"], service["package"]) == ("nginx.service", SITE_PACKAGE)
    assert service["seconds"] > 0
    assert found["reboot_seconds"] > 0
    assert not any(point["severity"] == "blocker" for point in found["points"])
