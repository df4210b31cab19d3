"""A night from its due time to the web hook, by the real processes: two beats and a worker, on
Redis and PostgreSQL. Only the rehearsals are pretended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from sandbox.core.deadline import Deadline
from tests.support.machine.forked import Forked
from tests.support.service.nights_world import HOSTS, World, all_nights, all_runs, web_hook
from tests.support.service.servers import Postgres, redis_server, short_folder
from workers.database import migrate, open_database
from workers.schedule import enqueue
from workers.settings import read_service_settings

PATIENCE = 240.0
DAY = 86400.0


@contextlib.contextmanager
def process(environment: dict[str, str], log: Path, *arguments: str) -> Iterator[None]:
    """A process of the service in a group of its own; ended as an administrator ends it."""
    with log.open("ab") as file:
        started = Forked(arguments, environment=environment, output=file)
    try:
        yield
    finally:
        started.terminate()
        try:
            started.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(started.pid, signal.SIGKILL)
            started.wait()


def test_a_night_goes_its_way(postgres_server: Postgres, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        hook = stack.enter_context(web_hook())
        redis = stack.enter_context(redis_server())
        state = stack.enter_context(short_folder("sbnight-"))
        (tmp_path / "hosts.yaml").write_text(HOSTS)
        World(tmp_path).write("web01", "web02-fail", "{guest: db01, host: xen2}", window="1s")
        settings_of = {
            "SANDBOX_STATE": str(state),
            "SANDBOX_SCENARIOS": str(tmp_path / "scenarios"),
            "SANDBOX_HOSTS": str(tmp_path / "hosts.yaml"),
            "SANDBOX_URI": "xen+ssh://root@xen1.example.org/system",
            "SANDBOX_SERVICE_DATABASE": postgres_server.new_database(),
            "SANDBOX_SERVICE_BROKER": redis.url,
            "SANDBOX_SERVICE_NOTIFY": hook.url,
            "SANDBOX_SERVICE_EXECUTOR": f"simulated:{state}/pretended?seconds=0.02",
        }
        settings = read_service_settings(settings_of)
        database = open_database(settings.database)
        stack.callback(database.close)
        migrate(database)
        # Last due twelve hours ago, and once more the day before: the service was down.
        now = database.now()
        due = datetime.fromtimestamp(now - DAY / 2, UTC)
        scenario = tmp_path / "scenarios/fleet/scenario.yaml"
        text = scenario.read_text().replace("30 1 * * *", f"{due.minute} {due.hour} * * *")
        scenario.write_text(text.replace("Europe/Berlin", "UTC"))
        enqueue.begin(database, settings, now - 2 * DAY)
        assert all_nights(database) == []

        environment = settings_of | {"PATH": os.environ["PATH"], "HOME": str(state)}
        log = tmp_path / "log"
        for arguments in (
            ("worker", "--host", "xen1", "--host", "xen2", "--slots", "2"),
            ("beat",),
            ("beat",),
        ):
            stack.enter_context(process(environment, log, *arguments))
        deadline = Deadline(PATIENCE, "the summary")
        while not hook.got:
            assert deadline.remaining() > 0, log.read_text()[-5000:]
            deadline.sleep(0.5)

        assert [outcome for _due, outcome in all_nights(database)] == ["missed", "run"]
        assert sorted((run.guest, run.verdict) for run in all_runs(database)) == [
            ("db01", "pass"),
            ("web01", "pass"),
            ("web02-fail", "fail"),
        ]
        (got,) = hook.got
        assert got["title"].startswith("2 of 3 guests may be upgraded (fleet, ")
        assert "web02-fail on xen1: fail: the pretended service does not start" in got["message"]
        assert "Not run before it (1): " in got["message"]
        assert "a-secret" not in log.read_text()
