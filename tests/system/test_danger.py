"""What a living clone's storage says, who gives it up, and what that makes of its result."""

from __future__ import annotations

import threading

import pytest

from sandbox.clone import space_guard
from sandbox.core.errors import HostError
from sandbox.core.records import Disk, Phase, SourceFacts, Trouble, Verdict
from sandbox.core.store import RunFolder
from sandbox.hosts.drivers.fake import FakeHypervisor
from sandbox.hosts.volumes import host_space
from sandbox.hosts.volumes.storage import HostSnapshots, storage_of
from sandbox.rehearsal import evidence
from sandbox.rehearsal.run import Run
from tests.support.fakes.lvm_world import Scripted, ours, pool_row
from tests.support.fakes.stage import Stage
from tests.support.waiting import soon

VOLUME = Disk(target="xvda", format="raw", path="/dev/vg0/web01", size=1 << 30, store="lvm")
FILE = Disk(target="xvdb", format="raw", path="/srv/web01.raw", size=1 << 30)


class Host:
    """A Xen host with one clone, on a thin pool or beside its thick origin."""

    def __init__(self, run: str) -> None:
        self.lvm = Scripted([pool_row(), ours("sb-xvda", run)])
        self.hypervisor = FakeHypervisor(kind="xen", host=self.lvm)

    def thick(self, run: str, **facts: str) -> None:
        row = ours("sb-xvda", run) | {"pool_lv": "", "segtype": "linear", "data_percent": "12.00"}
        self.lvm.rows = [row | facts]


@pytest.fixture
def folder(stage: Stage) -> RunFolder:
    return stage.new_folder()


@pytest.fixture
def host(folder: RunFolder) -> Host:
    return Host(folder.id)


@pytest.mark.parametrize(
    ("facts", "broken"),
    [
        ({}, False),
        ({"data_percent": "99.99"}, False),
        ({"data_percent": "100.00"}, True),
        ({"data_percent": "", "lv_snapshot_invalid": "snapshot invalid"}, True),
    ],
)
def test_a_thick_snapshot_that_overflowed_is_no_copy(
    host: Host, folder: RunFolder, facts: dict[str, str], broken: bool
) -> None:
    host.thick(folder.id, **facts)
    found = storage_of(host.hypervisor).danger(folder, soon(), files=False)
    assert bool(found.to_clone) is broken
    assert bool(found.why) is broken
    assert found.to_production == ""
    if broken:
        assert "vg0/sb-xvda overflowed" in found.why
        assert "says nothing of the upgrade" in found.why
    other = RunFolder("20260102-030405-000000", folder.artifacts, folder.clone)
    assert storage_of(host.hypervisor).danger(other, soon(), files=False).why == ""


def test_a_thin_snapshot_that_has_all_its_blocks_is_whole(host: Host, folder: RunFolder) -> None:
    host.lvm.rows[1]["data_percent"] = "100.00"
    assert storage_of(host.hypervisor).danger(folder, soon(), files=False).why == ""


# -- the guard --------------------------------------------------------------------------------


@pytest.fixture
def df(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    said = [""]
    monkeypatch.setattr(host_space, "danger", lambda *_: said[0])
    monkeypatch.setattr(HostSnapshots, "guard_interval", lambda *_, **_more: 0.02)
    return said


def given_up(host: Host, folder: RunFolder, disks: list[Disk]) -> str:
    """What a guard says within a moment; "" for nothing."""
    said: list[str] = []
    rung = threading.Event()

    def give_up(why: str) -> None:
        said.append(why)
        rung.set()

    with space_guard.space_guard(host.hypervisor, folder, disks, give_up):
        rung.wait(0.5)
    return "".join(said)


def test_the_guard_looks_at_what_the_clone_is_made_of(
    host: Host, folder: RunFolder, df: list[str]
) -> None:
    assert given_up(host, folder, [VOLUME, FILE]) == ""
    df[0] = "the file system /srv of the host has only 5 MiB free"
    for disks in ([FILE], [VOLUME, FILE]):
        words = given_up(host, folder, disks)
        assert words.startswith(f"{df[0]}: the clone was given up so that the running source")
    assert given_up(host, folder, [VOLUME]) == ""
    host.lvm.rows[0]["data_percent"] = "96.00"
    assert "vg0/thin is 96 % full" in given_up(host, folder, [VOLUME])
    df[0] = ""
    assert given_up(host, folder, [FILE]) == ""


# -- the verdict ------------------------------------------------------------------------------


def a_run(stage: Stage, folder: RunFolder, method: str) -> Run:
    run = Run(folder, stage.progress, stage.scenario())
    run.has_clone = True
    facts = SourceFacts(
        name="web01",
        kind="running guest",
        host="xen:///system",
        disks=(VOLUME,),
        method=method,
        consistency="crash-consistent",
    )
    run.record = run.record.model_copy(update={"source": facts})
    trouble = Trouble(blame=Verdict.FAIL, phase=Phase.REBOOT, message="did not come back")
    run.learn(trouble=trouble)
    return run


@pytest.mark.parametrize(
    ("method", "fill", "verdict"),
    [
        ("thick snapshot", "100.00", Verdict.ERROR),
        ("reflink copy and thick snapshot", "100.00", Verdict.ERROR),
        ("thick snapshot", "50.00", Verdict.FAIL),
        ("thin snapshot", "100.00", Verdict.FAIL),
    ],
)
def test_a_broken_clone_that_looks_like_a_bad_upgrade_is_an_error(
    stage: Stage, folder: RunFolder, host: Host, method: str, fill: str, verdict: Verdict
) -> None:
    """The guard had no time to notice before the run ended."""
    if "thick" in method:
        host.thick(folder.id, data_percent=fill)
    run = a_run(stage, folder, method)
    evidence.prove_whole(run, host.hypervisor)
    assert run.facts.trouble is not None
    assert run.facts.trouble.blame is verdict
    assert ("overflowed" in run.facts.trouble.message) == (verdict is Verdict.ERROR)


def test_a_snapshot_that_cannot_be_asked_for_proves_nothing(
    stage: Stage, folder: RunFolder, host: Host
) -> None:
    host.lvm.problem = HostError("no route")
    run = a_run(stage, folder, "thick snapshot")
    evidence.prove_whole(run, host.hypervisor)
    assert run.facts.trouble is not None
    assert run.facts.trouble.blame is Verdict.ERROR
    assert "no route" in run.facts.trouble.message


def test_a_clone_that_was_given_up_at_the_last_moment_proves_nothing(
    stage: Stage, folder: RunFolder, host: Host
) -> None:
    run = a_run(stage, folder, "thin snapshot")
    run.given_up = "the pool is full"
    evidence.prove_whole(run, host.hypervisor)
    assert run.facts.trouble is not None
    assert (run.facts.trouble.blame, run.facts.trouble.message) == (
        Verdict.ERROR,
        "the pool is full",
    )
