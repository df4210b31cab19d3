"""Guests for tests: one on this machine as it is, one whose commands are ours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.clone.guest import Guest
from sandbox.hosts.drivers.fake import FakeHypervisor
from tests.support.fakes.guest_world import XML, Commands, make_guest
from tests.support.machine.sshd import Sshd, running_sshd
from tests.support.waiting import soon


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with running_sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str | None]:
    """Where the clone answers, round by round; the last one stays."""
    rounds: list[str | None] = ["127.0.0.1"]

    def find(*_args: object) -> str | None:
        return rounds.pop(0) if len(rounds) > 1 else rounds[0]

    monkeypatch.setattr("sandbox.clone.guest.discovery.find", find)
    monkeypatch.setattr("sandbox.clone.guest.JOBS", str(tmp_path / "jobs"))
    return rounds


@pytest.fixture
def hypervisor(found: list[str | None]) -> FakeHypervisor:
    """Its one domain runs, and is found."""
    made = FakeHypervisor()
    made.define(XML, running=True)
    return made


@pytest.fixture
def guest(sshd: Sshd, hypervisor: FakeHypervisor, tmp_path: Path) -> Iterator[Guest]:
    with make_guest(sshd, hypervisor, tmp_path) as made:
        made.enter(soon())
        yield made


@pytest.fixture
def commands(tmp_path: Path) -> Commands:
    return Commands(tmp_path / "bin")


@pytest.fixture
def closed_guest(
    commands: Commands, hypervisor: FakeHypervisor, tmp_path: Path
) -> Iterator[tuple[Guest, Sshd]]:
    """A guest in which `reboot` is ours: proved before anything is asked to reboot."""
    (tmp_path / "sshd").mkdir()
    with (
        running_sshd(tmp_path / "sshd", search=str(commands.folder)) as sshd,
        make_guest(sshd, hypervisor, tmp_path) as guest,
    ):
        assert guest.enter(soon()) == "first-boot"
        which = "command -v systemctl; command -v reboot"
        resolved = guest.run(which, soon()).stdout.split()
        assert resolved == [str(commands.folder / n) for n in ("systemctl", "reboot")]
        yield guest, sshd
