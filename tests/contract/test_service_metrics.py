"""Metrics tell what the database has, on SQLite and on PostgreSQL; read with Prometheus' parser."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import insert, update

from sandbox.core.errors import HostError, RequestError
from sandbox.core.settings import Settings
from sandbox.hosts.inventory import KnownHost
from sandbox.hosts.volumes.lvm import Pool
from tests.support.service.ledger_world import ERROR, FAIL, PASS, order, taken
from workers.database import Database, open_database
from workers.database.clock import now
from workers.database.schema import pools, runs, workers
from workers.monitoring import metrics
from workers.monitoring.listen_address import address
from workers.monitoring.pools import look_at_pools, note_pools
from workers.queue.leases import finish
from workers.queue.reclaim import sweep
from workers.queue.submission import submit
from workers.settings import ServiceSettings
from workers.worker import housekeeping

Samples = dict[tuple[str, ...], float]


def samples(text: str) -> Samples:
    """Each sample by its name and the values of its labels, in the order of their names."""
    return {
        (sample.name, *(value for _label, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def told(database: Database) -> Samples:
    return samples(metrics.text(database))


def test_an_empty_service(database: Database) -> None:
    found = told(database)
    assert found["sandbox_database_up",] == 1
    assert found["sandbox_runs_total", "pass"] == 0
    assert found["sandbox_leases_lost_total",] == 0
    assert found["sandbox_workers", "up"] == 0
    assert not [name for name, *_ in found if name == "sandbox_queue_runs"]
    assert not [name for name, *_ in found if name == "sandbox_last_tick_seconds"]


def test_the_queue_and_what_became_of_runs(database: Database) -> None:
    long = {"seconds": {"boot": 20.5, "upgrade": 100.0}}
    for outcome in (replace(PASS, evidence=long), replace(PASS, evidence=long), FAIL):
        submit(database, order())
        finish(database, taken(database), outcome)
    submit(database, order(most_attempts=1))
    finish(database, taken(database), ERROR)
    submit(database, order("web01"))
    taken(database)
    for guest in ("web02", "web03"):
        submit(database, order(guest))
    with database.write() as connection:
        connection.execute(
            update(runs).where(runs.c.guest == "web03").values(submitted=now() - 1000)
        )
    found = told(database)
    assert found["sandbox_queue_runs", "xen1"] == 2
    assert 1000 <= found["sandbox_queue_oldest_seconds", "xen1"] < 2000
    assert found["sandbox_running_runs", "xen1"] == 1
    verdicts = {name[1]: n for name, n in found.items() if name[0] == "sandbox_runs_total"}
    assert verdicts == {"pass": 2, "fail": 1, "error": 1, "inconclusive": 0, "rejected": 0}
    assert found["sandbox_phase_seconds_count", "boot"] == 2
    assert found["sandbox_phase_seconds_sum", "boot"] == 41.0
    assert found["sandbox_phase_seconds_sum", "upgrade"] == 200.0


def test_what_was_lost_reaped_and_ticked(database: Database) -> None:
    submit(database, order())
    taken(database)
    with database.write() as connection:
        connection.execute(update(runs).values(lease_until=now() - 1))
    sweep(database)
    housekeeping.count_reaped(database, 3)
    settings = ServiceSettings(database="", broker="", sandbox=Settings())
    housekeeping.tick(database, settings, lambda host, count: None, lambda host: None)
    found = told(database)
    assert found["sandbox_leases_lost_total",] == 1
    assert found["sandbox_things_reaped_total",] == 3
    assert 0 <= found["sandbox_last_tick_seconds",] < 600


def test_workers_by_state(database: Database) -> None:
    with database.write() as connection:
        for name, state, seen in (("a", "up", 0), ("b", "draining", 0), ("c", "up", 1000)):
            row = {"name": name, "hosts": ["xen1"], "slots": 1, "version": "1", "state": state}
            connection.execute(insert(workers).values(**row, started=now(), seen=now() - seen))
    found = told(database)
    states = {name[1]: n for name, n in found.items() if name[0] == "sandbox_workers"}
    assert states == {"up": 1, "draining": 1, "gone": 1}


def test_pools_as_they_were_seen_last(database: Database) -> None:
    note_pools(database, "xen1", (Pool("vg0", "thin", 1 << 40, 10.0, 5.0),))
    pool = (Pool("vg0", "thin", 1 << 40, 81.5, 12.25), Pool("vg1", 'a"b\\', 1 << 40, 1.0, 2.0))
    note_pools(database, "xen1", pool)
    found = told(database)
    assert found["sandbox_pool_fill_percent", "xen1", "data", "vg0/thin"] == 81.5
    assert found["sandbox_pool_fill_percent", "xen1", "metadata", "vg0/thin"] == 12.25
    assert found["sandbox_pool_fill_percent", "xen1", "data", 'vg1/a"b\\'] == 1.0
    with database.write() as connection:
        connection.execute(update(pools).values(looked=now() - 7200))
    assert not [name for name, *_ in told(database) if name == "sandbox_pool_fill_percent"]


LVS = {
    "vg_name": "vg0",
    "lv_name": "thin",
    "lv_path": "",
    "lv_dm_path": "",
    "pool_lv": "",
    "lv_size": "1099511627776",
    "segtype": "thin-pool",
    "data_percent": "42.50",
    "metadata_percent": "7.00",
    "lv_health_status": "",
    "lv_check_needed": "",
    "lv_permissions": "writeable",
    "lv_snapshot_invalid": "",
    "vg_free": "0",
    "lv_tags": "",
}


class Answering:
    """A host that has one thin pool; as much of a hypervisor as is asked."""

    def __init__(self) -> None:
        self.host = self

    def run(self, argv: list[str], _deadline: object) -> SimpleNamespace:
        assert argv[0] == "lvs"
        return SimpleNamespace(stdout=json.dumps({"report": [{"lv": [LVS]}]}))


def test_a_worker_looks_at_its_hosts_pools(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    @contextmanager
    def connected(host: KnownHost) -> Iterator[Answering]:
        asked.append(host.uri)
        if "away" in host.uri:
            raise HostError("it does not answer")
        yield Answering()

    monkeypatch.setattr("workers.monitoring.pools.connected", connected)
    settings = ServiceSettings(database="", broker="", sandbox=Settings())
    for name in ("away", "xen1"):
        look_at_pools(database, settings, f"xen+ssh://root@{name}.example.org/system")
    look_at_pools(database, replace(settings, executor="simulated:/nowhere"), "xen2")
    assert len(asked) == 2
    (pool,) = [n for n in told(database) if n[0] == "sandbox_pool_fill_percent" and n[2] == "data"]
    assert told(database)[pool] == 42.5


def test_a_database_that_is_away_is_a_metric_too(tmp_path: object) -> None:
    away = open_database(f"sqlite:///{tmp_path}/none/truth.db")
    assert told(away) == {("sandbox_database_up",): 0}
    away.close()


def test_they_are_served(database: Database) -> None:
    url = database.engine.url.render_as_string(hide_password=False)
    settings = ServiceSettings(database=url, broker="", sandbox=Settings())
    served = metrics.serve(settings, "127.0.0.1:0")
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{served.port}/metrics") as answer:
            found = samples(answer.read().decode())
        assert found["sandbox_database_up",] == 1
        taken_port = replace(settings, metrics=f"127.0.0.1:{served.port}")
        assert metrics.serve_if_asked(taken_port) is None  # a worker works all the same
    finally:
        served.stop()
    assert metrics.serve_if_asked(settings) is None


@pytest.mark.parametrize("text", ["9171", ":9171", "localhost:", "localhost:http", "h:99999"])
def test_an_address_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(RequestError):
        address(text, "127.0.0.1:9171")


def test_addresses() -> None:
    assert address("127.0.0.1:9171", "") == ("127.0.0.1", 9171)
    assert address("[::1]:80", "") == ("::1", 80)
