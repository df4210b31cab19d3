"""The README says what the code does: its commands parse, its tables are the code's."""

from __future__ import annotations

import re
import shlex
from datetime import UTC, datetime
from pathlib import Path

import click
import pytest

from sandbox.cli.preflight_report import print_found
from sandbox.core.records import PackageChange, Start, Verdict
from sandbox.core.settings import CLIENT_VARIABLES, SERVICE_PREFIX, VARIABLES, shipped_scenarios
from sandbox.hosts.inventory import HostEntry, read_hosts
from sandbox.managers import UpgradeRequest
from sandbox.preflight.judge import judge
from sandbox.preflight.known_bugs import Bug, read_bugs
from sandbox.preflight.parse import Conffile, GuestSurvey, Space
from sandbox.scenario import Schedule, load_scenario, shared_checks
from tests.support.paths import ROOT
from workers.chat.config import read_chat
from workers.chat.wording import USAGE, Command, Verb, understand
from workers.cli import main
from workers.schedule.night_summary import GuestNight, Night, text
from workers.settings import SECRETS
from workers.settings import VARIABLES as OF_SERVICE
from workers.worker.systemd_unit import UNIT

README = (ROOT / "README.md").read_text()
SHELL = [
    line.partition(" # ")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.strip()
]
IN_CONTAINERS = [line for line in SHELL if line.startswith("docker compose ")]
COMMANDS = [
    line.partition(" > ")[0]
    for line in (*SHELL, *(re.sub(r"^.* exec \w+ ", "", line) for line in IN_CONTAINERS))
    if line.startswith("sandbox ")
]
OTHERS = (". .venv/bin/activate", f"systemctl enable --now {UNIT.name}")


def test_every_line_of_shell_is_a_command_that_is_tested() -> None:
    # tests/contract/test_api_readme.py asks what curl is to ask.
    known = ("sandbox ", "make ", "docker compose ", "curl ")
    others = [line for line in SHELL if not line.startswith(known)]
    settings = [line for line in others if line.startswith("export ")]
    of_service = {f"SANDBOX_SERVICE_{name}_FILE" for name in SECRETS}
    assert {line.split()[1].partition("=")[0] for line in settings} <= {*VARIABLES, *of_service}
    assert set(others) - set(settings) == set(OTHERS)
    # What they start is run by tests/contract/test_compose.py.
    assert [line.split()[2] for line in IN_CONTAINERS] == ["up", "exec", "exec", "exec"]
    assert len(COMMANDS) >= 7


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_readme_is_understood(line: str) -> None:
    """Parsed with all its options, not run: the vm tests run them on real guests."""
    words = shlex.split(line)[1:]
    context = click.Context(main, info_name="sandbox", **main.context_settings)
    command: click.Command = main
    while isinstance(command, click.Group):
        name, found, words = command.resolve_command(context, words)
        assert found is not None
        command, context = found, click.Context(found, parent=context, info_name=name)
    command.make_context(command.name, words, parent=context.parent)


def test_the_settings_are_the_codes() -> None:
    of_service = {SERVICE_PREFIX + name for name in OF_SERVICE if name != "EXECUTOR"}  # for tests
    named = set(re.findall(r"^\| `(SANDBOX_\w+)`", README, re.MULTILINE))
    assert named == {*VARIABLES, *CLIENT_VARIABLES} | of_service


def test_the_verdicts_and_exit_codes_are_the_codes() -> None:
    table = re.findall(r"^\| `(\w+)` \| (\d) \|", README, re.MULTILINE)
    assert {name: int(code) for name, code in table} == {v.value: v.exit_code for v in Verdict}


def test_the_example_of_known_bugs_is_valid_and_names_every_key(tmp_path: Path) -> None:
    (example,) = re.findall(r"```yaml\n(  bugs:.*?)```", README, re.DOTALL)
    (tmp_path / "bugs.yaml").write_text(example)
    (bug,) = read_bugs(tmp_path / "bugs.yaml")
    assert bug.blocks
    assert all(re.search(rf"\b{name}: ", example) for name in Bug.model_fields)


def test_the_example_scenario_is_valid(tmp_path: Path) -> None:
    example = re.findall(r"^```yaml\n(.*?)```", README, re.DOTALL | re.M)[0]
    key = tmp_path / "key"
    key.write_text("a key\n")
    (tmp_path / "scenario.yaml").write_text(example.replace("~/.ssh/id_ed25519", str(key)))
    read = load_scenario(tmp_path, shared=shipped_scenarios() / "shared")
    assert len(read.shared_checks) == len(shared_checks(shipped_scenarios() / "shared"))


