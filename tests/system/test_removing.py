"""rm and reap: what they remove, what they spare, and what the records say afterwards."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from sandbox.core.deadline import Deadline
from sandbox.core.errors import HostError
from sandbox.core.records import Phase, RunRecord, Verdict
from sandbox.core.store import RunFolder
from sandbox.hosts import drivers
from sandbox.hosts.drivers import Hypervisor
from sandbox.hosts.drivers.fake import FakeHypervisor
from tests.support.fakes.run_world import DEAD, World
from tests.support.fakes.sample_records import broken_nginx, passed

# --- rm ----------------------------------------------------------------------------------------


def keep(world: World, record: RunRecord) -> RunFolder:
    """A kept clone that is up."""
    values = {"state": "kept", "ssh_command": "ssh -F x clone"}
    folder = world.run(record.model_copy(update=values))
    folder.note(kept="yes")
    world.start_clone(folder)
    return folder


def test_rm_removes_a_kept_clone_and_closes_its_record(world: World) -> None:
    folder = keep(world, passed())
    told = world.invoke("rm", folder.id[-6:])
    assert told.exit_code == 0, told.output
    assert f"domain sandbox-{folder.id}" in told.stdout
    assert world.clones() == []
    assert not folder.clone.exists()
    record = world.store.load(folder)
    assert (record.state, record.ssh_command, record.left_behind) == ("finished", "", ())
    assert record.decision == passed().decision
    assert record.finished == passed().finished


def test_rm_twice_is_no_fault_and_record_removes_the_rest(world: World) -> None:
    folder = keep(world, passed())
    world.invoke("rm", folder.id)
    again = world.invoke("rm", folder.id)
    assert again.exit_code == 0
    assert "no clone is left; --record removes its record as well" in again.stdout
    assert world.invoke("rm", folder.id, "--record").exit_code == 0
    assert not folder.artifacts.exists()
    assert world.invoke("rm", folder.id).exit_code == 2


def test_rm_refuses_a_run_that_is_alive(world: World, running: RunRecord, alive: str) -> None:
    folder = world.run(running, owner=alive)
    world.start_clone(folder, alive)
    for arguments in (("rm", folder.id), ("rm", folder.id, "--record")):
        told = world.invoke(*arguments)
        assert told.exit_code == 2
        assert "still running" in told.stderr
        assert f"kill {os.getpid()}" in told.stderr
    assert len(world.clones()) == 2
    assert folder.artifacts.exists()


def test_rm_refuses_a_run_that_has_only_begun(world: World, alive: str) -> None:
    folder = world.run(owner=alive)  # no record yet
    assert world.invoke("rm", folder.id, "--record").exit_code == 2
    assert folder.clone.exists()


def test_rm_takes_a_finished_run_of_a_worker_that_lives_on(world: World, alive: str) -> None:
    """One worker process answers for many runs; a finished one is nobody's any more."""
    folder = world.run(passed(), owner=alive)
    world.start_clone(folder, alive)
    assert world.invoke("rm", folder.id).exit_code == 0
    assert world.clones() == []


def test_rm_takes_a_kept_clone_whose_owner_lives(world: World, alive: str) -> None:
    folder = keep(world, passed())
    folder.note(owner=alive)
    assert world.invoke("rm", folder.id).exit_code == 0
    assert world.clones() == []


def test_rm_of_a_killed_run_gives_it_its_verdict(world: World, running: RunRecord) -> None:
    folder = world.run(running)
    assert world.invoke("rm", folder.id).exit_code == 0
    decision = world.store.load(folder).decision
    assert decision is not None
    assert (decision.verdict, decision.reason) == (
        Verdict.ERROR,
        "the sandbox was killed during upgrade",
    )


@pytest.mark.parametrize("text", ["{", None])
def test_rm_removes_a_run_whose_record_is_damaged_or_missing(
    world: World, text: str | None
) -> None:
    folder = keep(world, passed())
    if text is None:
        (folder.artifacts / "run.json").unlink()
    else:
        (folder.artifacts / "run.json").write_text(text)
    told = world.invoke("rm", folder.id, "--record")
    assert told.exit_code == 0, told.output
    assert world.clones() == []
    assert not folder.artifacts.exists()
    assert not folder.clone.exists()


def test_rm_that_fails_says_so_and_keeps_the_record(world: World) -> None:
    folder = keep(world, passed())
    folder.note(source="test")  # the test driver cannot end exports
    told = world.invoke("rm", folder.id, "--record")
    assert told.exit_code == 4
    assert "not removed: ending the export of 'test'" in told.stderr
    assert "not everything" in told.stderr
    record = world.store.load(folder)
    assert record.left_behind[0].startswith("ending the export")
    assert folder.clone.exists()


