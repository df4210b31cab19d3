"""`sandbox up`, with real processes: works, heals, drains, and leaves nothing when it is killed."""

from __future__ import annotations

import json
import os
import signal
import stat
import urllib.request

import redis

from sandbox.core.records import Verdict
from tests.support.service.embedded import PATIENCE, Service, alive, eventually, service
from workers.database.states import RunState


def ended(one: Service) -> list[str]:
    """The programs in the order of their ends."""
    return [line["event"].split()[0] for line in one.said(" has ended") if "service" not in line]


def test_it_works_is_alone_and_heals() -> None:
    with service() as one:
        one.start()
        family = one.family()
        assert one.row(one.submit("web01", "--wait")).verdict is Verdict.PASS
        _is_private(one)
        again = one.sandbox("up")
        assert again.returncode == 2
        assert f"already runs here: `sandbox up`, pid {one.process.pid}" in again.stderr
        for name in ("redis", "worker", "beat", "api", "leash of redis", "leash of worker"):
            _is_started_again(one, name)
        family |= one.family()
        assert one.row(one.submit("web02", "--wait")).verdict is Verdict.PASS
        down = one.sandbox("down")
        assert down.returncode == 0, down.stderr
        assert "the service has ended" in down.stdout
        assert one.process.wait(PATIENCE) == 0
        eventually(lambda: not alive(family), "the end of all processes")
        assert ended(one)[:4] == ["worker", "api", "beat", "redis"]
        assert not (one.state / "service" / "redis.sock").exists()
        assert "does not run here" in one.sandbox("down").stdout


def _is_private(one: Service) -> None:
    folder = one.state / "service"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    with redis.Redis(unix_socket_path=str(folder / "redis.sock")) as client:
        told = {name: client.config_get(name)[name] for name in ("port", "appendonly")}
        assert told == {"port": "0", "appendonly": "yes"}
        assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
    health = one.sandbox("health", "--worker")
    assert health.returncode == 0, health.stderr
    _answers_who_has_a_token(one)


def _answers_who_has_a_token(one: Service) -> None:
    """It says where, and how to get one."""
    (line,) = eventually(lambda: one.said("the HTTP API answers at", "api"), "the HTTP API")
    assert line["url"].startswith("http://127.0.0.1:")
    assert "sandbox token create" in line["event"]
    made = one.sandbox("token", "create", "--name", "me")
    assert made.returncode == 0, made.stderr
    asked = urllib.request.Request(
        f"{line['url']}/runs", headers={"Authorization": f"Bearer {made.stdout.strip()}"}
    )
    with urllib.request.urlopen(asked, timeout=PATIENCE) as answer:
        assert [run["guest"] for run in json.load(answer)["items"]] == ["web01"]


def _is_started_again(one: Service, name: str) -> None:
    """A new one is there, and the old one gone: also when the leash between is killed."""
    program = name.removeprefix("leash of ")
    before = one.programs()
    family = {pid: start for pid, start in one.family().items() if pid == before[program]}
    os.kill(before[name], signal.SIGKILL)
    eventually(lambda: one.programs().get(program, before[program]) != before[program], name)
    eventually(lambda: not alive(family), f"the end of the old {program}")
    if program == "redis":
        eventually(lambda: one.sandbox("health").returncode == 0, "Redis to answer again")


def _running(one: Service, guest: str) -> str:
    run_id = one.submit(guest)
    eventually(lambda: one.row(run_id).state is RunState.RUNNING, "the run to begin")
    return run_id


def test_the_end_is_patient_until_it_is_asked_for_again() -> None:
    with service(DRAIN="3600", LEASE="2") as one:
        one.phases_take(600)
        one.start()
        run_id = _running(one, "web01")
        one.process.terminate()
        eventually(lambda: one.said("draining", "worker"), "the worker to drain")
        assert one.process.poll() is None
        assert one.row(run_id).state is RunState.RUNNING
        one.process.send_signal(signal.SIGINT)
        assert one.process.wait(PATIENCE) == 0
        assert ended(one)[:4] == ["worker", "api", "beat", "redis"]
        row = one.row(run_id)
        assert (row.state, row.verdict) == (RunState.QUEUED, None)
        assert list((one.simulated / "clones").iterdir()) == []


def test_what_a_killed_one_leaves_ends_by_itself_and_the_next_goes_on() -> None:
    with service(DRAIN="1", LEASE="2") as one:
        one.phases_take(600)
        one.start()
        run_id = _running(one, "web01")
        family = one.family()
        one.process.kill()
        one.process.wait()
        one.phases_take(0.05)
        one.start()  # it waits for what is left, and says so
        eventually(lambda: one.row(run_id).state is RunState.FINISHED, "the run's verdict")
        assert alive(family) == []
        assert one.row(run_id).verdict is Verdict.PASS
        assert one.end() == 0


def test_without_redis_it_says_what_to_install() -> None:
    with service() as one:
        one.environment["PATH"] = "/nonexistent"
        done = one.sandbox("up")
        assert done.returncode == 4
        assert "redis-server is not installed" in done.stderr
        assert "apt install redis-server" in done.stderr
