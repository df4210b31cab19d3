"""The service's commands on a terminal; the queue's truth is a SQLite of the test's own, and
there is no broker: what is queued starts when there is one."""

from __future__ import annotations

import json
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sandbox.core.records import Verdict
from sandbox.core.settings import Settings
from sandbox.hosts.inventory import default_host, find_host
from sandbox.verdict.flakiness import Rate
from workers import cli
from workers.database import Database, open_database
from workers.queue.leases import claim, finish, tell
from workers.queue.terminal import known_hosts
from workers.queue.values import Claim, Outcome, Tally
from workers.settings import ServiceSettings, read_service_settings

HOST = "this machine"


@dataclass
class Terminal:
    database: Database

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(cli.main, list(arguments))

    def submit(self, *arguments: str) -> str:
        told = self.run("submit", *arguments, "--json")
        assert told.exit_code == 0, told.output
        return str(json.loads(told.stdout)["run_id"])

    def claim(self) -> Claim:
        held = claim(self.database, HOST, "worker-a", 60.0, None)
        assert held is not None
        return held


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    with tempfile.TemporaryDirectory(prefix="sbsvc-", dir="/tmp") as state:
        monkeypatch.setenv("SANDBOX_STATE", state)
        monkeypatch.setattr("workers.queue.intake.wake", lambda *_: None)
        migrated = CliRunner().invoke(cli.main, ["migrate"])
        assert migrated.exit_code == 0, migrated.output
        database = open_database(f"sqlite:///{state}/service/truth.db")
        yield Terminal(database)
        database.close()


def test_a_run_is_submitted_once_and_seen(terminal: Terminal) -> None:
    run_id = terminal.submit("security", "--guest", "web01")
    again = terminal.run("submit", "security", "--guest", "web01")
    assert f"{run_id}: joined a run that is open" in again.stdout
    listed = terminal.run("status").stdout
    assert run_id in listed
    assert "waits for a worker" in listed
    row = json.loads(terminal.run("status", "--json").stdout)
    assert (row["guest"], row["host"], row["state"]) == ("web01", HOST, "queued")
    assert "no worker serves this machine now" in again.stderr
    told = terminal.run("status", run_id[-8:]).stdout
    assert "asked" in told
    assert "next; no worker serves this machine now: sandbox worker --host 'this machine'" in told
    other = terminal.submit("security", "--guest", "web02")
    assert "1 before it; no worker" in terminal.run("status", other).stdout


def test_a_changed_scenario_is_another_wish(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "scenario.yaml").write_text("upgrade: {what: all}\nsource: {guest: web01}\n")
    first = terminal.submit(str(tmp_path))
    assert terminal.submit(str(tmp_path)) == first
    (tmp_path / "test_x.py").write_text("def test_x(host):\n    assert True\n")
    assert terminal.submit(str(tmp_path)) != first
    assert terminal.submit(str(tmp_path), "--fresh") != first


def test_what_is_wrong_is_said_before_anything_is_queued(terminal: Terminal) -> None:
    for arguments in (
        ("nonsense", "--guest", "web01"),
        ("security",),
        ("security", "--guest", "web01", "--image", "/x"),
        ("security", "--guest", "web01", "--host", "nowhere"),
    ):
        told = terminal.run("submit", *arguments)
        assert told.exit_code == 2, arguments
        assert told.stderr.startswith("sandbox: ")
    assert "no runs yet" in terminal.run("status").stdout


def test_a_run_is_watched_to_its_end_and_gives_its_exit_code(terminal: Terminal) -> None:
    run_id = terminal.submit("security", "--guest", "web01")
    held = terminal.claim()
    tell(terminal.database, held, "phase", "boot")
    tell(terminal.database, held, "detail", "42\x1b[31m red", 40.0)
    assert "boot on worker-a" in terminal.run("status").stdout
    finish(terminal.database, held, Outcome(Verdict.FAIL, "nginx does not start"))
    told = terminal.run("watch", run_id)
    assert told.exit_code == 1
    assert told.stdout.splitlines()[-1] == "fail: nginx does not start"
    assert "\x1b" not in told.stdout
    events = [
        json.loads(line)
        for line in terminal.run("watch", run_id, "--json").stdout.split("\n")
        if line
    ]
    assert [event["kind"] for event in events] == ["state", "state", "phase", "detail", "state"]


def test_a_run_is_cancelled_and_queued_again(terminal: Terminal) -> None:
    run_id = terminal.submit("security", "--guest", "web01")
    refused = terminal.run("retry", run_id)
    assert refused.exit_code == 2
    assert "is queued" in refused.stderr
    assert "cancelled" in terminal.run("cancel", run_id).stdout
    watched = terminal.run("watch", run_id)
    assert (watched.exit_code, watched.stdout.splitlines()[-1]) == (130, "cancelled")
    assert terminal.run("cancel", run_id).exit_code == 2
    assert "queued" in terminal.run("retry", run_id).stdout
    again = terminal.claim()
    assert again.run_id != run_id
    assert again.request["guest"] == "web01"
    joined = json.loads(terminal.run("retry", run_id, "--json").stdout)
    assert joined == {"run_id": again.run_id, "joined": True}, "an equal one is open"
    assert "its worker removes the clone" in terminal.run("cancel", again.run_id).stdout


