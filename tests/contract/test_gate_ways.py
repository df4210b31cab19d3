"""Which way `sandbox gate` goes when nobody says it, and the way by the service's database."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.service.gate_world import OF_CI, Done, Gate
from tests.support.service.servers import short_folder
from tests.support.service.services import PATIENCE, Service, service
from workers.database.states import ENDED, RunState
from workers.queue import reading
from workers.queue.values import Priority


@pytest.fixture(scope="module")
def there() -> Iterator[Service]:
    with short_folder("sbway-") as folder:
        given = {"EXECUTOR": f"simulated:{folder}/pretended?seconds=0.06", "ATTEMPTS": "1"}
        with service(LEASE="4", **given) as one:
            one.start("worker", "--host", "xen1", "--slots", "1")
            yield one


def start(there: Service, *arguments: str, guest: str = "web01", **env: str) -> Gate:
    log = there.folder / f"gate-{len(list(there.folder.glob('gate-*')))}"
    argv = [sys.executable, "-m", "workers.cli", "gate", "security", "--json", "--guest", guest]
    kept = {name: v for name, v in there.environment.items() if not name.startswith(OF_CI[1:])}
    with log.open("w") as file:
        process = subprocess.Popen(
            [*argv, *arguments],
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
            cwd=there.folder,
            env={**kept, **env},
            start_new_session=True,
        )
    there.processes.append(process)  # type: ignore[arg-type]  # ended with it
    return Gate(process, log)


def test_the_database_that_is_named_is_asked(there: Service, tmp_path: Path) -> None:
    markdown = tmp_path / "comment.md"
    arguments = ("--host", "xen1", "--markdown", str(markdown))
    done = start(there, *arguments, guest="db-fail").done()
    told = done.json
    assert (done.code, told["way"], told["verdict"]) == (1, "service", "fail")
    assert "asking the service of this machine" in done.err
    assert told["report"] == f"sandbox artifacts {told['run']}"
    row = reading.get(there.database, told["run"])
    assert (row.priority, row.origin.partition(" ")[0]) == (Priority.GATE, "gate")
    assert f"The whole report: `sandbox artifacts {row.id}`" in markdown.read_text()


def test_a_job_that_is_cancelled_cancels_there_too(there: Service) -> None:
    gate = start(there, "--host", "xen1", "--service", guest="long-one")
    gate.said("  plan\n")
    done = gate.signal(signal.SIGTERM)
    assert (done.code, done.json["ending"]) == (130, "cancelled")
    row = reading.get(there.database, done.json["run"])
    assert row.state in (RunState.CANCELLING, *ENDED)
    late = start(there, "--host", "xen2", "--wait", "1").done()
    assert late.code == 124
    assert reading.get(there.database, late.json["run"]).state is RunState.CANCELLED
    assert start(there, "--cancel").done().code == 2


def without_a_service(state: str, *arguments: str) -> Done:
    """Nothing is said but where the state is; the hypervisor is one that there is not."""
    kept = {name: v for name, v in os.environ.items() if not name.startswith(OF_CI)}
    argv = [sys.executable, "-m", "workers.cli", "gate", "security", "--json", "--guest", "web01"]
    uri = "qemu:///system?socket=/nonexistent/socket"
    done = subprocess.run(
        [*argv, *arguments],
        env={**kept, "SANDBOX_STATE": state, "SANDBOX_URI": uri},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def test_without_a_service_it_is_rehearsed_here(tmp_path: Path) -> None:
    with short_folder("sbway-") as folder:
        never = without_a_service(str(folder), "--junit", str(tmp_path / "x.xml"))
        assert (never.code, never.json["way"], never.json["ending"]) == (4, "local", "error")
        assert "no service was ever started here" in never.err
        assert "<error" in (tmp_path / "x.xml").read_text()
        argv = [sys.executable, "-m", "workers.cli", "migrate"]
        env = {**os.environ, "SANDBOX_STATE": str(folder)}
        assert subprocess.run(argv, env=env, check=False).returncode == 0
        idle = without_a_service(str(folder))
        assert (idle.code, idle.json["way"]) == (4, "local")
        assert "the service does not run here" in idle.err
        assert without_a_service(str(folder), "--local", "--leave").code == 2
        assert without_a_service(str(folder), "--local", "--service").code == 2