def test_rm_never_touches_what_others_made(world: World) -> None:
    folder = world.run(passed())
    other = world.run(passed())
    world.start_clone(other)
    world.invoke("rm", folder.id, "--record")
    assert len(world.clones()) == 2
    assert other.clone.exists()
    assert "test" in world.hypervisor.guests()


@pytest.mark.parametrize("text", ["", "..", "../..", "/", ".", "*", "2"])
def test_rm_takes_no_path_for_a_run(world: World, text: str) -> None:
    folders = [world.run(passed()), world.run(passed())]
    assert world.invoke("rm", "--record", "--", text).exit_code == 2
    assert all(folder.artifacts.exists() and folder.clone.exists() for folder in folders)


# --- reap --------------------------------------------------------------------------------------


def test_reap_with_nothing_to_do_says_so(world: World) -> None:
    world.run(passed(), clone=False)
    told = world.invoke("reap")
    assert (told.exit_code, told.stderr) == (0, "")
    assert "nothing to remove" in told.stdout


def test_reap_removes_the_dead_and_spares_the_living_and_the_kept(
    world: World, running: RunRecord, alive: str
) -> None:
    dead, live = world.run(running), world.run(running, owner=alive)
    kept = world.run(passed().model_copy(update={"state": "kept"}))
    kept.note(kept="yes")
    world.start_clone(dead)
    told = world.invoke("reap")
    assert told.exit_code == 0, told.output
    assert f"{dead.id}: removed domain sandbox-{dead.id}" in told.stdout
    assert world.clones() == []
    assert not dead.clone.exists()
    assert live.clone.exists()
    assert kept.clone.exists()
    assert world.store.load(live).state == "running"
    assert world.store.load(kept).state == "kept"
    closed = world.store.load(dead)
    assert closed.decision is not None
    assert (closed.state, closed.decision.verdict) == ("finished", Verdict.ERROR)
    assert closed.decision.reason == "the sandbox was killed during upgrade"
    assert closed.decision.hint
    assert 0 < closed.finished <= time.time()
    assert "no answer" in world.invoke("show", dead.id).stdout.lower()


def test_reap_keeps_a_failure_that_was_proved_before_the_kill(
    world: World, running: RunRecord
) -> None:
    """Killed while it cleaned up: the evidence is complete."""
    proved = broken_nginx()
    values = {"state": "running", "decision": None, "finished": 0.0, "started": time.time() - 500}
    before_cleanup = proved.phases[:-1]
    folder = world.run(
        proved.model_copy(update={**values, "phases": before_cleanup, "phase": Phase.CLEANUP})
    )
    world.invoke("reap")
    decision = world.store.load(folder).decision
    assert decision is not None
    assert decision.verdict is Verdict.FAIL


def test_reap_returns_4_when_something_stays(world: World, running: RunRecord) -> None:
    folder = world.run(running)
    folder.note(source="test")
    told = world.invoke("reap")
    assert told.exit_code == 4
    assert f"{folder.id}: not removed: ending the export of 'test'" in told.stderr
    assert world.store.load(folder).left_behind


def test_reap_closes_a_run_that_was_killed_after_its_clone_was_gone(
    world: World, running: RunRecord
) -> None:
    fresh = world.run(running, clone=False)
    old = world.run(running, clone=False)
    long_ago = time.time() - 3600
    os.utime(old.artifacts / "run.json", (long_ago, long_ago))
    told = world.invoke("reap")
    assert told.exit_code == 0
    assert old.id in told.stdout
    assert world.store.load(old).state == "finished"
    # A live run has no clone's folder either, for the second before it writes its verdict.
    assert world.store.load(fresh).state == "running"


def test_reap_leaves_a_clone_that_was_kept_by_a_run_that_died(
    world: World, running: RunRecord
) -> None:
    folder = world.run(running)
    folder.note(kept="yes")
    world.start_clone(folder)
    assert world.invoke("reap").exit_code == 0
    assert len(world.clones()) == 2
    record = world.store.load(folder)
    assert record.state == "kept"
    assert "ssh" in record.ssh_command
    assert world.invoke("rm", folder.id).exit_code == 0
    assert world.clones() == []


def test_reap_removes_what_never_had_a_record(world: World) -> None:
    folder = world.run()
    (folder.artifacts / "console.log").write_text("x")
    assert world.invoke("reap").exit_code == 0
    assert not folder.artifacts.exists()
    assert not folder.clone.exists()


