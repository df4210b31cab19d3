"""doctor: every check says the truth about what it looks at, and none of them can end it."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sandbox.doctor import host_checks
from sandbox.doctor.examine import examine
from sandbox.doctor.host_checks import Check, Finding, State
from sandbox.network import isolation
from sandbox.network.isolation import Network
from tests.support.fakes.run_world import DEAD, ESCAPE, World, in_terminal, sandbox
from tests.support.fakes.sample_records import passed

NAMES = {
    *("root", "state folder", "disk: runs", "disk: packages", "libvirt", "acceleration"),
    *("memory", "virtlogd", *host_checks.PROGRAMS, "virt-customize", "nftables", "IPv6"),
    *("package proxy", "further sources", "upstream proxy", "scenarios", "dead runs"),
}


def check(world: World, name: str) -> Finding:
    """One check by name; those before it are run as well, since it may build on them."""
    for known in host_checks.all_checks(world.settings):
        found = examine(known.run)
        if known.name == name:
            return found
    raise AssertionError(name)


@pytest.fixture
def bridges(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Network]]:
    """The throw-away bridges that a test's checks make; none may outlive the test."""
    made: list[Network] = []
    real = isolation.names

    def names(run_id: str) -> Network:
        made.append(real(run_id))
        return made[-1]

    monkeypatch.setattr("sandbox.network.isolation.names", names)
    yield made
    assert made
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True).stdout
    for bridge in made:
        assert not Path("/sys/class/net", bridge.bridge).exists()
        assert bridge.table not in tables


def test_json_is_one_object_a_line_for_every_check(world: World) -> None:
    told = world.invoke("doctor", "--json")
    read = [json.loads(line) for line in told.stdout.splitlines()]
    assert {line["check"] for line in read} == NAMES
    assert len(read) == len(NAMES)
    assert all(set(line) == {"check", "state", "detail", "hint"} for line in read)
    assert all(line["state"] in ("ok", "warning", "not ok") and line["detail"] for line in read)
    # libvirt's test driver has no memory to speak of: one check must fail, and only that line.
    bad = {line["check"] for line in read if line["state"] == "not ok"}
    assert "memory" in bad
    assert told.exit_code == 4
    assert all(line["hint"] for line in read if line["check"] in bad)


def test_text_is_aligned_and_ends_with_what_to_do(world: World) -> None:
    told = world.invoke("doctor").stdout
    assert "\x1b" not in told
    lines = told.splitlines()
    marked = [line for line in lines if re.match(r"  (ok|warning|not ok) ", line)]
    assert len(marked) == len(NAMES)
    assert {line[11:].split("  ", 1)[0].strip() for line in marked} == NAMES
    assert all(line[31] == " " and line[32] != " " for line in marked), "details in one column"
    assert re.fullmatch(r"\d+ of 25 checks not ok, .*: no rehearsal before .*", lines[-1])


def test_a_terminal_gets_marks_and_colours_and_a_pipe_words(world: World) -> None:
    nowhere = {**world.environment, "SANDBOX_URI": "qemu+unix:///system?socket=/nonexistent/sock"}
    seen = in_terminal("doctor", environment=nowhere, columns=90)
    assert re.search(r"\x1b\[1;3[12]m  [✓✗]", seen)
    plain = [line.rstrip() for line in ESCAPE.sub("", seen).splitlines()]
    assert any(re.match(r"  ✗ libvirt +cannot connect", line) for line in plain)
    assert any("→ start it: systemctl start libvirtd" in line for line in plain)
    piped = sandbox("doctor", environment=nowhere)
    assert piped.returncode == 4
    assert "\x1b" not in piped.stdout
    assert "not ok   libvirt" in piped.stdout
    assert piped.stderr == ""


def test_without_libvirt_the_other_checks_are_made(world: World) -> None:
    nowhere = {**world.environment, "SANDBOX_URI": "qemu+unix:///system?socket=/nonexistent/sock"}
    told = sandbox("doctor", "--json", environment=nowhere)
    read = {line["check"]: line for line in map(json.loads, told.stdout.splitlines())}
    assert set(read) == NAMES
    assert read["libvirt"]["state"] == "not ok"
    assert "GiB free for clones" in read["memory"]["detail"]
    assert read["dead runs"]["state"] == "warning"
    assert "Traceback" not in told.stderr


@pytest.mark.usefixtures("bridges")
def test_nothing_stays(world: World) -> None:
    world.invoke("doctor")
    assert not world.settings.state.exists(), "a doctor looks, he does not move in"


def test_a_daemon_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    assert host_checks.listens(path).state is State.BAD
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        assert host_checks.listens(path).state is State.OK
    assert "virtlogd -d" in host_checks.listens(path).hint


@pytest.mark.usefixtures("bridges")
def test_a_gate_that_does_not_close(monkeypatch: pytest.MonkeyPatch) -> None:
    def open_gate(names: Network, _port: int) -> str:
        return f"table netdev {names.table} {{ }}\n"

    monkeypatch.setattr("sandbox.network.isolation.gate_rules", open_gate)
    found = examine(host_checks.gate_closes)
    assert found.state is State.BAD


