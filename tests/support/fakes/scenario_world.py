"""A scenario with everything in it, and what it takes to load it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sandbox.scenario import Scenario, ScenarioError, load_scenario
from tests.support.paths import ROOT

READY = ROOT / "scenarios"
SHARED = READY / "shared"
NAMES = ("everything", "kernel", "package", "release", "security")
UP = "upgrade: {what: all}\n"
FULL = """\
description: Everything that can be said
source:
  image:
    path: disk.qcow2
    format: qcow2
    disks: [{path: data.raw, format: raw}]
    memory: 2GiB
    cpus: 4
    firmware: uefi
    machine: q35
    disk_bus: sata
    nic: e1000
login: {user: admin, key: id, port: 2222, inject: false}
upgrade:
  what: packages
  packages: [nginx, 'openssl=3.0.20-1~deb12u2', 'libc6:i386']
  repositories: ['deb [trusted=yes] https://mirror.example/debian bookworm-proposed main contrib']
  files: [local/nginx-local.deb]
reboot: always
checks:
  shared: [ports, boot]
  http: ['http://127.0.0.1/']
  filesystems_max_percent: 80
  ignore: {units: ['apt-*'], ports: [tcp/68, 8080], kernel_log: ['^ACPI']}
deadlines: {clone: 90, boot: 5m, baseline: 300, upgrade: 1h30m, reboot: 10m5s, verify: 1d}
expect:
  kernel: 6.1.0-18-amd64
  change: ['nginx*']
  keep: [postgresql-15]
  nothing_to_upgrade: inconclusive
memory: 512MiB
dependencies:
- {http: 'http://API.example:8080/health'}
- {http: 'http://10.1.2.3'}
- {tcp: 'db.example:5432'}
- {smtp: mail.example}
schedule:
  cron: 30 1 * * mon-fri
  timezone: Europe/Berlin
  window: 3h
  missed: report
  tolerance: 30m
  host: xen1
  guests: [web01, {guest: db01, host: xen2}]
"""


def make_folder(around: Path) -> Path:
    """A scenario's folder with the files that FULL names."""
    folder = around / "web01"
    (folder / "local").mkdir(parents=True)
    for name in ("disk.qcow2", "data.raw", "id", "id.pub", "local/nginx-local.deb", "up.sh"):
        (folder / name).write_text("")
    (folder / "test_web.py").write_text("def test_web(host): pass\n")
    return folder


def load(folder: Path, text: str, **options: Any) -> Scenario:
    (folder / "scenario.yaml").write_text(text)
    return load_scenario(folder, shared=SHARED, **options)


def problems(folder: Path, text: str, **options: Any) -> list[str]:
    """What is wrong, without the path in front of the line number."""
    with pytest.raises(ScenarioError) as caught:
        load(folder, text, **options)
    assert caught.value.hint
    start = f"{folder / 'scenario.yaml'}:"
    assert all(problem.startswith(start) for problem in caught.value.problems)
    assert all(problem in caught.value.message for problem in caught.value.problems)
    return [problem.removeprefix(start) for problem in caught.value.problems]