def test_reap_finds_a_domain_without_a_folder(world: World) -> None:
    folder = world.run(clone=False)
    world.start_clone(folder, DEAD)
    assert world.invoke("reap").exit_code == 0
    assert world.clones() == []


# --- on several hosts --------------------------------------------------------------------------


@pytest.fixture
def two_hosts(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """An inventory with `a`, that answers, and `b`, that does not; what was connected to."""
    tried: list[str] = []
    answering = drivers.driver_for  # the world's

    def driver_for(uri: str, deadline: Deadline) -> Hypervisor:
        tried.append(uri)
        if "@b" in uri:
            raise HostError("no route to b", "try: ssh b")
        found = answering(uri, deadline)
        found.uri = uri
        return found

    monkeypatch.setattr("sandbox.hosts.drivers.driver_for", driver_for)
    inventory = tmp_path / "hosts.yaml"
    inventory.write_text(
        f"hosts:\n  - {{name: a, uri: '{URI_A}'}}\n  - {{name: b, uri: '{URI_B}'}}\n"
    )
    monkeypatch.setenv("SANDBOX_HOSTS", str(inventory))
    return tried


URI_A, URI_B = "xen+ssh://root@a/system", "xen+ssh://root@b/system"


def test_rm_asks_the_host_that_the_run_noted(world: World, two_hosts: list[str]) -> None:
    folder = keep(world, passed())
    folder.note(uri="qemu:///elsewhere")
    assert world.invoke("rm", folder.id).exit_code == 0
    assert two_hosts == ["qemu:///elsewhere"]
    assert world.clones() == []


def test_rm_asks_the_host_that_is_named_instead(world: World, two_hosts: list[str]) -> None:
    folder = keep(world, passed())
    folder.note(uri="xen+ssh://root@gone/system")
    told = world.invoke("rm", folder.id, "--host", "b")
    assert (told.exit_code, two_hosts) == (4, [URI_B])
    assert "no route to b" in told.stderr
    assert folder.clone.exists()


def test_rm_of_a_record_needs_no_host_any_more(world: World, two_hosts: list[str]) -> None:
    record = passed()
    folder = world.run(record.model_copy(update={"state": "finished"}), clone=False)
    assert world.invoke("rm", folder.id, "--record").exit_code == 0
    assert two_hosts == []
    assert not folder.artifacts.exists()


def test_reap_goes_over_all_hosts_and_leaves_what_it_cannot_reach(
    world: World, two_hosts: list[str], running: RunRecord
) -> None:
    noted = "xen+ssh://root@noted/system"
    here, on_b, elsewhere = (world.run(running) for _ in range(3))
    on_b.note(uri=URI_B)
    elsewhere.note(uri=noted)
    told = world.invoke("reap")
    assert two_hosts == ["qemu:///system", URI_A, URI_B, noted]
    assert told.exit_code == 4, "something may be left on b"
    assert "b: not looked at: no route to b" in told.stderr
    assert not here.clone.exists()
    assert not elsewhere.clone.exists()
    assert on_b.clone.exists(), "its facts are what a later reap needs"
    assert world.store.load(on_b).state == "running", "it is not over before that"


def test_reap_of_one_host_leaves_the_runs_of_others(
    world: World, two_hosts: list[str], running: RunRecord
) -> None:
    on_a, on_b = world.run(running), world.run(running)
    on_a.note(uri=URI_A)
    on_b.note(uri=URI_B)
    told = world.invoke("reap", "--host", "a")
    assert (told.exit_code, two_hosts) == (0, [URI_A])
    assert not on_a.clone.exists()
    assert on_b.clone.exists()
    assert world.invoke("reap", "--host", "b").exit_code == 4


def test_with_an_inventory_this_machine_need_not_have_a_hypervisor(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def driver_for(uri: str, _deadline: Deadline) -> FakeHypervisor:
        if uri == "qemu:///system":
            raise HostError("no libvirt here")
        return FakeHypervisor(uri=uri)

    monkeypatch.setattr("sandbox.hosts.drivers.driver_for", driver_for)
    inventory = tmp_path / "hosts.yaml"
    inventory.write_text(f"hosts:\n  - {{name: a, uri: '{URI_A}'}}\n")
    monkeypatch.setenv("SANDBOX_HOSTS", str(inventory))
    told = world.invoke("reap")
    assert told.exit_code == 0
    assert "this machine: not looked at: no libvirt here" in told.stderr
    assert "nothing to remove" in told.stdout
