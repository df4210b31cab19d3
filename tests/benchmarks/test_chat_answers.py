"""How long a webhook's answer takes while 50 runs are in flight, each with a message of its own."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from sandbox.core.deadline import Deadline
from tests.support.benchmarks.table import Measurement, Results
from tests.support.service import chat_world as says
from tests.support.service.api_world import started
from tests.support.service.chat_world import Sent, write_chat
from tests.support.service.servers import postgres
from tests.support.service.services import service
from tests.support.service.vendors import vendors
from workers.database.states import RunState
from workers.queue import reading

pytestmark = pytest.mark.benchmark

IN_FLIGHT = 50
ANSWERS = 300
LIMIT = 0.3  # seconds
ASKED: tuple[Callable[[int], Sent], ...] = (
    lambda number: says.slash(f"upgrade-test new{number}"),
    lambda number: says.slash("status"),
    lambda number: says.mattermost(f"why slow-web{number % IN_FLIGHT}"),
    lambda number: says.mention(f"upgrade-test slow-web{number % IN_FLIGHT}"),
    lambda number: says.github(f"/rehearse on{number}"),
)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_webhook_is_answered_while_many_runs_are_in_flight(results: Results, kind: str) -> None:
    with vendors() as there, postgres() as server:
        given = {} if kind == "sqlite" else {"DATABASE": server.new_database()}
        with service(API_LISTEN="127.0.0.1:0", TICK="1", **given) as one:
            path = write_chat(one.folder, there.url)
            one.environment["SANDBOX_SERVICE_CHAT"] = str(path)
            one.environment["SANDBOX_SERVICE_EXECUTOR"] += "&seconds=3"
            one.start("worker", "--host", "xen1", "--slots", str(IN_FLIGHT))
            one.start("beat")
            api = started(one)

            def ask(sent: Sent) -> float:
                start = time.perf_counter()
                told = api.ask(sent.path, None, method="POST", body=sent.body, headers=sent.headers)
                assert told.status == 200, told
                return time.perf_counter() - start

            for number in range(IN_FLIGHT):
                ask(says.slash(f"upgrade-test slow-web{number}"))
            deadline = Deadline(90, "starting the runs")
            while len(running := reading.recent(one.database, 99, states=(RunState.RUNNING,))) < 50:
                deadline.sleep(0.1)
            taken = sorted(ask(ASKED[number % len(ASKED)](number)) for number in range(ANSWERS))
            still = reading.recent(one.database, 99, states=(RunState.RUNNING,))
            assert len(still) == len(running) == IN_FLIGHT, "they have ended meanwhile"
    results.add(
        Measurement(
            name=f"chat-answer-{kind}",
            what=f"a webhook's answer (p99) with {IN_FLIGHT} runs in flight against 300 ms; {kind}",
            ratio=taken[ANSWERS * 99 // 100] / LIMIT,
            most=1.0,
            seconds={
                "p50": taken[ANSWERS // 2],
                "p99": taken[ANSWERS * 99 // 100],
                "longest": taken[-1],
            },
            note=f"{len(there.requests)} requests to vendors meanwhile",
        )
    )
