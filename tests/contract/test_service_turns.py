"""Whose turn it is: on both databases, and how many messages wake for it, on a real Redis."""

from __future__ import annotations

from pathlib import Path

from tests.support.service.ledger_world import LEASE, PASS, make_due
from tests.support.service.servers import redis_server
from workers.database import Database, migrate
from workers.queue import reading
from workers.queue.celery_app import ENOUGH, announce, backlog, make_app, queue_of
from workers.queue.dispatch import Round, Turns
from workers.queue.leases import claim, finish
from workers.queue.reading import DueHost
from workers.queue.submission import submit
from workers.queue.values import Claim, Order, Priority
from workers.settings import read_service_settings
from workers.worker.tasks import Surroundings, wake

HOSTS = ("xen1", "xen2", "xen3")


def queue(database: Database, host: str, guest: str, **values: object) -> str:
    wanted = Order(scenario="security", guest=guest, host=host, **values)  # type: ignore[arg-type]
    return submit(database, wanted).run_id


def taken(database: Database, host: str) -> Claim:
    held = claim(database, host, "worker-a", LEASE, None)
    assert held is not None
    return held


def round_of(database: Database, turns: Turns, *, slots: int = 2, parallel: int = 2) -> Round:
    return Round(database, turns, "worker-a", slots, lambda _host: parallel)


def turns_of(*hosts: str) -> Turns:
    return Turns(hosts, [0.0] * len(hosts))


def test_every_host_shows_its_most_urgent_run_that_may_start(database: Database) -> None:
    assert reading.heads(database, "worker-a", 1) == ()
    queue(database, "xen1", "a", priority=Priority.NIGHTLY)
    queue(database, "xen1", "b")
    queue(database, "xen2", "c", delay=3600.0)
    queue(database, "xen3", "d")
    queue(database, "xen3", "e", priority=Priority.GATE)
    normal, gate = DueHost("xen1", Priority.NORMAL, 0), DueHost("xen3", Priority.GATE, 0)
    assert reading.heads(database, "worker-a", 1) == (normal, gate)
    make_due(database)
    assert [one.host for one in reading.heads(database, "worker-a", 1)] == list(HOSTS)


def test_what_is_held_counts_and_a_full_worker_looks_at_nothing(database: Database) -> None:
    queue(database, "xen1", "a")
    queue(database, "xen1", "a", upgrade="nginx")  # of a guest that will be busy
    queue(database, "xen2", "b")
    held = taken(database, "xen1")
    assert reading.heads(database, "worker-a", 2) == (DueHost("xen2", Priority.NORMAL, 0),)
    assert reading.heads(database, "worker-a", 1) == ()
    assert reading.heads(database, "worker-b", 1) != ()
    assert reading.held_by_owner(database) == {"worker-a": 1}
    queue(database, "xen1", "c")
    assert reading.heads(database, "worker-a", 2)[0].held == 1
    finish(database, held, PASS)
    assert reading.heads(database, "worker-a", 2)[0].held == 0


def test_hosts_take_turns_and_the_urgent_one_is_first(database: Database) -> None:
    for number in range(3):
        queue(database, "xen1", f"a{number}")
    queue(database, "xen2", "b")
    queue(database, "elsewhere", "c", priority=Priority.GATE)
    turns = turns_of(*HOSTS)
    one = round_of(database, turns)
    assert [one.next_host(), one.next_host()] == ["xen1", "xen2"]
    assert round_of(database, turns).next_host() == "xen1", "that was longest ago"
    assert round_of(database, turns).next_host() == "xen2", "and now this"
    queue(database, "xen3", "d", priority=Priority.GATE)
    assert round_of(database, turns).next_host() == "xen3"
    assert round_of(database, turns).next_host() == "xen3", "as long as it is not begun"


def test_a_host_that_is_full_is_passed_over(database: Database) -> None:
    for number in range(3):
        queue(database, "xen1", f"a{number}")
    held = taken(database, "xen1")
    assert round_of(database, turns_of("xen1"), parallel=1).next_host() is None
    assert round_of(database, turns_of("xen1"), slots=1).next_host() is None
    finish(database, held, PASS)
    assert round_of(database, turns_of("xen1"), parallel=1).next_host() == "xen1"


def test_what_came_after_the_last_look_is_found_before_the_end(database: Database) -> None:
    queue(database, "xen1", "a")
    one = round_of(database, turns_of(*HOSTS))
    assert one.next_host() == "xen1"
    finish(database, taken(database, "xen1"), PASS)
    queue(database, "xen2", "b")
    assert one.next_host() == "xen2"
    finish(database, taken(database, "xen2"), PASS)
    assert one.next_host() is None


def test_a_queue_gets_no_more_messages_than_can_wake_somebody() -> None:
    with redis_server(durable=False) as server:
        settings = read_service_settings({"SANDBOX_SERVICE_BROKER": server.url})
        with make_app(settings) as app:
            for _ in range(3 * ENOUGH):
                announce(app, "xen1")
            announce(app, "xen2", 2)
            waiting = [backlog(app, queue_of(host)) for host in HOSTS]
        assert waiting == [ENOUGH, 2, 0]


def test_one_message_is_enough_for_all_of_a_workers_hosts(tmp_path: Path) -> None:
    settings = read_service_settings(
        {
            "SANDBOX_SERVICE_DATABASE": f"sqlite:///{tmp_path}/truth.db",
            "SANDBOX_SERVICE_EXECUTOR": f"simulated:{tmp_path}?seconds=0",
        }
    )
    around = Surroundings(settings, "worker-a", 1, hosts=HOSTS, served=[0.0] * len(HOSTS))
    migrate(around.database)
    for number in range(4):
        queue(around.database, HOSTS[number % 2], f"guest{number}")
    queue(around.database, "elsewhere", "another")
    with make_app(settings) as app:
        wake(app, around, "xen3")
    assert reading.due_hosts(around.database) == {"elsewhere": 1}
    begun = sorted(reading.recent(around.database), key=lambda row: row.started or 0.0)
    assert [row.host for row in begun if row.started] == ["xen1", "xen2", "xen1", "xen2"]
    around.database.close()
