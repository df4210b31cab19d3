"""Everything is decided before anything is made."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from sandbox.core.deadline import Deadline
from sandbox.core.errors import HostError, RequestError
from sandbox.core.records import Phase
from sandbox.core.store import RunFolder, this_process
from sandbox.rehearsal.plan import Plan, make_plan
from sandbox.scenario import Scenario
from tests.support.fakes.stage import GUEST, Stage


def plan(stage: Stage, scenario: Scenario, folder: RunFolder | None = None) -> Plan:
    place = stage.new_folder() if folder is None else folder
    return make_plan(scenario, stage.hypervisor, place, False, Deadline(20, "plan"))


def write(stage: Stage, text: str) -> Scenario:
    """A scenario with exactly this text."""
    from sandbox.core.settings import shipped_scenarios
    from sandbox.scenario import load_scenario

    folder = stage.settings.state / "own"
    folder.mkdir(exist_ok=True)
    (folder / "key").touch(mode=0o600)
    (folder / "scenario.yaml").write_text(text)
    return load_scenario(folder, shared=shipped_scenarios() / "shared")


FULL = f"""
source: {{guest: {GUEST}}}
login: {{user: admin, key: key, port: 2222}}
upgrade: {{what: packages, packages: [nginx]}}
reboot: never
checks:
  shared: [boot, ports]
  http: ['http://127.0.0.1/']
  filesystems_max_percent: 80
  ignore: {{units: ['apt-*'], ports: [tcp/68], kernel_log: [ACPI]}}
deadlines: {{clone: 11, boot: 12, baseline: 13, upgrade: 14, reboot: 15, verify: 16}}
expect: {{change: [nginx]}}
memory: 300MiB
"""


def test_the_plan_says_all_that_the_scenario_said(stage: Stage) -> None:
    folder = stage.new_folder()
    made = plan(stage, write(stage, FULL), folder)
    assert made.order.source.name == GUEST
    assert (made.order.login.user, made.order.login.port) == ("admin", 2222)
    assert made.order.login.key.name == "key"
    assert made.order.memory == 300 << 20
    assert (made.order.accelerated, made.order.inject) == (False, False)
    assert made.upgrade.packages == ("nginx",)
    assert made.reboot == "never"
    assert [path.stem for path in made.shared_checks] == ["test_boot", "test_ports"]
    settings = made.check_settings
    assert (settings.http, settings.filesystems_max_percent) == (("http://127.0.0.1/",), 80)
    assert settings.ignore_units == ("apt-*",)
    assert settings.ignore_ports == ("tcp/68",)
    assert settings.ignore_kernel_log == ("ACPI",)
    assert settings.sudo, "admin is not root"
    assert made.expectations.must_change == ("nginx",)
    assert list(made.seconds.values()) == [11, 12, 13, 14, 15, 16]


def test_the_mark_says_whose_it_is_and_until_when(stage: Stage) -> None:
    folder = stage.new_folder()
    mark = plan(stage, write(stage, FULL), folder).order.mark
    assert (mark.run, mark.owner, mark.folder) == (folder.id, this_process(), str(folder.clone))
    assert 0 <= mark.deadline - time.time() - 81 + 1 < 10


def test_a_plan_makes_nothing_but_a_key_that_is_asked_for(stage: Stage) -> None:
    folder = stage.new_folder()
    plan(stage, write(stage, FULL), folder)
    assert {path.name for path in folder.clone.iterdir()} == {"facts.json"}
    injected = write(stage, FULL.replace("key: key", "inject: true"))
    made = plan(stage, injected, folder)
    assert made.order.inject
    assert made.order.login.key == folder.clone / "id_ed25519"
    assert made.order.login.key.stat().st_mode & 0o777 == 0o600
    assert (folder.clone / "id_ed25519.pub").exists()
    assert made.seconds[Phase.CLONE] > 300, "libguestfs boots a machine of its own"


def test_an_image_is_planned_as_stated(stage: Stage) -> None:
    text = (
        f"source: {{image: {{path: {stage.image}, format: qcow2, memory: 100MiB, cpus: 3, "
        "machine: q35, disk_bus: sata, nic: e1000, firmware: uefi}}\n"
        "login: {key: key}\nupgrade: {what: all}\n"
    )
    made = plan(stage, write(stage, text))
    source = made.order.source
    assert source.kind == "image"
    assert [disk.target for disk in source.disks] == ["sda"]
    for words in ('machine="q35"', 'firmware="efi"', 'type="e1000"', "<vcpu>3", ">102400<"):
        assert words in source.xml
    assert not made.check_settings.sudo, "root needs none"


def test_a_scenario_without_a_source_is_rejected(stage: Stage) -> None:
    with pytest.raises(RequestError, match="nothing to rehearse"):
        plan(stage, write(stage, "login: {key: key}\nupgrade: {what: all}\n"))


def test_a_login_without_a_key_is_rejected(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    text = f"source: {{guest: {GUEST}}}\nupgrade: {{what: all}}\n"
    with pytest.raises(RequestError, match="no private key"):
        plan(stage, write(stage, text))
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "id_ed25519").touch()
    assert plan(stage, write(stage, text)).order.login.key == tmp_path / ".ssh" / "id_ed25519"


def test_one_export_of_a_running_guest_at_a_time(stage: Stage) -> None:
    domain = stage.hypervisor.domains[GUEST]
    domain.export = stage.settings.state / "somebody-elses"
    assert plan(stage, write(stage, FULL)), "a stopped guest has no export job"
    domain.state = "running"
    with pytest.raises(HostError, match="in progress") as caught:
        plan(stage, write(stage, FULL))
    assert "try again later" in caught.value.hint


@pytest.mark.parametrize(
    ("facts", "words", "hint"),
    [
        ({"kept": "yes"}, "has a clone of it that was kept", "sandbox rm {run}"),
        ({}, "was killed and left a clone of it", "sandbox reap"),
        ({"owner": this_process()}, "is rehearsing it", "try again later"),
        ({"source": "web02"}, "in progress", "try again later"),
        ({"uri": "qemu:///elsewhere"}, "in progress", "try again later"),
    ],
)
def test_who_keeps_a_guest_busy_is_said(
    stage: Stage, facts: dict[str, str], words: str, hint: str
) -> None:
    domain = stage.hypervisor.domains[GUEST]
    domain.state, domain.export = "running", stage.settings.state
    other = stage.new_folder()
    other.note(**{"owner": "999999999:1:x", "source": GUEST, **facts})
    with pytest.raises(HostError) as caught:
        plan(stage, stage.scenario())
    assert words in caught.value.message
    assert hint.format(run=other.id) in caught.value.hint
    if words != "in progress":
        assert other.id in caught.value.message
