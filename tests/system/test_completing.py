"""What a shell is offered for a word that is not finished."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from sandbox.cli import completion
from sandbox.core.errors import HostError
from sandbox.hosts.drivers.fake import FakeHypervisor
from tests.support.fakes.run_world import World, sandbox
from tests.support.fakes.sample_records import passed

SHELLS = ("bash", "zsh", "fish")


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_scripts(world: World, shell: str) -> None:
    told = world.invoke("completion", shell)
    assert told.exit_code == 0
    assert f"_SANDBOX_COMPLETE={shell}_complete" in told.stdout


def complete(world: World, *words: str) -> list[str]:
    """What bash would be offered for the last word."""
    asked = {"_SANDBOX_COMPLETE": "bash_complete", "COMP_CWORD": str(len(words))}
    environment = {**world.environment, **asked, "COMP_WORDS": " ".join(("sandbox", *words))}
    done = sandbox(environment=environment)
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


def test_completion_of_commands_and_runs(world: World) -> None:
    assert complete(world, "re") == ["reap", "report", "retry"]
    assert complete(world, "show", "") == [], "there is no run yet"
    folder = world.run(passed(), clone=False)
    for command in ("report", "show", "rm"):
        assert complete(world, command, folder.id[:4]) == [folder.id]
    assert complete(world, "show", "lat") == ["latest"]


def test_completion_survives_a_broken_setting(world: World) -> None:
    asked = {"_SANDBOX_COMPLETE": "bash_complete", "COMP_CWORD": "2", "COMP_WORDS": "sandbox show "}
    environment = {**world.environment, **asked, "SANDBOX_STATE": "relative"}
    done = sandbox(environment=environment)
    assert (done.stdout.strip(), done.stderr) == ("", "")


def test_completion_of_scenarios(world: World) -> None:
    assert complete(world, "run", "") == ["everything", "kernel", "package", "release", "security"]
    assert complete(world, "run", "sec") == ["security"]
    environment = {**world.environment, "_SANDBOX_COMPLETE": "bash_complete"}
    environment |= {"COMP_WORDS": "sandbox run ./my", "COMP_CWORD": "2"}
    assert sandbox(environment=environment).stdout == "dir,./my\n", "the shell knows its folders"


@pytest.fixture
def inventory(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hosts; of one the guests are known."""
    file = tmp_path / "hosts.yaml"
    uris = {name: f"xen+ssh://root@{name}.example.org/system" for name in ("xen1", "xen2")}
    file.write_text(
        "hosts:\n" + "".join(f"  - {{name: {n}, uri: '{uri}'}}\n" for n, uri in uris.items())
    )
    monkeypatch.setenv("SANDBOX_HOSTS", str(file))

    def driver_for(uri: str, _deadline: object) -> FakeHypervisor:
        if uri == uris["xen2"]:
            raise HostError("no route to host")
        found = FakeHypervisor()
        for guest in ("web01", "web02", "db01"):
            found.define(f"<domain><name>{guest if 'xen1' in uri else guest[::-1]}</name></domain>")
        return found

    monkeypatch.setattr("sandbox.hosts.drivers.driver_for", driver_for)


@pytest.mark.usefixtures("inventory")
def test_completion_of_guests_and_hosts() -> None:
    assert completion.hosts("") == ["xen1", "xen2"]
    assert completion.hosts("xen2") == ["xen2"]
    assert completion.guests("web", "xen1") == ["web01", "web02"]
    assert completion.guests("", None) == ["10bd", "10bew", "20bew"]
    assert completion.guests("", "xen2") == []
    assert completion.guests("", "nonesuch") == []


@pytest.mark.usefixtures("inventory")
def test_guests_of_the_host_that_is_named_on_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from click.shell_completion import ShellComplete

    from sandbox.cli.main import main

    asked = ShellComplete(main, {}, "sandbox", "_SANDBOX_COMPLETE")

    def offered(*words: str, begun: str) -> list[str]:
        return [item.value for item in asked.get_completions(list(words), begun)]

    assert offered("run", "security", "--host", "xen1", "--guest", begun="db") == ["db01"]
    assert offered("init", "x", "--host", "xen1", "--guest", begun="db") == ["db01"]
    for command in (["run"], ["init"], ["doctor"], ["reap"], ["guests"], ["rm"]):
        assert offered(*command, "--host", begun="xen") == ["xen1", "xen2"]


@pytest.mark.usefixtures("world")
def test_a_host_that_hangs_costs_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    def driver_for(*_: Any) -> None:
        time.sleep(10)
        raise HostError("too late")

    monkeypatch.setattr("sandbox.hosts.drivers.driver_for", driver_for)
    monkeypatch.setattr(completion, "SECONDS", 0.2)
    started = time.monotonic()
    assert completion.guests("", None) == []
    assert time.monotonic() - started < 8