@pytest.mark.usefixtures("bridges")
def test_rules_that_the_kernel_refuses_leave_no_bridge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox.network.isolation.gate_rules", lambda _names, _port: "nonsense\n")
    found = examine(host_checks.gate_closes)
    assert found.state is State.BAD


@pytest.mark.usefixtures("bridges")
def test_a_host_without_nft_keeps_no_bridge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ip", "sysctl"):
        (tmp_path / name).symlink_to(shutil.which(name) or name)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = examine(host_checks.gate_closes)
    assert (found.state, found.hint) == (State.BAD, "apt install nftables")
    assert examine(host_checks.ipv6_works).state is State.OK, "that needs no nft"
    monkeypatch.undo()


def test_the_proxy_is_really_asked(world: World) -> None:
    found = host_checks.proxy_refuses(world.settings)
    assert found.state is State.OK
    assert "403" in found.detail


def test_upstream_proxy(world: World) -> None:
    def upstream(url: str) -> Finding:
        settings = replace(world.settings, upstream_proxy=url)
        return examine(lambda: host_checks.upstream_answers(settings))

    assert upstream("").state is State.OK
    assert upstream("socks://x").state is State.BAD
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert upstream(f"http://user:secret@127.0.0.1:{port}").state is State.OK
    down = upstream(f"http://user:secret@127.0.0.1:{port}")
    assert down.state is State.BAD
    assert "SANDBOX_UPSTREAM_PROXY" in down.hint
    assert "secret" not in down.detail


def test_dead_runs_are_told_and_kept_ones_too(world: World, alive: str) -> None:
    assert "left nothing behind" in check(world, "dead runs").detail
    kept = world.run(passed())
    kept.note(kept="yes")
    world.run(passed(), owner=alive)
    found = check(world, "dead runs")
    assert found.state is State.OK
    assert kept.id in found.detail
    dead = world.run(passed(), owner=DEAD)
    found = check(world, "dead runs")
    assert (found.state, found.hint) == (State.WARNING, "sandbox reap")
    assert dead.id in found.detail
    assert kept.id not in found.detail


def test_exit_code_is_0_when_only_warnings_are_left(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def two(_settings: object) -> object:
        yield Check("A", "one", lambda: Finding(State.OK, "fine"))
        yield Check("B", "two", lambda: Finding(State.WARNING, "slow", "buy a new one"))

    monkeypatch.setattr("sandbox.doctor.examine.all_checks", two)
    told = world.invoke("doctor")
    assert told.exit_code == 0
    assert "buy a new one" in told.stdout
    assert "This host can rehearse upgrades (2 checks, 1 warning)." in told.stdout
    assert "sandbox run security --guest NAME" in told.stdout


def test_space(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert host_checks.space(tmp_path / "not/yet", "SANDBOX_STATE").state is State.OK
    for free, state in ((1 << 20, State.BAD), (2 << 30, State.WARNING), (9 << 30, State.OK)):
        usage = type("Usage", (), {"free": free})()
        monkeypatch.setattr("shutil.disk_usage", lambda _path, u=usage: u)
        found = host_checks.space(world.settings.state, "SANDBOX_STATE")
        assert found.state is state
        assert ("SANDBOX_STATE" in found.hint) == (state is State.BAD)


def test_state_folder_that_the_hypervisor_cannot_reach(world: World) -> None:
    top = world.settings.state.parent
    top.chmod(0o700)
    found = host_checks.state_folder(world.settings.state)
    assert found.state is State.WARNING
    assert str(top) in found.detail
    top.chmod(0o711)
    assert host_checks.state_folder(world.settings.state).state is State.OK


def test_a_cache_that_cannot_be_made(world: World) -> None:
    found = examine(
        lambda: host_checks.proxy_refuses(replace(world.settings, cache=Path("/proc/x")))
    )
    assert found.state is State.BAD
    assert "cache" in found.detail


def test_settings_of_the_proxy(world: World) -> None:
    def sources(*uris: str) -> Finding:
        return host_checks.allowed_sources(replace(world.settings, proxy_allow=uris))

    assert sources().state is State.OK
    assert sources("http://mirror.example/debian").state is State.OK
    bad = sources("http://mirror.example/debian", "ftp://mirror.example/")
    assert bad.state is State.BAD
    assert "ftp://mirror.example/" in bad.detail
    assert "http://mirror.example/debian" not in bad.detail


def test_scenarios(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert host_checks.scenarios_load(world.settings).state is State.OK
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "scenario.yaml").write_text("upgrade: {wat: all}\n")
    own = replace(world.settings, scenarios=(tmp_path,))
    found = host_checks.scenarios_load(own)
    assert found.state is State.WARNING, "one of the user's own"
    assert "wat" in found.detail
    monkeypatch.setattr(host_checks, "shipped_scenarios", lambda: tmp_path)
    assert host_checks.scenarios_load(own).state is State.BAD, "one of ours"
