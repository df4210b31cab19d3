"""compose.yaml: valid to the compose tool, hardened, and its services work together."""

from __future__ import annotations

import json
import os
import re
import shlex
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.support.service.composed import (
    COMPOSE,
    ROOT,
    SANDBOX_UID,
    Composed,
    composed,
    definitions,
)
from workers.settings import SECRETS, VARIABLES, read_service_settings
from workers.standalone.programs import UNDO

SERVICES = definitions()
README = (ROOT / "README.md").read_text()
OURS = ("migrate", "worker", "beat", "api")


def test_the_compose_tool_understands_it() -> None:
    done = subprocess.run(
        ["docker-compose", "--file", COMPOSE, "config", "--quiet"],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"]},
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_hardened(name: str) -> None:
    one = SERVICES[name]
    assert one["read_only"] is True
    assert one["cap_drop"] == ["ALL"]
    assert one["security_opt"] == ["no-new-privileges:true"]
    assert one["restart"] == ("on-failure" if name == "migrate" else "unless-stopped")
    assert name == "migrate" or one["healthcheck"]["test"]
    assert not {"privileged", "network_mode", "pid", "cap_add", "env_file"} & set(one)
    for port in one.get("ports", ()):
        assert port.startswith("${SANDBOX_BIND:-127.0.0.1}:")


def test_no_secret_is_in_the_file() -> None:
    document = yaml.safe_load(COMPOSE.read_text())
    assert all(set(one) == {"file"} for one in document["secrets"].values())
    for name in OURS:
        given = SERVICES[name]["environment"]
        assert not {f"SANDBOX_SERVICE_{secret}" for secret in SECRETS} & set(given)
        bare = {n.removeprefix("SANDBOX_SERVICE_").removesuffix("_FILE") for n in given}
        assert bare <= set(VARIABLES)
    assert not re.search(r"(?i)password\s*[:=]\s*\w", COMPOSE.read_text())


def test_a_worker_may_drain_before_it_is_killed() -> None:
    settings = read_service_settings(
        {"SANDBOX_SERVICE_DRAIN": SERVICES["worker"]["environment"]["SANDBOX_SERVICE_DRAIN"]}
    )
    minutes = re.fullmatch(r"(\d+)m", SERVICES["worker"]["stop_grace_period"])
    assert minutes
    assert int(minutes[1]) * 60 >= settings.drain + UNDO


def test_the_image_runs_as_the_user_of_this_test() -> None:
    text = (ROOT / ".ci/Dockerfile").read_text()
    assert f"--uid {SANDBOX_UID} " in text
    assert re.search(r"^USER sandbox$", text, re.MULTILINE)


def test_secrets_are_made_once_and_are_nobody_elses(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    made = []
    for _ in range(2):
        subprocess.run([ROOT / ".ci/secrets", folder], check=True, capture_output=True)
        made.append({p: p.read_bytes() for p in folder.rglob("*") if p.is_file()})
    assert made[0] == made[1]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {path.name for path in folder.iterdir()} == {
        "worker",
        *(
            Path(one["file"]).name
            for one in yaml.safe_load(COMPOSE.read_text())["secrets"].values()
        ),
    }
    other = tmp_path / "other"
    subprocess.run([ROOT / ".ci/secrets", other], check=True, capture_output=True)
    assert (folder / "notify").read_bytes() == b"", "nobody is told before somebody says whom"
    for path in folder.iterdir():
        mine = path.is_dir() or path.name == "notify"
        assert mine or path.read_bytes() != (other / path.name).read_bytes()


@pytest.fixture
def services() -> Iterator[Composed]:
    with composed() as one:
        yield one


def test_the_services_work_together(services: Composed) -> None:
    """In compose.yaml's order: a rehearsal is submitted beside the worker and gets its verdict."""
    for name in ("redis", "postgres"):
        services.start(name)
    for name in ("redis", "postgres"):
        services.wait_until_healthy(name)
    assert services.start("migrate").wait(300) == 0, services.log("migrate")
    assert "now at" in services.log("migrate")
    for name in ("worker", "beat", "api"):
        services.start(name)
    for name in ("worker", "beat", "api"):
        services.wait_until_healthy(name)
    submitted = services.run("worker", *shlex.split(in_readme("sandbox submit")), "--wait")
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    assert "all pretended checks hold" in submitted.stdout
    _the_api_queues_as_well(services)
    _a_worker_that_is_not_root_reaches_for_its_hosts(services)
    assert services.run("worker", "touch", "/usr/x", "/etc/x").returncode != 0
    assert services.run("worker", "id", "-u").stdout.strip() == str(SANDBOX_UID)
    _tell_what_is_broken(services)


def in_readme(command: str, name: str = "worker") -> str:
    """What the README says to run in a service's container."""
    found = re.search(rf"^docker compose exec {name} ({command}.*)$", README, re.MULTILINE)
    assert found
    return found[1]


def _the_api_queues_as_well(services: Composed) -> None:
    """With the worker's key, by name; the gate then knows the guest."""
    made = services.run("api", *shlex.split(in_readme("sandbox token create", "api")))
    assert made.returncode == 0, made.stderr
    given = ("--silent", "--fail", "--oauth2-bearer", made.stdout.strip())
    place = "http://127.0.0.1:8480/v1"
    wish = {"scenario": "security", "guest": "web02", "host": "xen1", "key": "id_ed25519"}
    sent = ("--json", json.dumps(wish), f"{place}/runs")
    told = services.run("api", "curl", *given, *sent)
    assert told.returncode == 0, told.stdout + services.log("api")
    run_id = json.loads(told.stdout)["run"]["id"]
    live = services.run("api", "curl", *given, f"{place}/runs/{run_id}/stream")
    assert '"verdict": "pass"' in live.stdout, live.stdout
    gate = f"{place}/gate?scenario=security&guest=web02&host=xen1"
    assert json.loads(services.run("api", "curl", *given, gate).stdout)["allowed"] is True
    assert services.stop("api") == 0, services.log("api")


def _a_worker_that_is_not_root_reaches_for_its_hosts(services: Composed) -> None:
    """As far as the name of one that is not there: ssh is started with the key of hosts.yaml."""
    said = services.run("worker", "sandbox", "doctor", "--host", "xen1")
    assert said.returncode == 4
    assert "cannot make" not in said.stdout
    assert "Could not resolve hostname xen1.example.org" in said.stdout, said.stdout


def _tell_what_is_broken(services: Composed) -> None:
    assert services.run("redis", "redis-cli", "ping").stdout.startswith("NOAUTH")
    assert services.stop("worker") == 0, services.log("worker")
    said = services.run("beat", "sandbox", "health", "--worker")
    assert said.returncode == 4
    assert "no worker of this machine" in said.stderr
    assert services.stop("redis") == 0
    said = services.health("beat")
    assert said.returncode == 4
    assert "the broker does not answer" in said.stderr
    assert services.stop("postgres") == 0
    said = services.health("beat")
    assert said.returncode == 4
    assert "cannot be used" in said.stderr
    services.processes["beat"].terminate()
