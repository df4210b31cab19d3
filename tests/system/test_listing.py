"""list, show, rm, reap and scenario list: what they tell, and what they remove."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from sandbox.cli.listing import print_runs
from sandbox.core.errors import HostError
from sandbox.core.records import RunRecord
from sandbox.core.wording import duration
from sandbox.report.view import headline
from tests.support.fakes.run_world import ESCAPE, World, in_terminal, sandbox
from tests.support.fakes.sample_records import broken_nginx, inconclusive, mirror_error, passed


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
    folder = world.run(running)
    for command in (("show", "latest"), ("report", "latest")):
        told = world.invoke(*command).stdout
        assert told.startswith("NO ANSWER for web01 (error): the sandbox was killed during upgrade")
        assert "sandbox reap" in told
        assert "is running" not in told
    for command in (("show", "latest", "--json"), ("report", "latest", "--format", "json")):
        assert json.loads(world.invoke(*command).stdout)["verdict"] == "error"
    assert world.store.load(folder).state == "running", "to be shown is not to be closed"


def test_show_of_a_run_that_lives_says_that_it_runs(
    world: World, running: RunRecord, alive: str
) -> None:
    world.run(running, owner=alive)
    assert "the rehearsal is running (phase upgrade)" in world.invoke("show", "latest").stdout


def test_show_names_what_was_not_removed(world: World) -> None:
    world.run(passed().model_copy(update={"left_behind": ("domain sandbox-x",)}), clone=False)
    told = world.invoke("show", "latest").stdout
    assert "domain sandbox-x" in told
    assert "sandbox reap" in told


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
