"""What a whole rehearsal costs production on the same Xen host: the latency of its own writes."""

from __future__ import annotations

import io
import json
import shlex
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sandbox.core.progress import Silent
from sandbox.core.records import Verdict
from sandbox.core.settings import Settings
from sandbox.demo.broken import build_deb
from tests.support.benchmarks.table import Measurement, Results
from tests.support.guests.archive import SOURCE, Archive
from tests.support.xen.xenlab import (
    LOOK,
    Administrator,
    Host,
    Xen,
    administrator,
    archive,
    host,
    reason,
    verdict,
)

__all__ = ["administrator", "archive", "host"]

pytestmark = [pytest.mark.benchmark, pytest.mark.xen]

PACKAGE = "sbtest-extra"
SCENARIO = f"upgrade: {{what: packages, packages: [{PACKAGE}]}}\nreboot: never\n"
FILE, SAID, PID = "/root/sbtest.fio", "/run/sbtest-fio.json", "/run/sbtest-fio.pid"
ALONE = 60  # seconds without a rehearsal, before and after
# As a database commits: small, in place, on the disk before the next one; not all that fits.
FIO = (
    f"fio --name=commits --filename={FILE} --size=64m --rw=randwrite --bs=4k --ioengine=psync "
    f"--sync=1 --rate_iops=20 --time_based --runtime=7200 --output-format=json --output={SAID}"
)


@dataclass(frozen=True)
class Latency:
    """Of one write, in seconds."""

    p50: float
    p99: float
    writes: int


class Writer:
    """Production that writes."""

    def __init__(self, hand: Administrator) -> None:
        self._hand = hand

    def begin(self) -> None:
        self._hand.inside(f"setsid {FIO} >/dev/null 2>&1 </dev/null & echo $! >{PID}")

    def end(self) -> Latency:
        """Stop it; what it measured."""
        said = self._hand.inside(
            f"pid=$(cat {PID}); kill -INT $pid; "
            f"while kill -0 $pid 2>/dev/null; do sleep 0.5; done; cat {SAID}; rm {SAID} {PID}"
        ).stdout
        # It notes in the same file by what it was stopped.
        found, _ = json.JSONDecoder().raw_decode(said[said.index("{") :])
        write = found["jobs"][0]["write"]
        percentiles = write["clat_ns"]["percentile"]
        return Latency(
            percentiles["50.000000"] / 1e9, percentiles["99.000000"] / 1e9, write["total_ios"]
        )

    def alone(self) -> Latency:
        self.begin()
        self._hand.inside(f"sleep {ALONE}")
        return self.end()


@pytest.fixture
def writer(administrator: Administrator, tmp_path: Path) -> Iterator[Writer]:
    """fio in the source, brought there for the time of the benchmark where it has none."""
    brought: list[str] = []
    if not administrator.inside("command -v fio", check=False).ok:
        brought = bring(administrator, "fio", tmp_path)
    # Its blocks exist before, as those of a database do.
    administrator.inside(f"dd if=/dev/urandom of={FILE} bs=1M count=64 conv=fsync status=none")
    yield Writer(administrator)
    administrator.inside(f"[ ! -e {PID} ] || kill $(cat {PID}); rm -f {FILE} {SAID} {PID}")
    if brought:
        administrator.inside(f"dpkg --purge {shlex.join(brought)} >/dev/null")


def bring(hand: Administrator, package: str, folder: Path) -> list[str]:
    """Install a package with what it needs, fetched by this machine: the source has no uplink."""
    status = folder / "status"
    status.write_text(hand.inside("cat /var/lib/dpkg/status").stdout)
    options = ("-o", f"Dir::State::status={status}", "-o", "APT::Sandbox::User=root")
    simulated = subprocess.run(
        ["apt-get", *options, "--no-install-recommends", "--simulate", "install", package],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    missing = [line.split()[1] for line in simulated.splitlines() if line.startswith("Inst ")]
    subprocess.run(
        ["apt-get", *options, "download", *missing], cwd=folder, check=True, capture_output=True
    )
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for path in sorted(folder.glob("*.deb")):
            tar.add(path, path.name)
    unpack = "mkdir -p /root/sbtest-debs && tar -x -C /root/sbtest-debs"
    hand.inside(unpack, input=packed.getvalue())
    install = "dpkg --install /root/sbtest-debs/*.deb >/dev/null && rm -r /root/sbtest-debs"
    hand.inside(install, seconds=1200)
    return missing


def test_production_writes_while_it_is_rehearsed(
    results: Results,
    host: Host,
    archive: Archive,
    writer: Writer,
    state: Path,
    tmp_path: Path,
) -> None:
    archive.offer([build_deb(PACKAGE, "1.0", out=tmp_path / "deb")])
    settings = Settings(
        state=state,
        cache=state / "cache",
        uri=host.uri,
        upstream_proxy=archive.url,
        proxy_allow=(SOURCE,),
        control="never",
        watch=0.0,
    )
    folder = tmp_path / "scenarios"
    folder.mkdir()
    xen = Xen(host, settings, folder, Silent())
    before = writer.alone()
    writer.begin()
    record = xen.run(xen.scenario(SCENARIO, test_up=LOOK))
    during = writer.end()
    assert verdict(record) is Verdict.PASS, reason(record)
    after = writer.alone()
    found = {"before": before, "during": during, "after": after}
    counted = ", ".join(f"{latency.writes} {when}" for when, latency in found.items())
    for name in ("p50", "p99"):
        seconds = {when: getattr(latency, name) for when, latency in found.items()}
        results.add(
            Measurement(
                name=f"xen-production-writes-{name}",
                what=f"production's 4 KiB commits, {name}: during a whole rehearsal : before",
                ratio=seconds["during"] / seconds["before"],
                seconds=seconds,
                note=f"fio in the source, 20 a second; writes: {counted}",
            )
        )
