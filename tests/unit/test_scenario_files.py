"""The schema for editors, the ready scenarios, and the scenario that `sandbox init` writes."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from sandbox.core.config import strict_yaml
from sandbox.core.errors import RequestError
from sandbox.scenario import (
    SourceSettings,
    load_scenario,
    render_template,
    scenario_json_schema,
    valid_guest_name,
)
from tests.support.fakes.scenario_world import FULL, NAMES, READY, SHARED, UP, load, make_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path)


def schema_errors(text: str) -> list[str]:
    schema = scenario_json_schema()
    Draft202012Validator.check_schema(schema)
    data = strict_yaml.parse(text, Path("scenario.yaml")).data
    return [error.message for error in Draft202012Validator(schema).iter_errors(data)]


def test_schema_accepts_what_is_right(folder: Path) -> None:
    schema = scenario_json_schema()
    assert schema["$schema"].endswith("2020-12/schema")
    assert schema["$id"]
    assert schema_errors(FULL) == []
    for example_data in schema["examples"]:
        assert schema_errors(yaml.safe_dump(example_data)) == []
    for name in NAMES:
        assert schema_errors((READY / name / "scenario.yaml").read_text()) == []


@pytest.mark.parametrize(
    "text",
    [
        "upgrad: {what: all}\n",
        "upgrade: {what: most}\n",
        "upgrade: {what: packages}\n",
        "upgrade: {what: script}\n",
        "upgrade: {what: all, packages: [nginx]}\n",
        "upgrade: {what: packages, packages: [Nginx]}\n",
        UP + "checks: {shared: [bot]}\n",
        UP + "source: {}\n",
        UP + "source: {guest: a, image: {path: x, format: raw}}\n",
        UP + "source: {image: {path: x}}\n",
        UP + "memory: 1GB\n",
        UP + "deadlines: {boot: soon}\n",
        UP + "login: {port: '22'}\n",
        UP + "expect: {kernel: newst}\n",
    ],
)
def test_schema_refuses_what_is_wrong(text: str) -> None:
    assert schema_errors(text)


def test_schema_offers_the_shared_checks_and_describes_every_key(tmp_path: Path) -> None:
    def offered(schema: dict[str, Any]) -> list[str]:
        options = schema["$defs"]["Checks"]["properties"]["shared"]["anyOf"]
        names: list[str] = next(option for option in options if "items" in option)["items"]["enum"]
        return names

    shipped = sorted(path.stem.removeprefix("test_") for path in SHARED.glob("test_*.py"))
    assert offered(scenario_json_schema()) == shipped, "the names written down are those that ship"
    (tmp_path / "test_mail.py").write_text("")
    assert offered(scenario_json_schema(tmp_path)) == ["mail"]
    schema = scenario_json_schema()
    for section in (schema, *schema["$defs"].values()):
        for key, value in section["properties"].items():
            assert value.get("description"), key


@pytest.mark.parametrize("name", NAMES)
def test_ready_scenarios_load_and_explain_themselves(name: str) -> None:
    scenario = load_scenario(READY / name, shared=SHARED)
    assert scenario.source is None, "named on the command line"
    assert scenario.description
    assert "--guest" in scenario.path.read_text()
    assert scenario.own_checks
    for file in scenario.own_checks:
        checks = [n for n in ast.parse(file.read_text()).body if isinstance(n, ast.FunctionDef)]
        tests = [check for check in checks if check.name.startswith("test_")]
        assert tests
        assert all("host" in [argument.arg for argument in test.args.args] for test in tests)


def test_ready_scenarios_are_of_five_kinds() -> None:
    whats = {load_scenario(READY / name, shared=SHARED).upgrade.what for name in NAMES}
    assert whats == {"all", "kernel", "packages", "release", "security"}


def test_template_of_a_guest_loads(folder: Path) -> None:
    text = render_template(
        guest="web01",
        image=None,
        user="admin",
        key=str(folder / "id"),
        inject=False,
        ports=(22, 80),
        services=("nginx.service", "ssh.service"),
        comments=("Debian 12", "kernel\nupgrade: {what: all}"),
        host="xen1",
    )
    scenario = load(folder, text, require_source=True)
    assert scenario.source is not None
    assert (scenario.source.guest, scenario.source.host) == ("web01", "xen1")
    assert (scenario.login.user, scenario.login.key) == ("admin", folder / "id")
    assert "nginx.service, ssh.service" in text
    assert "22, 80" in text


def test_examples_in_the_template_are_valid(folder: Path) -> None:
    text = render_template(
        guest="web01", image=None, user="root", key=None, inject=True, ports=(80, 8080)
    )
    start, _, rest = text.partition("# checks:")
    checks = "\n".join(line.removeprefix("# ") for line in ("checks:" + rest).splitlines()[:5])
    scenario = load(folder, start + checks + "\n")
    assert scenario.checks.http == ("http://127.0.0.1/", "http://127.0.0.1:8080/")
    tail = "\n".join(line.removeprefix("# ") for line in rest.splitlines()[5:])
    scenario = load(folder, start + tail + "\n")
    assert scenario.expectations.kernel == "newest"
    assert scenario.memory == 1 << 30
    assert scenario.schedule is not None
    assert scenario.schedule.timezone == "Europe/Berlin"


def test_template_of_an_image_or_of_nothing_loads(folder: Path) -> None:
    disk = str(folder / "disk.qcow2")
    text = render_template(guest=None, image=(disk, "qcow2"), user="root", key=None, inject=True)
    scenario = load(folder, text)
    assert scenario.source is not None
    assert scenario.source.image is not None
    assert scenario.source.image.files == ((Path(disk), "qcow2"),)
    assert scenario.login.inject
    nothing = render_template(guest=None, image=None, user="root", key=None, inject=False)
    assert load(folder, nothing).source is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"guest": "a\nb"}, "guest name"),
        ({"guest": None, "image": ("x", "iso")}, "no format"),
        ({"guest": None, "image": ("x\n", "raw")}, "path of the image"),
        ({"image": ("x", "raw")}, "not both"),
        ({"user": "a: b"}, "user"),
        ({"key": "\0"}, "path of the key"),
    ],
)
def test_template_refuses_what_no_scenario_can_hold(change: dict[str, Any], words: str) -> None:
    facts: dict[str, Any] = {"guest": "a", "image": None, "user": "root", "key": None}
    with pytest.raises(RequestError, match=words):
        render_template(**{**facts, "inject": False, **change})


@given(
    guest=st.text("aZ0 ._-+:@()#ß", min_size=1, max_size=64),
    user=st.from_regex(r"[a-z_][a-z0-9_.@+-]{0,20}", fullmatch=True),
    comments=st.lists(st.text(), max_size=3),
    ports=st.lists(st.integers(1, 65535), max_size=3),
)
@example(guest="no", user="null", comments=["\x85upgrade: {}"], ports=[])
@example(guest="0x1: #", user="yes", comments=["\ufffe\ud800\u2028x: 1"], ports=[])
def test_any_template_loads_again(
    tmp_path_factory: pytest.TempPathFactory,
    guest: str,
    user: str,
    comments: list[str],
    ports: list[int],
) -> None:
    try:
        valid_guest_name(guest)
    except RequestError:
        return
    text = render_template(
        guest=guest,
        image=None,
        user=user,
        key=None,
        inject=False,
        ports=ports,
        services=comments,
        comments=comments,
    )
    scenario = load(tmp_path_factory.mktemp("template"), text, require_source=True)
    assert scenario.source == SourceSettings(guest=guest)
    assert scenario.login.user == user
    assert scenario.upgrade.what == "security"
