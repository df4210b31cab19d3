"""A run's events over HTTP: as JSON, and live, with a worker of the service at work."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from sandbox.core.deadline import Deadline
from sandbox.core.records import Verdict
from tests.support.service.api_world import HOST, Api, api
from tests.support.service.services import PATIENCE
from workers.queue.events import say
from workers.queue.leases import claim, finish
from workers.queue.submission import cancel, submit
from workers.queue.values import Order, Outcome
from workers.web.auth import tokens
from workers.web.auth.tokens import Scope


@pytest.fixture
def served(database_url: str) -> Iterator[Api]:
    with api(DATABASE=database_url) as one:
        yield one


@dataclass(frozen=True)
class Message:
    id: str
    event: str
    data: Any


class Stream:
    """What comes, read as the standard for server-sent events says."""

    def __init__(self, served: Api, run_id: str, last: str | None = None, token: str = "") -> None:
        self._connection = served.connection()
        headers = {"Authorization": f"Bearer {token or served.token(Scope.READ)}"}
        if last is not None:
            headers["Last-Event-ID"] = last
        self._connection.request("GET", f"/v1/runs/{run_id}/stream", headers=headers)
        self.answer = self._connection.getresponse()
        self.comments: list[str] = []

    def close(self) -> None:
        self._connection.close()

    def __iter__(self) -> Iterator[Message]:
        fields: dict[str, str] = {}
        for raw in self.answer:
            line = raw.decode().rstrip("\n")
            if line.startswith(":"):
                self.comments.append(line)
            elif line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif "data" in fields:
                yield Message(fields["id"], fields["event"], json.loads(fields["data"]))
                fields = {}


@contextlib.contextmanager
def stream(served: Api, run_id: str, last: str | None = None, token: str = "") -> Iterator[Stream]:
    one = Stream(served, run_id, last, token)
    try:
        yield one
    finally:
        one.close()


def queued(served: Api, guest: str = "web01") -> str:
    return submit(served.there.database, Order("security", guest, HOST)).run_id


def tell(served: Api, run_id: str, text: str) -> None:
    with served.there.database.write() as connection:
        say(connection, run_id, "detail", text, 50.0)


def end(served: Api, run_id: str) -> None:
    held = claim(served.there.database, HOST, "worker-a", 60.0, None)
    assert held is not None
    assert held.run_id == run_id
    finish(served.there.database, held, Outcome(Verdict.PASS, "all is well"))


def test_events_as_json_go_on_where_one_was(served: Api) -> None:
    run_id = queued(served)
    for number in range(5):
        tell(served, run_id, f"step {number}")
    seen, after, ended = [], 0, False
    while len(seen) < 6:
        told = served.ask(f"/v1/runs/{run_id}/events?after={after}&limit=2").json
        seen += [one["text"] for one in told["items"]]
        after, ended = told["last"], told["ended"]
    assert seen[1:] == [f"step {number}" for number in range(5)]
    assert ended is False
    end(served, run_id)
    told = served.ask(f"/v1/runs/{run_id}/events?after={after}").json
    assert told["ended"] is True
    assert "pass" in told["items"][-1]["text"]
    assert served.ask(f"/v1/runs/{run_id}/events?after=-1").status == 422


def test_a_worker_is_watched_to_the_end_and_the_watch_goes_on_after_a_loss() -> None:
    with api() as served:
        served.there.start("worker", "--host", HOST, "--slots", "1")
        run_id = served.submit("slow-web01").json["run"]["id"]
        with stream(served, run_id) as first:
            assert first.answer.getheader("content-type", "").startswith("text/event-stream")
            assert first.answer.getheader("cache-control") == "no-store"
            begun = []
            for message in first:
                begun.append(message)
                if message.event == "phase":
                    break
        with stream(served, run_id, begun[-1].id) as second:
            rest = list(second)
        with stream(served, run_id) as third:
            whole = list(third)
        assert [*begun, *rest] == whole
        numbers = [int(one.id) for one in whole[:-1]]
        assert numbers == sorted(set(numbers))
        assert {"state", "phase"} <= {one.event for one in whole}
        assert whole[-1].event == "end"
        assert whole[-1].data == {
            "state": "finished",
            "verdict": "pass",
            "reason": "all pretended checks hold",
        }
        again = served.ask(f"/v1/runs/{run_id}/stream", headers={"Last-Event-ID": whole[-1].id})
        assert (again.status, again.body) == (204, b"")


def test_who_is_late_gets_all_and_the_end(served: Api) -> None:
    run_id = queued(served)
    tell(served, run_id, "one line\nand what\r\n\r\nid: 99\nevent: end")
    cancel(served.there.database, run_id, "me")
    with stream(served, run_id) as one:
        told = list(one)
    assert [message.event for message in told] == ["state", "detail", "state", "end"]
    assert told[1].data["text"] == "one line\nand what\r\n\r\nid: 99\nevent: end"
    assert told[-1].data["verdict"] is None
    for odd in ("x", "-1", "1" * 30, "1-end2"):
        answer = served.ask(f"/v1/runs/{run_id}/stream", headers={"Last-Event-ID": odd})
        assert answer.status == 422


def test_silence_is_filled_and_a_revoked_token_hears_no_more() -> None:
    with api() as served:
        run_id = queued(served)
        token, text = tokens.create(served.there.database, "guest", Scope.READ, None)
        with stream(served, run_id, token=text) as one:
            heard: list[Message] = []
            listening = threading.Thread(target=lambda: heard.extend(one))
            listening.start()
            deadline = Deadline(PATIENCE, "a heartbeat")
            while not one.comments:
                deadline.sleep(0.1)
            tokens.revoke(served.there.database, token.id)
            listening.join(PATIENCE)
            assert not listening.is_alive()
        assert [message.event for message in heard] == ["state"]


def test_the_process_ends_although_somebody_watches() -> None:
    with api() as served:
        run_id = queued(served)
        with stream(served, run_id) as one:
            first = next(iter(one))
            assert first.event == "state"
            served.process.terminate()
            with contextlib.suppress(http.client.HTTPException, OSError):
                assert [m for m in one if m.event == "end"] == []
            assert served.process.wait(PATIENCE) == 0
