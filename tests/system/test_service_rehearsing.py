"""The real executor, as far as it goes without a hypervisor: whose scenario, whose leftovers."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import select

from sandbox.clone.reaper import domain_name, leftovers, remove_run
from sandbox.core.errors import HostError
from sandbox.core.records import Past, Verdict
from sandbox.core.store import Store, this_process
from sandbox.hosts.drivers import Mark
from sandbox.hosts.drivers.fake import FakeHypervisor
from sandbox.hosts.inventory import KnownHost
from sandbox.network.isolation import names, network_xml
from sandbox.scenario.request import Request, prepare
from sandbox.verdict.flakiness import Rate
from workers.database import Database, migrate, open_database
from workers.database.schema import verdicts
from workers.database.states import RunState
from workers.queue import reading
from workers.queue.history import history
from workers.queue.leases import claim, finish
from workers.queue.orders import digest, order_of
from workers.queue.reclaim import note_left, reaping_wanted
from workers.queue.submission import submit
from workers.queue.values import Outcome, Tally
from workers.settings import ServiceSettings, read_service_settings
from workers.worker.attempt import work_off
from workers.worker.rehearsal_executor import RehearsalExecutor, disown
from workers.worker.tasks import Surroundings, reap

SCENARIO = "upgrade: {what: security}\nsource: {guest: web01, host: xen1}\nlogin: {inject: true}\n"
CHECK = "def test_it(host):\n    assert True\n"


@pytest.fixture
def state() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sbtest-") as place:  # its path has to be short
        yield Path(place)


@pytest.fixture
def settings(tmp_path: Path, state: Path) -> ServiceSettings:
    for name, text in {
        "scenarios/mine/scenario.yaml": SCENARIO + "checks: {shared: [ours]}\n",
        "scenarios/mine/test_it.py": CHECK,
        "scenarios/shared/test_ours.py": CHECK,
        "scenarios/shared/test_others.py": CHECK,
        "hosts.yaml": "hosts: [{name: xen1, uri: qemu+unix:///nowhere}]\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return read_service_settings(
        {
            "SANDBOX_STATE": str(state),
            "SANDBOX_SCENARIOS": str(tmp_path / "scenarios"),
            "SANDBOX_HOSTS": str(tmp_path / "hosts.yaml"),
            "SANDBOX_SERVICE_KEEP_FREE": "64MiB",
        }
    )


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = open_database(f"sqlite:///{tmp_path}/truth.db")
    migrate(opened)
    yield opened
    opened.close()


def asked(database: Database, settings: ServiceSettings) -> str:
    request = Request("mine")
    return submit(database, order_of(prepare(request, settings.sandbox), request, settings)).run_id


# -- the scenario that was asked for ----------------------------------------------------------


@pytest.mark.parametrize("changed", ["mine/test_it.py", "shared/test_ours.py"])
def test_no_verdict_is_given_for_another_scenario_of_the_same_name(
    database: Database, settings: ServiceSettings, tmp_path: Path, changed: str
) -> None:
    run_id = asked(database, settings)
    (tmp_path / "scenarios" / changed).write_text("def test_it(host):\n    pass\n")
    held = claim(database, "xen1", "me", 60.0, None)
    assert held is not None
    assert work_off(database, held, RehearsalExecutor(settings), 60.0) is RunState.FINISHED
    row = reading.get(database, run_id)
    assert row.verdict is Verdict.REJECTED
    assert "'mine' is not the one that was asked for" in row.reason
    with database.read() as connection:
        evidence = connection.execute(select(verdicts.c.evidence)).scalar_one()
    assert "submit it again" in evidence["hint"]


def test_the_same_files_are_the_same_scenario_wherever_they_are(
    settings: ServiceSettings, tmp_path: Path
) -> None:
    def now() -> str:
        return digest(prepare(Request("mine"), settings.sandbox))

    before = now()
    (tmp_path / "scenarios/shared/test_others.py").write_text("# not used by it\n")
    assert now() == before
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "scenarios").rename(tmp_path / "elsewhere/scenarios")
    moved = replace(settings.sandbox, scenarios=(tmp_path / "elsewhere/scenarios",))
    assert digest(prepare(Request("mine"), moved)) == before


# -- what is remembered -----------------------------------------------------------------------


def test_a_rehearsal_knows_what_its_guests_checks_did_before(
    settings: ServiceSettings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def connected(_host: KnownHost) -> Iterator[FakeHypervisor]:
        yield FakeHypervisor()  # it has no such guest

    monkeypatch.setattr("workers.worker.rehearsal_executor.connected", connected)
    asked(database, settings)
    before = claim(database, "xen1", "me", 60.0, None)
    assert before is not None
    red = Tally("test_it.py::test_it", Rate(0, 1), Rate(0, 0), Rate(2, 3))
    finish(database, before, Outcome(Verdict.INCONCLUSIVE, "flaky", checks=(red,)))
    asked(database, settings)
    held = claim(database, "xen1", "me", 60.0, None)
    assert held is not None
    work_off(database, held, RehearsalExecutor(settings), 60.0)
    (record,) = Store(settings.sandbox).records()
    assert record.facts.past == {"test_it.py::test_it": Past(held=2, asked=4)}
    assert reading.get(database, held.run_id).verdict is Verdict.REJECTED
    (known,) = history(database, "web01").items
    assert known.runs == 1, "a run without checks leaves nothing to remember"


# -- what a clean-up left ---------------------------------------------------------------------


def test_what_could_not_be_removed_is_a_reapers_while_its_process_lives(
    settings: ServiceSettings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker's child lives on after an attempt: what that left must not count as a live run's."""
    hypervisor, store = FakeHypervisor(), Store(settings.sandbox)
    stuck = HostError("the domain does not die")
    hypervisor.fail("destroy", stuck, stuck)
    place = store.create(hypervisor.uri)
    mark = Mark(place.id, this_process(), 0, str(place.clone))
    element = network_xml(names(place.id), mark, 0)
    metadata = element[element.index("<metadata>") : element.index("</metadata>") + 11]
    name = domain_name(place.id)
    hypervisor.define(f"<domain><name>{name}</name>{metadata}<devices/></domain>", running=True)
    assert remove_run(hypervisor, place).failed == ("the domain does not die",)
    assert leftovers(hypervisor, store) == ()
    assert disown(place)
    assert leftovers(hypervisor, store) == (place.id,)

    @contextmanager
    def connected(_host: KnownHost) -> Iterator[FakeHypervisor]:
        yield hypervisor

    monkeypatch.setattr("workers.worker.rehearsal_executor.connected", connected)
    monkeypatch.setattr("workers.monitoring.pools.connected", connected)
    around = Surroundings(settings, _database=database)
    note_left(database, "xen1")
    reap(around, "xen1")
    assert list(reaping_wanted(database)) == ["xen1"], "nothing was removed: somebody goes on"
    reap(around, "xen1")
    assert reaping_wanted(database) == {}
    assert not place.clone.exists()
    assert not disown(place)
