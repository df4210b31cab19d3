"""Observations: the script in real shells, its parser on real and hostile output."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.core.deadline import Deadline
from sandbox.core.records import Port
from sandbox.observe.observation import is_reboot_due, observe
from sandbox.observe.observation_parse import compare_versions, parse
from tests.support.fakes.local_shell import LocalShell
from tests.support.waiting import wait_until
from tests.unit.test_observe import MARK

SCRIPT = files("sandbox.observe") / "observe.sh"


SHELLS = [("dash",), ("bash", "--posix"), ("busybox", "sh")]


def deadline() -> Deadline:
    return Deadline(30, "baseline")


@pytest.fixture
def listening() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize(
    "interpreter", [s for s in SHELLS if shutil.which(s[0])], ids=lambda argv: argv[0]
)
def test_this_machine(interpreter: tuple[str, ...], listening: int) -> None:
    seen = observe(LocalShell(interpreter), deadline())
    assert seen.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert seen.kernel == platform.release()
    assert 0 < seen.uptime <= float(Path("/proc/uptime").read_text().split()[0])
    dpkg = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package}:${Architecture} ${Version}\n"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert {f"{name} {p.version}" for name, p in seen.packages.items()} == {
        f"{name} {version}" for name, version in zip(dpkg[::2], dpkg[1::2], strict=True)
    }
    disk = os.statvfs("/")
    root = next(fs for fs in seen.filesystems if fs.mount == "/")
    assert root.size == disk.f_blocks * disk.f_frsize
    assert listening in [port.port for port in seen.ports]
    assert "/etc/debian_version" in seen.conffiles or seen.conffiles
    digest = seen.conffiles.get("/etc/bash.bashrc")
    if digest:
        assert digest == subprocess.run(
            ["md5sum", "/etc/bash.bashrc"], capture_output=True, text=True, check=True
        ).stdout.split()[0]  # fmt: skip


def test_one_round_trip_and_our_own_door_is_not_seen(listening: int) -> None:
    shell = LocalShell(("sh",), proxy=f"http://127.0.0.1:{listening}")
    assert listening not in [port.port for port in observe(shell, deadline()).ports]
    assert len(shell.scripts) == 1


def test_a_reboot_is_due_when_a_library_was_replaced_beneath_a_process(tmp_path: Path) -> None:
    shell = LocalShell(("sh",))
    before = is_reboot_due(shell, deadline())
    seen = observe(shell, deadline())
    assert before == (seen.reboot_required or bool(seen.stale_processes))
    program = Path("/usr/local/sbin") / f"sbtest-{tmp_path.name}"
    shutil.copy("/bin/sleep", program)
    with subprocess.Popen([program, "60"]) as running:
        try:
            program.unlink()
            assert is_reboot_due(shell, deadline())
        finally:
            program.unlink(missing_ok=True)
            running.kill()


@pytest.fixture
def poor_path(tmp_path: Path) -> Path:
    """A PATH with the least that a POSIX system has: no ss, dpkg, systemctl, journalctl."""
    for name in ("sh", "cat", "uname", "head", "tail", "sed", "grep", "sort", "df", "tr", "xargs"):
        found = shutil.which(name)
        assert found
        (tmp_path / name).symlink_to(found)
    return tmp_path


def test_a_poor_guest(poor_path: Path, listening: int) -> None:
    # The script adds the usual folders to PATH: here they must not bring the tools back.
    shell = LocalShell(("sh",), env={"PATH": str(poor_path)})
    text = SCRIPT.read_text().replace(":/usr/local/sbin:/usr/sbin:/sbin", "")
    answer = shell.run(text, deadline(), args=(MARK, "all"))
    seen = parse(answer.stdout, MARK)
    assert seen.packages == seen.conffiles == seen.units == {}
    assert (seen.state, seen.target, seen.target_reached) == ("unknown", "", True)
    assert Port(protocol="tcp", address="127.0.0.1", port=listening) in seen.ports
    assert [fs for fs in seen.filesystems if fs.mount == "/"]


def test_a_replaced_program_is_noticed() -> None:
    program = Path("/opt/upgrade-sandbox-test-sleep")
    shutil.copy("/bin/sleep", program)
    child = subprocess.Popen([str(program), "60"])
    try:
        runs = Path(f"/proc/{child.pid}/exe")
        wait_until(lambda: runs.readlink() == program, f"{program} to run")
        program.unlink()
        seen = observe(LocalShell(), deadline())
    finally:
        program.unlink(missing_ok=True)
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert program.name[:15] in seen.stale_processes


def test_the_script_is_plain_posix() -> None:
    for interpreter in (["dash", "-n"], ["bash", "--posix", "-n"]):
        subprocess.run([*interpreter, str(SCRIPT)], check=True)


VERSIONS = st.text("0123456789abz.+~", min_size=1, max_size=8).map("1".__add__)


@given(VERSIONS, VERSIONS)
def test_the_order_is_dpkgs(left: str, right: str) -> None:
    ours = compare_versions(left, right)
    relation = "lt" if ours < 0 else "gt"
    done = subprocess.run(["dpkg", "--compare-versions", left, relation, right], check=False)
    equal = subprocess.run(["dpkg", "--compare-versions", left, "eq", right], check=False)
    assert done.returncode == 0 or equal.returncode == 0
