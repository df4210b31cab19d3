"""A real worker on pretended rehearsals: what it logs, what it serves; artifacts are fetched."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import update

from sandbox.core.deadline import Deadline
from sandbox.core.records import Verdict
from sandbox.core.store import Store
from tests.contract.test_service_metrics import samples
from tests.support.service.services import PATIENCE, Service, service
from workers.artifacts.worker_folders import keep_attempt
from workers.database.schema import attempts
from workers.database.states import RunState
from workers.queue import reading
from workers.queue.leases import claim, finish, note_folder
from workers.queue.presence import present
from workers.queue.submission import submit
from workers.queue.values import Order, Outcome
from workers.settings import read_service_settings

TOKEN = "T1JJ3T3L2A1BRTD4JD"
PASSWORD = "hunter2hunter2"


@pytest.fixture
def there() -> Iterator[Service]:
    with service(NOTIFY=f"slack://{TOKEN}/{TOKEN}/{TOKEN}", METRICS="127.0.0.1:0") as made:
        yield made


def logged(there: Service) -> list[dict[str, object]]:
    """Every line, which has to be JSON; the last one may be half written."""
    lines = there.log.read_text().split("\n")[:-1] if there.log.exists() else []
    return [json.loads(line) for line in lines]


def of(lines: list[dict[str, object]], event: str) -> list[dict[str, object]]:
    return [line for line in lines if line["event"] == event]


def test_a_worker_logs_its_runs_serves_metrics_and_hides_secrets(there: Service) -> None:
    # What a person typed, and what a careless one might have: it is logged as the guest's name.
    guest = f"https://me:{PASSWORD}@mirror.example.org/{TOKEN}"
    run_id = submit(there.database, Order("security", guest, "xen1")).run_id
    worker = there.start("worker", "--host", "xen1", "--slots", "1")
    deadline = Deadline(PATIENCE, "rehearsing")
    while not (of(logged(there), "attempt ended") and present(there.database)):
        assert worker.poll() is None, there.log.read_text()
        deadline.sleep(0.2)

    assert reading.get(there.database, run_id).state is RunState.FINISHED
    lines = logged(there)
    for event in ("attempt begins", "attempt ended"):
        (line,) = of(lines, event)
        assert (line["run"], line["attempt"]) == (run_id, 1)
        assert line["level"] == "info"
        assert line["timestamp"]
    text = there.log.read_text()
    assert "https://me:***@mirror.example.org/***" in text
    assert PASSWORD not in text
    assert TOKEN not in text

    (port,) = {line["port"] for line in of(lines, "metrics served")}
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE) as answer:
        found = samples(answer.read().decode())
    assert found["sandbox_runs_total", "pass"] == 1
    assert found["sandbox_workers", "up"] == 1
    once = there.command("metrics", "--once")
    assert samples(once.stdout).keys() == found.keys()

    worker.terminate()
    assert worker.wait(PATIENCE) == 0, there.log.read_text()


def test_metrics_are_served_by_a_process_of_their_own(there: Service) -> None:
    process = there.start("metrics", "--listen", "127.0.0.1:0")
    deadline = Deadline(PATIENCE, "serving")
    while "metrics at port" not in there.log.read_text():
        assert process.poll() is None, there.log.read_text()
        deadline.sleep(0.1)
    port = there.log.read_text().partition("metrics at port ")[2].partition(";")[0]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE) as answer:
        assert samples(answer.read().decode())["sandbox_database_up",] == 1
    process.terminate()
    assert process.wait(PATIENCE) == 130


def ended(there: Service) -> tuple[str, str]:
    """A run that ended, with artifacts on this machine: its id and its record's."""
    run_id = submit(there.database, Order("security", "web01", "xen1")).run_id
    held = claim(there.database, "xen1", "worker-a", 60.0, None)
    assert held is not None
    place = Store(there.settings.sandbox).create()
    note_folder(there.database, held, place.id)
    (place.artifacts / "console.log").write_text("hello\n")
    place.remove_clone()
    finish(there.database, held, Outcome(Verdict.PASS, "all is well"))
    keep_attempt(there.database, there.settings, held)
    return run_id, place.id


def fetched(folder: Path) -> str:
    return (folder / "console.log").read_text()


def test_artifacts_on_this_machine_elsewhere_and_expired(there: Service) -> None:
    run_id, record = ended(there)
    listed = there.command("artifacts", run_id, "--json")
    assert json.loads(listed.stdout)["name"] == "console.log"
    out = there.folder / "out"
    assert there.command("artifacts", "latest", "--output", str(out)).returncode == 0
    assert fetched(out / record) == "hello\n"

    (there.folder / "state" / "runs" / record).rename(there.folder / "gone")
    told = there.command("artifacts", run_id)
    assert told.returncode == 4
    assert "on the machine of worker worker-a" in told.stdout
    with there.database.write() as connection:
        connection.execute(update(attempts).values(artifacts="expired"))
    told = there.command("artifacts", run_id)
    assert (told.returncode, told.stdout) == (4, f"{record}: expired\n")


def test_artifacts_that_were_copied() -> None:
    with service() as there:
        there.environment["SANDBOX_SERVICE_ARTIFACTS"] = str(there.folder / "place")
        there.settings = read_service_settings(there.environment)
        run_id, record = ended(there)
        (there.folder / "state" / "runs" / record).rename(there.folder / "gone")
        told = there.command("artifacts", run_id)
        assert f"{record}: 1 files in {there.folder}/place" in told.stdout
        out = there.folder / "out"
        assert there.command("artifacts", run_id, "--output", str(out)).returncode == 0
        assert fetched(out / record) == "hello\n"


def test_a_run_that_has_not_begun_has_none(there: Service) -> None:
    submit(there.database, Order("security", "web01", "xen1"))
    told = there.command("artifacts", "latest")
    assert told.returncode == 2
    assert "no attempt has begun" in told.stderr