def test_the_example_inventory_is_valid_and_names_every_key(tmp_path: Path) -> None:
    example = re.findall(r"^```yaml\n(.*?)```", README, re.DOTALL | re.M)[1]
    key = tmp_path / "key"
    key.write_text("a key\n")
    (tmp_path / "hosts.yaml").write_text(example.replace("~/.ssh/id_ed25519", str(key)))
    assert [host.name for host in read_hosts(tmp_path / "hosts.yaml")] == ["xen1", "here"]
    assert all(re.search(rf"\b{name}: ", example) for name in HostEntry.model_fields)


def test_the_example_schedule_is_valid_and_names_every_key(tmp_path: Path) -> None:
    examples = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    (example,) = [text for text in examples if "schedule:" in text]
    (tmp_path / "scenario.yaml").write_text(example)
    plan = load_scenario(tmp_path, shared=shipped_scenarios() / "shared").schedule
    assert plan is not None
    assert [one.host for one in plan.guests] == [None, None, "xen2"]
    assert all(re.search(rf"^  {name}: ", example, re.M) for name in Schedule.model_fields)


def test_the_example_summary_is_what_the_code_says() -> None:
    nightly = README.partition("### Nightly")[2]
    (example,) = re.findall(r"```text\n(.*?)```", nightly, re.DOTALL)
    good, bad = Verdict.PASS, Verdict.FAIL
    guests = (
        GuestNight("xen2", "db01", "1", "finished", bad, "postgresql does not start", "pass"),
        GuestNight("xen1", "web01", "2", "finished", good, "", "pass"),
        GuestNight("xen1", "web02", "3", "finished", good, "", "pass"),
    )
    due = datetime(2026, 11, 25, 0, 30, tzinfo=UTC).timestamp()
    assert text(Night("shop", due, "Europe/Berlin", "run", due, guests)) == example


def test_the_example_of_chat_is_valid_and_names_every_command(tmp_path: Path) -> None:
    chat = README.partition("### Chat")[2].partition("\n### ")[0]
    (example,) = re.findall(r"```yaml\n(.*?)```", chat, re.DOTALL)
    for name in set(re.findall(r"/etc/upgrade-sandbox/(\w+)", example)):
        (tmp_path / name).write_text("0123456789abcdef")
    (tmp_path / "chat.yaml").write_text(example.replace("/etc/upgrade-sandbox", str(tmp_path)))
    assert [one.kind for one in read_chat(tmp_path / "chat.yaml").channels] == ["slack", "github"]
    (commands,) = re.findall(r"```text\n(.*?)```", chat, re.DOTALL)
    first, *others = re.split(r" {3,}", commands.strip())
    assert understand(first) == Command(Verb.TEST, "web01", "kernel")
    assert others == [USAGE[verb] for verb in Verb if verb is not Verb.TEST]


def test_the_example_of_a_preflight_is_what_the_code_says(
    capsys: pytest.CaptureFixture[str],
) -> None:
    (example,) = re.findall(r"```text\n(security updates on .*?)```", README, re.DOTALL)
    changes = tuple(PackageChange(name=f"p{n}", old="1", new="2") for n in range(15))
    kernel = PackageChange(name="linux-image-6.1.0-56-amd64", new="6.1.192-2")
    nginx = PackageChange(name="nginx", old="1.22.1-9", new="1.22.1-9+deb12u2")
    seen = GuestSurvey(
        kernel="6.1.0-49-amd64",
        apt=True,
        asked=True,
        lists=1,
        changes=(*changes, kernel, nginx),
        download=39_640_000,
        space={"/boot": Space(mount="/boot", free=31 << 20), "/": Space(mount="/", free=9 << 30)},
        kernel_size=8 << 20,
        initrd_size=40 << 20,
        conffiles=(Conffile(path="/etc/nginx/nginx.conf", package="nginx-common"),),
        starts={"nginx.service": Start(began=2.0, ready=2.5)},
        restarts={"nginx.service": "nginx"},
        boot_seconds=21.4,
    )
    found = judge(seen, "web01.example.org", UpgradeRequest("security"))
    print_found(found.model_copy(update={"seconds": 2.1}), "security")
    assert capsys.readouterr().out == example


def test_the_ready_scenarios_are_named() -> None:
    for folder in shipped_scenarios().glob("*/scenario.yaml"):
        assert f"`{folder.parent.name}`" in README


def test_the_pictures_are_there() -> None:
    for path in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (ROOT / path).is_file(), "make picture makes it"