def test_the_history_of_a_guests_checks(terminal: Terminal) -> None:
    held, red = Rate(4, 4), Rate(0, 3)
    for control, after in ((held, held), (Rate(3, 4), red), (held, red), (Rate(0, 4), Rate(0, 0))):
        run_id = terminal.submit("security", "--guest", "web01", "--fresh")
        checks = (
            Tally("test_web.py::test_http", Rate(0, 0), after, control),
            Tally("shared/ports.py::test_ports[\x1b[31m]", Rate(1, 1), Rate(1, 1), Rate(0, 0)),
        )
        finish(terminal.database, terminal.claim(), Outcome(Verdict.PASS, "", checks=checks))
    told = terminal.run("history", "web01")
    assert told.exit_code == 0, told.output
    head, first, second, legend = told.stdout.splitlines()
    assert head.split("  ")[0] == "CHECK"
    for words in ("11 of 12, broken in 1 run", "4 of 10", "+~x-", run_id, "security", HOST):
        assert words in first
    for words in ("(shared)", "4 of 4", "++++", "never"):
        assert words in second
    assert "~ held and did not" in legend
    assert "\x1b" not in told.stdout
    (line,) = terminal.run("history", "web01", "--check", "http", "--json").stdout.splitlines()
    one = json.loads(line)
    assert one["name"] == "test_web.py::test_http"
    assert one["not_upgraded"] == {"held": 11, "asked": 12}
    assert [seen["mark"] for seen in one["last"]] == ["held", "flaky", "broke", "broken"]
    for arguments, words in (
        (("nobody",), "no check is known of the guest 'nobody'"),
        (("web01", "--check", "nope"), "no check with 'nope' in its name is known"),
        (("web01", "--host", "xen9"), "on xen9"),
    ):
        refused = terminal.run("history", *arguments)
        assert refused.exit_code == 2
        assert words in refused.stderr


def test_without_a_schema_it_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SANDBOX_SERVICE_DATABASE", f"sqlite:///{tmp_path}/empty.db")
    told = CliRunner().invoke(cli.main, ["submit", "security", "--guest", "web01"])
    assert told.exit_code == 4
    assert "sandbox migrate" in told.stderr


def test_a_broker_that_is_away_costs_nothing(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setenv(
        "SANDBOX_STATE", str(Path(terminal.database.engine.url.database or "").parents[1])
    )
    told = terminal.run("submit", "security", "--guest", "web01")
    assert told.exit_code == 0
    assert "the broker does not answer, it starts later" in told.stderr


# -- settings ---------------------------------------------------------------------------------


def settings(**given: str) -> ServiceSettings:
    environment = {f"SANDBOX_SERVICE_{name}": value for name, value in given.items()}
    return read_service_settings(environment, Settings(state=Path("/srv/sandbox")))


def test_everything_has_a_default_that_works() -> None:
    default = settings()
    assert default.database == "sqlite:////srv/sandbox/service/truth.db"
    assert default.broker == "redis+socket:///srv/sandbox/service/redis.sock"
    assert known_hosts(default, ()) == (HOST,)


def test_machines_that_share_a_database_have_names_of_their_own() -> None:
    """Two would else take each other's guests for their own."""
    alone = read_service_settings({}).sandbox
    shared = read_service_settings({"SANDBOX_SERVICE_DATABASE": "postgresql://db/truth"}).sandbox
    assert default_host(alone).name == "this machine"
    assert default_host(shared).name == find_host(None, shared).name == socket.gethostname()
    assert find_host(socket.gethostname(), shared).uri == default_host(alone).uri


def test_secrets_come_from_files_and_are_not_shown(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("postgresql://app:hush@db/sandbox\n")
    read = settings(DATABASE_FILE=str(secret), NOTIFY="mailto://user:hush@mail.example")
    assert read.database == "postgresql://app:hush@db/sandbox"
    opened = open_database(read.database)
    assert "hush" not in opened.url
    assert "mail.example" not in repr(read)


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"DATABASES": "x"}, "unknown setting SANDBOX_SERVICE_DATABASES"),
        ({"LEASE": "soon"}, "LEASE is no number"),
        ({"LEASE": "-1"}, "LEASE is no number"),
        ({"LEASE": "nan"}, "LEASE is no number"),
        ({"KEEP_BYTES": "many"}, "KEEP_BYTES"),
        ({"BROKER_FILE": "/nonexistent"}, "cannot be read"),
        ({"BROKER_FILE": "/x", "BROKER": "redis://h"}, "both set"),
    ],
)
def test_a_bad_setting_is_named(given: dict[str, str], word: str) -> None:
    from sandbox.core.errors import RequestError

    with pytest.raises(RequestError, match=word) as told:
        settings(**given)
    assert told.value.hint
