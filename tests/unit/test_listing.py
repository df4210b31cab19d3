"""list, show, rm, reap and scenario list: what they tell, and what they remove."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_world import DEAD, ESCAPE, World, in_terminal, sandbox
from sample_records import broken_nginx, inconclusive, mirror_error, passed

from sandbox.closing import phase_of
from sandbox.errors import HostError
from sandbox.listing import print_runs
from sandbox.records import Phase, PhaseTime, RunRecord, Verdict
from sandbox.report.view import duration, headline
from sandbox.store import RunFolder

pytest_plugins = ["run_fixtures"]


def lines(text: str) -> list[str]:
    return text.splitlines()


# --- list --------------------------------------------------------------------------------------


def test_an_empty_list_says_how_to_start(world: World) -> None:
    told = world.invoke("list")
    assert told.exit_code == 0
    assert "no runs yet" in told.stdout
    assert "sandbox run security --guest NAME" in told.stdout
    assert world.invoke("list", "--json").stdout == ""


def test_list_is_aligned_newest_first_and_whole(world: World) -> None:
    first = world.run(passed(), clone=False)
    time.sleep(1.1)  # ids sort by second
    second = world.run(broken_nginx(), clone=False)
    head, newer, older = lines(world.invoke("list").stdout)
    assert newer.startswith(second.id)
    assert older.startswith(first.id)
    for line, record in ((newer, broken_nginx()), (older, passed())):
        assert record.decision is not None
        assert line.endswith(record.decision.reason)
        assert line[head.index("VERDICT") :].startswith(record.decision.verdict.value)
        assert line[head.index("GUEST") :].startswith("web01")
        assert line[head.index("TIME") :].startswith(duration(record.finished - record.started))
        assert line[head.index("WHEN") :].startswith("2026-07-31 10:10 UTC")


def test_list_keeps_to_its_limit(world: World) -> None:
    for _ in range(3):
        world.run(passed(), clone=False)
    assert len(lines(world.invoke("list", "--limit", "2").stdout)) == 3
    assert world.invoke("list", "--limit", "0").exit_code == 2


def test_list_as_json_is_one_object_a_line(world: World) -> None:
    folders = [world.run(record, clone=False) for record in (passed(), mirror_error())]
    read = [json.loads(line) for line in lines(world.invoke("list", "--json").stdout)]
    assert {row["id"] for row in read} == {folder.id for folder in folders}
    assert {row["verdict"] for row in read} == {"pass", "error"}
    assert all(row["seconds"] > 0 and row["guest"] == "web01" for row in read)


def test_list_shows_a_live_run_and_its_phase(world: World, running: RunRecord, alive: str) -> None:
    world.run(running, owner=alive)
    (row,) = [json.loads(line) for line in lines(world.invoke("list", "--json").stdout)]
    assert (row["verdict"], row["reason"], row["seconds"]) == ("running", "in phase upgrade", None)


def test_list_does_not_call_a_killed_run_running(world: World, running: RunRecord) -> None:
    world.run(running)
    (row,) = [json.loads(line) for line in lines(world.invoke("list", "--json").stdout)]
    assert row["verdict"] == "killed"
    assert "sandbox reap" in row["reason"]


def test_a_damaged_record_is_listed_and_hides_nothing(world: World) -> None:
    damaged, whole = world.run(passed()), world.run(passed(), clone=False)
    (damaged.artifacts / "run.json").write_text('{"id": ')
    rows = {r["id"]: r for r in map(json.loads, lines(world.invoke("list", "--json").stdout))}
    assert rows[whole.id]["verdict"] == "pass"
    assert rows[damaged.id]["verdict"] == "damaged"
    assert f"sandbox rm --record {damaged.id}" in rows[damaged.id]["reason"]
    assert abs(rows[damaged.id]["started"] - time.time()) < 60, "its id says when it began"


def test_a_terminal_gets_colours_and_a_pipe_does_not(world: World) -> None:
    folder = world.run(broken_nginx(), clone=False)
    assert "\x1b" not in sandbox("list", environment=world.environment).stdout
    narrow = in_terminal("list", environment=world.environment, columns=100)
    assert "\x1b[1;31mfail" in narrow
    plain = lines(ESCAPE.sub("", narrow).strip())
    assert len(plain) == 2, "one line a run"
    assert all(len(line) <= 100 for line in plain)
    assert folder.id.rpartition("-")[2] in plain[1]
    wide = ESCAPE.sub("", in_terminal("list", environment=world.environment, columns=160))
    assert folder.id in wide


def test_a_guest_cannot_write_to_the_terminal(world: World) -> None:
    record = broken_nginx()
    assert record.decision is not None
    hostile = record.decision.model_copy(update={"reason": "bad\x1b]0;owned\x07 \x1b[2Jend\nx"})
    world.run(record.model_copy(update={"decision": hostile, "guest": "a\x1b[31mb"}), clone=False)
    for command in (("list",), ("show", "latest")):
        told = world.invoke(*command).stdout
        assert "\x1b" not in told
        assert "end x" in told


def test_no_permission_is_not_no_runs(world: World) -> None:
    world.run(passed(), clone=False)
    world.settings.state.parent.chmod(0o711)
    world.settings.runs.chmod(0)
    child = os.fork()
    if child == 0:
        status = 99
        try:
            if os.geteuid() == 0:  # whom nothing is forbidden
                os.setresuid(65534, 65534, 65534)
            print_runs(world.settings, as_json=True, limit=20)
        except HostError as problem:
            status = 4 if "may not be read" in problem.message else 5
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 4


# --- show --------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [passed, broken_nginx, inconclusive, mirror_error])
def test_show_answers_in_its_first_line(world: World, make: type[RunRecord]) -> None:
    record = make()
    folder = world.run(record, clone=False)
    told = lines(world.invoke("show", folder.id).stdout)
    assert told[0] == headline(record)
    for phase in record.phases:
        assert any(phase.phase.value in line and phase.note in line for line in told)
    for name in ("console.log", "run.json"):
        assert any(str(folder.artifacts / name) in line for line in told)
    assert not any("upgrade.log" in line for line in told), "only files that are there"
    assert "The clone is up; enter it with" not in told


def test_show_says_how_to_enter_a_kept_clone(world: World) -> None:
    kept = {"state": "kept", "ssh_command": "ssh -F /x/ssh_config clone"}
    folder = world.run(passed().model_copy(update=kept))
    folder.note(kept="yes")
    told = world.invoke("show", "latest").stdout
    assert "  ssh -F /x/ssh_config clone\n" in told
    assert f"sandbox rm {folder.id}" in told
    assert "(clone kept)" in world.invoke("list").stdout


def test_show_as_json_is_the_record(world: World) -> None:
    folder = world.run(passed(), clone=False)
    told = json.loads(world.invoke("show", folder.id, "--json").stdout)
    assert RunRecord.model_validate(told["record"]) == world.store.load(folder)


def test_show_tells_of_a_killed_run(world: World, running: RunRecord) -> None:
    world.run(running)
    assert (
        "the sandbox was killed; `sandbox reap` cleans up" in world.invoke("show", "latest").stdout
    )


def test_show_names_what_was_not_removed(world: World) -> None:
    world.run(passed().model_copy(update={"left_behind": ("domain sandbox-x",)}), clone=False)
    told = world.invoke("show", "latest").stdout
    assert "domain sandbox-x" in told
    assert "sandbox reap" in told


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
    folder = world.run(proved.model_copy(update={**values, "phases": before_cleanup}))
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


@given(st.lists(st.tuples(st.sampled_from(Phase), st.booleans()), max_size=8))
def test_the_current_phase_is_never_before_the_last_one(done: list[tuple[Phase, bool]]) -> None:
    phases = tuple(PhaseTime(phase=p, started=0, seconds=1, ok=ok) for p, ok in done)
    now = phase_of(passed().model_copy(update={"phases": phases}))
    order = list(Phase)
    if not done:
        assert now is Phase.PLAN
    elif not done[-1][1]:
        assert now is Phase.CLEANUP
    else:
        assert order.index(now) == min(order.index(done[-1][0]) + 1, len(order) - 1)


# --- scenario list -----------------------------------------------------------------------------


def test_scenarios_are_listed_with_what_they_say(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in (("mine", "description: My own\nupgrade: {what: all}\n"), ("bad", "x: 1\n")):
        (tmp_path / "scenarios" / name).mkdir(parents=True)
        (tmp_path / "scenarios" / name / "scenario.yaml").write_text(text)
    told = {line.split(" ", 1)[0]: line for line in lines(world.invoke("scenario", "list").stdout)}
    assert told["mine"].endswith("My own")
    assert "cannot be used" in told["bad"]
    assert told["security"].endswith("Security updates")
    assert told["kernel"].index("New kernel") == told["mine"].index("My own")
