"""Settings: defaults that work, and no variable that is wrong without a word."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.core.errors import RequestError
from sandbox.core.settings import VARIABLES, Settings, read_settings, shipped_scenarios


def test_without_variables_everything_has_a_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = read_settings({"PATH": "/bin", "HOME": "/root"})
    assert settings == Settings(scenarios=(shipped_scenarios(),))
    assert settings.runs == Path("/var/lib/upgrade-sandbox/runs")
    assert settings.shared_checks == shipped_scenarios() / "shared"
    assert not list(tmp_path.iterdir()), "reading settings makes nothing"


def test_every_variable_counts(tmp_path: Path) -> None:
    (tmp_path / "hosts.yaml").write_text("hosts: []\n")
    values = {
        "SANDBOX_STATE": "/srv/state",
        "SANDBOX_CACHE": "/srv/cache",
        "SANDBOX_URI": "qemu+ssh://host.example/system",
        "SANDBOX_HOSTS": str(tmp_path / "hosts.yaml"),
        "SANDBOX_SCENARIOS": str(tmp_path),
        "SANDBOX_UPSTREAM_PROXY": "http://proxy.example:3128",
        "SANDBOX_PROXY_ALLOW": "http://a.example/debian  http://b.example/debian",
        "SANDBOX_CONTROL": "always",
        "SANDBOX_WATCH": "20",
    }
    assert set(values) == set(VARIABLES), "a variable without a test"
    assert read_settings(values) == Settings(
        state=Path("/srv/state"),
        cache=Path("/srv/cache"),
        uri="qemu+ssh://host.example/system",
        hosts=(tmp_path / "hosts.yaml").resolve(),
        scenarios=(tmp_path.resolve(),),
        upstream_proxy="http://proxy.example:3128",
        proxy_allow=("http://a.example/debian", "http://b.example/debian"),
        control="always",
        watch=20.0,
    )


def test_an_empty_variable_is_one_that_is_not_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_settings(dict.fromkeys(VARIABLES, "")) == read_settings({})


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SANDBOX_STAT", "/srv"),
        ("SANDBOX_STATE", "state"),
        ("SANDBOX_CONTROL", "sometimes"),
        ("SANDBOX_WATCH", "2m"),
        ("SANDBOX_WATCH", "-1"),
        ("SANDBOX_CACHE", "./cache"),
        ("SANDBOX_STATE", "/" + "x" * 60),
        ("SANDBOX_SCENARIOS", "/nonexistent"),
        ("SANDBOX_SCENARIOS", "/etc/hostname"),
        ("SANDBOX_HOSTS", "/nonexistent.yaml"),
        ("SANDBOX_HOSTS", "/etc"),
    ],
)
def test_a_wrong_variable_is_named(variable: str, value: str) -> None:
    with pytest.raises(RequestError, match=variable) as caught:
        read_settings({variable: value})
    assert caught.value.hint


@pytest.mark.parametrize(
    ("capabilities", "uri"),
    [("control_d\n", "xen:///system"), ("", "qemu:///system"), (None, "qemu:///system")],
)
def test_the_machine_itself_says_which_hypervisor_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capabilities: str | None, uri: str
) -> None:
    file = tmp_path / "capabilities"
    if capabilities is not None:
        file.write_text(capabilities)
    monkeypatch.setattr("sandbox.core.settings.XEN_CAPABILITIES", file)
    assert read_settings({}).uri == uri
    assert read_settings({"SANDBOX_URI": "test:///x"}).uri == "test:///x"


def test_an_inventory_in_its_usual_place_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "hosts.yaml"
    monkeypatch.setattr("sandbox.core.settings.HOSTS", file)
    assert read_settings({}).hosts is None
    file.write_text("hosts: []\n")
    assert read_settings({}).hosts == file


@given(st.text("abc", min_size=1, max_size=47))
def test_the_longest_state_leaves_room_for_every_socket(name: str) -> None:
    """A unix socket's path may have 107 bytes; ssh adds a suffix of its own while it binds."""
    settings = read_settings({"SANDBOX_STATE": f"/{name}"})
    clone = settings.clones / "20260102-030405-abcdef"
    for socket in ("ssh.sock." + "x" * 16, "export/nbd.sock", "proxy.sock", "vdaa.sock"):
        assert len(str(clone / socket)) <= 107


def test_the_scenarios_here_come_before_the_shipped_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    here = tmp_path / "scenarios"
    (here / "shared").mkdir(parents=True)
    settings = read_settings({})
    assert settings.scenarios == (here, shipped_scenarios())
    assert settings.shared_checks == here / "shared"
    monkeypatch.chdir(shipped_scenarios().parent)
    assert read_settings({}).scenarios == (shipped_scenarios(),), "each folder once"
