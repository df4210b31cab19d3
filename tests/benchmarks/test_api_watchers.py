"""Two hundred people watch runs through the HTTP API: what they hear comes as soon as to one."""

from __future__ import annotations

import json
import os
import selectors
import socket
import statistics
import time
from pathlib import Path

import pytest

from tests.support.benchmarks.table import Measurement, Results
from tests.support.service.api_world import HOST, Api, api
from tests.support.service.servers import postgres
from workers.queue.events import say
from workers.queue.submission import submit
from workers.queue.values import Order
from workers.web.auth.tokens import Scope

pytestmark = pytest.mark.benchmark

WATCHERS, RUNS = 200, 20
EVENTS, PAUSE = 20, 0.4  # of each run; seconds
PATIENCE = 120.0
MOST = 2.0


def test_two_hundred_watchers_against_one(results: Results) -> None:
    with postgres() as server, api(DATABASE=server.new_database()) as served:
        alone, cpu_alone = heard(served, watchers=1)
        together, cpu = heard(served, watchers=WATCHERS)
    results.add(
        Measurement(
            name="watchers",
            what=f"time until {WATCHERS} watchers of {RUNS} runs hear of an event, against one",
            ratio=statistics.median(together) / statistics.median(alone),
            most=MOST,
            seconds={
                "one, p50": statistics.median(alone),
                f"{WATCHERS}, p50": statistics.median(together),
                f"{WATCHERS}, p99": sorted(together)[int(len(together) * 0.99)],
                "CPU a second of watching, one": cpu_alone,
                f"CPU a second of watching, {WATCHERS}": cpu,
            },
            note=f"{len(together)} messages, none lost, doubled or out of order",
        )
    )


def heard(served: Api, watchers: int) -> tuple[list[float], float]:
    """(seconds from each event to each who watches; CPU seconds of the server in a second)."""
    database = served.there.database
    runs = [
        submit(database, Order("security", f"web{n}", HOST, fresh=True)).run_id
        for n in range(min(RUNS, watchers))
    ]
    token = served.token(Scope.READ)
    selector = selectors.DefaultSelector()
    buffers: dict[socket.socket, bytes] = {}
    for number in range(watchers):
        sock = socket.create_connection(("127.0.0.1", served.port))
        path = f"/v1/runs/{runs[number % len(runs)]}/stream"
        head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n"
        sock.sendall(head.encode())
        selector.register(sock, selectors.EVENT_READ)
        buffers[sock] = b""
    told: dict[str, float] = {}
    texts: dict[socket.socket, list[str]] = {sock: [] for sock in buffers}
    delays: list[float] = []
    began, cpu, number, next_at = time.monotonic(), cpu_of(served.process.pid), 0, 3.0
    while time.monotonic() - began < PATIENCE:
        passed = time.monotonic() - began
        if number < EVENTS and passed > next_at:
            for run in runs:
                with database.write() as connection:
                    say(connection, run, "detail", f"event {number} of {run}")
                told[f"event {number} of {run}"] = time.monotonic()
            number, next_at = number + 1, passed + PAUSE
        for key, _ in selector.select(0.01):
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            buffers[sock] += sock.recv(1 << 16)
            now = time.monotonic()
            *lines, buffers[sock] = buffers[sock].split(b"\n")
            for line in lines:
                if line.startswith(b"data: "):
                    text = json.loads(line[6:])["text"]
                    if text in told:
                        delays.append(now - told[text])
                        texts[sock].append(text)
        if len(delays) >= watchers * EVENTS:
            break
    took = time.monotonic() - began
    spent = cpu_of(served.process.pid) - cpu
    for number, sock in enumerate(buffers):
        run = runs[number % len(runs)]
        assert texts[sock] == [f"event {n} of {run}" for n in range(EVENTS)]
        sock.close()
    return delays, spent / took


def cpu_of(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
