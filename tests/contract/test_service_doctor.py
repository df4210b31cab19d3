"""`sandbox doctor --service` on a real service: all well, and each failure once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
from sqlalchemy import text, update

from sandbox.core.deadline import Deadline
from sandbox.doctor.examine import examine
from sandbox.doctor.host_checks import Finding, State
from tests.support.service.services import HOSTS, PATIENCE, Service, service
from workers.database.clock import now
from workers.database.schema import counters, workers
from workers.monitoring import service_checks
from workers.monitoring.service_checks import judge_broker
from workers.queue.presence import present
from workers.queue.submission import submit
from workers.queue.values import Order
from workers.settings import ServiceSettings


@pytest.fixture
def there() -> Iterator[Service]:
    with service() as made:
        yield made


def examined(settings: ServiceSettings, patience: float = 1.0) -> dict[str, Finding]:
    return {
        check.name: examine(check.run, check.seconds + PATIENCE)
        for check in service_checks.service_checks(settings, patience)
    }


def bad(found: dict[str, Finding]) -> set[str]:
    for name, finding in found.items():
        assert finding.state is not State.BAD or finding.hint, name
    return {name for name, finding in found.items() if finding.state is State.BAD}


def test_a_service_that_works_and_then_does_not(there: Service) -> None:
    """One after the other, as each failure leaves the rest of it working."""
    worker = there.start("worker", "--host", "xen1", "--host", "xen2", "--slots", "1")
    beat = there.start("beat")
    deadline = Deadline(PATIENCE, "starting a worker and a beat")
    while not present(there.database) or bad(examined(there.settings, 10.0)):
        assert worker.poll() is None, there.log.read_text()
        deadline.sleep(0.3)

    while (told := there.command("doctor", "--service", "--json")).returncode:
        deadline.sleep(0.3)  # a machine that has too much to do ticks late
    lines = [json.loads(line) for line in told.stdout.splitlines()]
    states = {line["check"]: line["state"] for line in lines}
    expected = {"database", "clock", "redis", "ticks", "this machine", "place"}
    assert set(states) == expected | {f"{what} {h}" for h in HOSTS for what in ("worker", "canary")}
    assert "answered by" in next(x["detail"] for x in lines if x["check"] == "canary xen1")

    there.kill(beat)
    deadline = Deadline(PATIENCE, "seeing that no tick comes any more")
    while bad(examined(there.settings, 30.0)) != {"ticks"}:  # one may have been on its way
        with there.database.write() as connection:
            late = update(counters).where(counters.c.name == "ticked_at")
            connection.execute(late.values(value=now() - 1e6))
        deadline.sleep(0.3)

    there.kill(worker)  # its row is fresh for a while yet: only the canary knows
    with there.database.write() as connection:
        connection.execute(update(workers).values(seen=now() + 600))
    found = examined(there.settings)
    assert bad(found) == {"ticks", "canary xen1", "canary xen2"}
    assert "no answer" in found["canary xen1"].detail

    with there.database.write() as connection:
        connection.execute(update(workers).values(seen=now() - 100))
    found = examined(there.settings)
    gone = {f"{what} {host}" for host in HOSTS for what in ("worker", "canary")}
    assert bad(found) == {"ticks", *gone}
    assert "was last seen" in found["worker xen1"].detail

    told = there.command("doctor", "--service")
    assert told.returncode == 4
    assert "checks not ok" in told.stdout


def test_redis_that_is_away(there: Service) -> None:
    with there.database.write() as connection:
        row = {"name": "w", "hosts": list(HOSTS), "slots": 1, "version": "1", "state": "up"}
        connection.execute(workers.insert().values(**row, started=now(), seen=now()))
    there.redis.kill()
    found = examined(there.settings)
    assert {"redis", "canary xen1", "canary xen2"} <= bad(found)
    assert "is in the database and is not lost" in found["redis"].hint
    assert found["worker xen1"].state is State.OK
    assert found["database"].state is State.OK


def test_a_database_without_a_schema_or_with_another() -> None:
    with service(schema=False) as there:
        found = examined(there.settings)
        assert "not there" in found["database"].detail
        assert "sandbox migrate" in found["database"].hint
        assert there.command("migrate").returncode == 0
        assert "database" not in bad(examined(there.settings))
        with there.database.write() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '0000'"))
        found = examined(there.settings)
        assert "schema 0000, this version needs" in found["database"].detail


def test_what_runs_wait_for_is_looked_at_too(there: Service) -> None:
    submit(there.database, Order(scenario="security", guest="web01", host="xen9"))
    found = examined(there.settings)
    assert found["worker xen9"].state is State.BAD
    assert "sandbox worker --host xen9" in found["worker xen9"].hint


def test_a_worker_that_drains_begins_nothing(there: Service) -> None:
    with there.database.write() as connection:
        row = {"name": "w", "hosts": ["xen1"], "slots": 1, "version": "1", "state": "draining"}
        connection.execute(workers.insert().values(**row, started=now(), seen=now()))
    assert examined(there.settings)["worker xen1"].state is State.WARNING


def test_disks_that_are_full_and_places_that_are_away(there: Service) -> None:
    (there.folder / "file").touch()
    settings = replace(
        there.settings, keep_free=1 << 60, artifacts=str(there.folder / "file" / "place")
    )
    assert {"this machine", "place"} <= bad(examined(settings))
    settings = replace(settings, artifacts=str(there.folder / "place"))
    assert "place" in bad(examined(settings))


def test_a_clock_that_is_wrong(there: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_checks.time, "time", lambda: 1.0)
    found = examined(there.settings)["clock"]
    assert found.state is State.WARNING
    assert "NTP" in found.hint


GOOD = {"redis_version": "7.0", "maxmemory_policy": "noeviction", "aof_enabled": 1}


@pytest.mark.parametrize(
    ("told", "state"),
    [
        ({}, State.OK),
        ({"maxmemory_policy": "allkeys-lru"}, State.WARNING),
        ({"maxmemory_policy": "allkeys-lru", "maxmemory": 1 << 30}, State.BAD),
        ({"aof_enabled": 0}, State.WARNING),
        ({"aof_last_write_status": "err"}, State.BAD),
        ({"rdb_last_bgsave_status": "err"}, State.BAD),
    ],
)
def test_what_redis_says_of_itself(told: dict[str, object], state: State) -> None:
    assert judge_broker(GOOD | told).state is state


def test_a_host_and_the_service_are_two_things(there: Service) -> None:
    told = there.command("doctor", "--service", "--host", "xen1")
    assert told.returncode == 2
