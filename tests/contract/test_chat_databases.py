"""What chat writes down, on SQLite and on PostgreSQL: many at once, and none twice."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import func, select

from sandbox.doctor.host_checks import State
from tests.support.service import chat_world as says
from tests.support.service.chat_world import Sent, chat_of, service_settings
from tests.support.service.ledger_world import PASS, taken
from tests.support.service.vendors import Vendors, vendors
from workers.chat import outbox
from workers.chat.doctor import channels
from workers.chat.receive import Ear
from workers.chat.send import Sender
from workers.chat.values import ChatReply
from workers.database import Database
from workers.database.schema import chat_deliveries, chat_messages
from workers.queue import reading
from workers.queue.leases import finish

MANY = 8


@pytest.fixture
def there() -> Iterator[Vendors]:
    with vendors() as server:
        yield server


@pytest.fixture
def ear(database: Database, there: Vendors, tmp_path: Path) -> Ear:
    return Ear(service_settings(tmp_path), database, chat_of(tmp_path, there.url))


def heard(ear: Ear, sent: Sent) -> ChatReply:
    headers = {name.lower(): value for name, value in sent.headers.items()}
    return ear.hear(ear.channel(sent.channel), headers, sent.body)


def at_once(*calls: object) -> list[object]:
    start = threading.Barrier(len(calls))

    def go(call: object) -> object:
        start.wait()
        return call()  # type: ignore[operator]

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(go, calls))


def test_the_same_at_once_is_one_run_one_message_one_answer(ear: Ear) -> None:
    sent = says.mention("upgrade-test web01")
    woken: list[str] = []
    ear = replace(ear, wake=woken.append)
    told = at_once(*[lambda: heard(ear, sent)] * MANY)
    assert len(set(told)) == 1
    assert woken == ["xen1"]
    assert len(reading.recent(ear.database)) == 1
    with ear.database.read() as connection:
        for table in (chat_deliveries, chat_messages):
            assert connection.execute(select(func.count()).select_from(table)).scalar_one() == 1


def test_equal_wishes_of_several_are_one_run_with_a_message_for_each(ear: Ear) -> None:
    each = [says.slash("upgrade-test web01", channel=f"C{number}") for number in range(MANY)]
    told = at_once(*[lambda sent=sent: heard(ear, sent) for sent in each])
    assert len(told) == MANY
    (row,) = reading.recent(ear.database)
    with ear.database.read() as connection:
        about = connection.execute(select(chat_messages.c.run_id)).scalars().all()
    assert about == [row.id] * MANY


def test_each_message_is_sent_by_one(ear: Ear, there: Vendors, tmp_path: Path) -> None:
    for number in range(MANY):
        heard(ear, says.slash(f"upgrade-test web{number}"))
    for _ in range(MANY):
        finish(ear.database, taken(ear.database), PASS)
    senders = [Sender(ear.database, ear.channel("ops"), "") for _ in range(4)]
    at_once(*[sender.turn for sender in senders])
    assert len(there.of(kind="slack")) == MANY
    assert channels(ear.database, str(tmp_path / "chat.yaml")).state is State.OK
    assert outbox.waiting(ear.database, "ops") == ()
    outbox.forget(ear.database)


def test_a_cancel_that_is_delivered_twice_is_answered_twice(ear: Ear) -> None:
    heard(ear, says.slash("upgrade-test web01"))
    (row,) = reading.recent(ear.database)
    sent = says.slash(f"cancel {row.id}")
    first, again = heard(ear, sent), heard(ear, sent)
    assert first == again
    assert b"cancelled" in first.body
