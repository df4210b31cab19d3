"""What `make demo` runs, and the README's commands: the real command, the real mirror."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from sandbox.core.deadline import Deadline
from sandbox.core.process import run
from sandbox.demo.guest import stop_production
from sandbox.demo.image import DemoImage
from tests.support.guests import resuming
from tests.support.guests.guests import Lab

pytestmark = pytest.mark.vm


@pytest.fixture(scope="module")
def web01() -> Iterator[str]:
    """The demo's own guest; one that is there already is used and stays."""
    there = (
        "web01"
        in run(["virsh", "-q", "list", "--all", "--name"], Deadline(20, "listing")).stdout.split()
    )
    yield "web01"
    if not there:
        stop_production("web01")


def sandbox(
    state: Path,
    *arguments: str | Path,
    program: Sequence[str] = (sys.executable, "-m", "sandbox"),
    **more: str,
) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("SANDBOX_")}
    return subprocess.run(
        [*program, *map(str, arguments)],
        env=env | {"SANDBOX_STATE": str(state), "SANDBOX_WATCH": "20"} | more,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_demo_passes_one_upgrade_and_fails_the_other(
    state: Path, web01: str, tmp_path: Path
) -> None:
    picture = tmp_path / "run.svg"
    shown = sandbox(state, "demo", "run", "--picture", picture)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert f"YES, upgrade {web01}" in shown.stdout
    assert f"NO, do not upgrade {web01}" in shown.stdout
    assert "nginx" in shown.stdout.partition("NO, do not")[2].splitlines()[0]
    assert picture.read_text().startswith("<svg")
    assert "http://" not in picture.read_text().replace("http://www.w3.org/", "")

    listed = [json.loads(line) for line in sandbox(state, "list", "--json").stdout.splitlines()]
    assert sorted(run["verdict"] for run in listed) == ["fail", "pass"]
    good = json.loads(sandbox(state, "report", listed[-1]["id"], "--format", "json").stdout)
    facts = good["record"]["facts"]
    assert facts["after"]["kernel"] != facts["before"]["kernel"], "a new kernel runs"
    assert facts["after"]["kernel"] == facts["after"]["kernels"][-1]
    page = tmp_path / "report.html"
    written = sandbox(state, "report", "latest", "--format", "html", "--output", page)
    assert written.returncode == 0
    assert "Content-Security-Policy" in page.read_text()


def test_the_doctor_finds_this_host_fit(state: Path) -> None:
    seen = sandbox(state, "doctor", "--json")
    lines = [json.loads(line) for line in seen.stdout.splitlines()]
    assert seen.returncode == 0, [line for line in lines if line["state"] != "ok"]
    assert len(lines) > 10


def test_a_vmdk_image_is_rehearsed(lab: Lab, base_image: DemoImage, tmp_path: Path) -> None:
    """A disk from another hypervisor: format stated, served read-only, booted by its own GRUB."""
    disk = tmp_path / "web01.vmdk"
    run(
        ["qemu-img", "convert", "-f", "qcow2", "-O", "vmdk", lab.image.path, disk],
        Deadline(300, "converting"),
    )
    folder = lab.scenario(
        "upgrade: {what: all}\nchecks: {shared: [boot, filesystems]}\n"
        f"login: {{key: {base_image.key}}}\n"
        f"source: {{image: {{path: {disk}, format: vmdk, memory: 512MiB}}}}\n"
    )
    record = lab.run_as_stated(folder)
    assert record.decision is not None
    assert record.decision.verdict.value == "pass", record.decision.reason
    assert record.source is not None
    assert record.source.disks[0].format == "vmdk"
    assert any("disk files unchanged" in proof for proof in record.source.untouched)


def test_init_writes_a_scenario_from_what_runs_in_a_clone(
    lab: Lab, state: Path, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = sandbox(
        *(state, "init", "web01-own", "--image", lab.image.path, "--format", "qcow2"),
        *("--key", lab.image.key),
        program=resuming.PROGRAM,
        **resuming.environment(saved, lab.image.path),
    )
    assert made.returncode == 0, made.stderr
    folder = tmp_path / "scenarios" / "web01-own"
    assert "nginx" in (folder / "test_web01_own.py").read_text()
    checked = sandbox(state, "scenario", "check", folder)
    assert checked.returncode == 0, checked.stderr
