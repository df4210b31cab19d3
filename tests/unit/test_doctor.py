"""doctor: every check says the truth about what it looks at, and none of them can end it."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path

import pytest

from sandbox.core.errors import HostError
from sandbox.doctor import host_checks
from sandbox.doctor.examine import examine
from sandbox.doctor.host_checks import Finding, State

# --- the whole ---------------------------------------------------------------------------------


# --- each check --------------------------------------------------------------------------------


def test_a_check_that_raises_is_a_finding() -> None:
    def broken() -> Finding:
        raise ZeroDivisionError("by zero")

    def host() -> Finding:
        raise HostError("the host is ill", "a cure")

    def system() -> Finding:
        raise PermissionError(13, "Permission denied", "/x")

    assert examine(broken).detail == "this check itself failed: ZeroDivisionError: by zero"
    assert examine(host) == Finding(State.BAD, "the host is ill", "a cure")
    assert "Permission denied" in examine(system).detail
    assert {examine(run).state for run in (broken, host, system)} == {State.BAD}


def test_a_check_that_hangs_is_a_finding() -> None:
    forever = threading.Event()
    began = time.monotonic()
    try:
        found = examine(lambda: Finding(State.OK, str(forever.wait(30))), seconds=0.2)
    finally:
        forever.set()
    assert time.monotonic() - began < 5
    assert (found.state, found.detail) == (State.BAD, "no answer within 0 s")


def test_what_a_check_found_is_one_clean_line() -> None:
    found = examine(lambda: Finding(State.OK, "a\nb\x1b[31mc", "d\ne"))
    assert (found.detail, found.hint) == ("a bc", "d e")


def test_state_folder_that_cannot_be_written() -> None:
    """Nobody can make files there, whoever asks."""
    assert examine(lambda: host_checks.state_folder(Path("/proc/sandbox"))).state is State.BAD


def test_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(host_checks, "_SYSTEM_FOLDERS", str(tmp_path / "sbin"))
    assert host_checks.program("nft", "nftables") == Finding(
        State.BAD, "not installed", "apt install nftables"
    )
    assert host_checks.optional_program("virt-customize").state is State.WARNING
    assert "inject: true" in host_checks.optional_program("virt-customize").hint
    for folder in (tmp_path / "sbin", tmp_path):
        folder.mkdir(exist_ok=True)
        (folder / "nft").touch(mode=0o755)
        found = host_checks.program("nft", "nftables")
        if folder == tmp_path:
            assert found == Finding(State.OK, str(tmp_path / "nft"))
        else:
            assert found.state is State.BAD
            assert "is not in PATH" in found.detail


def test_every_program_has_a_package() -> None:
    assert all(re.fullmatch(r"[a-z0-9.+-]+", package) for package in host_checks.PROGRAMS.values())


def test_ipv6_that_the_kernel_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_checks, "IPV6", tmp_path / "none")
    assert host_checks.ipv6_works().state is State.BAD


def test_acceleration_that_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter((True, False))
    monkeypatch.setattr(host_checks, "acceleration", lambda: "tcg")
    monkeypatch.setattr(host_checks, "probe", lambda _kind: next(answers))
    assert host_checks.acceleration_works().state is State.WARNING
    assert host_checks.acceleration_works().state is State.BAD
    monkeypatch.setattr(host_checks, "acceleration", lambda: "kvm")
    assert host_checks.acceleration_works().state is State.OK


def test_memory_without_a_hypervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_checks, "MEMORY", tmp_path / "meminfo")
    host = host_checks.HostInHand(host_checks.Settings())
    for free, state in ((100, State.BAD), (1024, State.WARNING), (8192, State.OK)):
        (tmp_path / "meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable: {free << 10} kB\n")
        assert host_checks.memory(host).state is state
