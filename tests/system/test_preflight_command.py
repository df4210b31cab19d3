"""`sandbox preflight` over a real sshd, whose machine is this one: it only reads."""

from __future__ import annotations

import getpass
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.clone.ssh import reading
from tests.support.fakes.guest_world import port_of
from tests.support.machine.sshd import Sshd, running_sshd

STATE = f"/tmp/sbpreflight-{os.getpid()}"  # is not to be made
SCENARIO = "upgrade: {what: packages, packages: [bash]}\nchecks: {shared: []}\n"


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with running_sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture
def known_hosts(sshd: Sshd, tmp_path: Path) -> Path:
    words = (sshd.folder / "host_key.pub").read_text().split()
    file = tmp_path / "known_hosts"
    file.write_text(f"[127.0.0.1]:{port_of(sshd)} {words[0]} {words[1]}\n")
    return file


def preflight(
    sshd: Sshd, folder: Path, known_hosts: Path, *options: str, scenario: str = SCENARIO
) -> subprocess.CompletedProcess[str]:
    (folder / "scenario.yaml").write_text(scenario)
    return subprocess.run(
        [
            *(sys.executable, "-m", "sandbox", "preflight", f"{folder}/", "--address", "127.0.0.1"),
            *("--port", str(port_of(sshd)), "--user", getpass.getuser()),
            *("--key", str(sshd.folder / "user_key"), "--known-hosts", str(known_hosts), *options),
        ],
        env=os.environ | {"SANDBOX_STATE": STATE},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_person_reads_what_was_found_and_what_is_next(
    sshd: Sshd, tmp_path: Path, known_hosts: Path
) -> None:
    done = preflight(sshd, tmp_path, known_hosts)
    first, *_, last = done.stdout.splitlines()
    assert first.startswith("bash on 127.0.0.1, looked at in ")
    assert done.returncode in (0, 1), done.stderr
    if done.returncode == 0:
        assert "That is no verdict: rehearse it." in done.stdout
        assert last == f"Next  sandbox run {tmp_path}/ --guest NAME"
    else:
        assert last.endswith("do not begin before that is mended")


def test_what_blocks_is_an_exit_code_and_json_for_programs(
    sshd: Sshd, tmp_path: Path, known_hosts: Path
) -> None:
    options = ("--json", "--upgrade", "no-such-package")
    done = preflight(sshd, tmp_path, known_hosts, *options)
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    assert found["upgrade"] == "no-such-package"
    (point,) = [p for p in found["points"] if p["topic"] == "packages"]
    assert point["severity"] == "blocker"
    assert "no-such-package" in point["text"]
    assert found["seconds"] > 0
    assert not Path(STATE).exists(), "it is no run, and leaves none"


def test_an_unknown_host_key_is_not_accepted(sshd: Sshd, tmp_path: Path, known_hosts: Path) -> None:
    known_hosts.write_text("")
    done = preflight(sshd, tmp_path, known_hosts)
    assert done.returncode == 4
    assert "its host key must be known" in done.stderr
    assert known_hosts.read_text() == "", "nor written down"


def test_a_key_that_is_refused_says_so(sshd: Sshd, tmp_path: Path, known_hosts: Path) -> None:
    other = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other], check=True)
    done = preflight(sshd, tmp_path, known_hosts, "--key", str(other))
    assert done.returncode == 4
    assert "give a user (--user) and key (--key) that it accepts" in done.stderr


@pytest.mark.parametrize("address", ["-oProxyCommand=id", "a b", "web01;id", ""])
def test_what_is_no_address_is_never_given_to_ssh(
    sshd: Sshd, tmp_path: Path, known_hosts: Path, address: str
) -> None:
    done = preflight(sshd, tmp_path, known_hosts, f"--address={address}")
    assert done.returncode == 2
    assert "not an address" in done.stderr


def test_a_scenario_that_does_not_exist_is_a_wrong_request(
    sshd: Sshd, tmp_path: Path, known_hosts: Path
) -> None:
    done = preflight(sshd, tmp_path, known_hosts, scenario="upgrade: {what: nonsense}\n")
    assert done.returncode == 2


def test_production_is_entered_by_strict_rules_whatever_the_operators_configuration_says(
    tmp_path: Path,
) -> None:
    """ssh itself says what it would do, with a configuration that allows everything."""
    loose = tmp_path / "config"
    loose.write_text(
        "Host *\n  StrictHostKeyChecking no\n  ForwardAgent yes\n  ForwardX11 yes\n"
        "  PermitLocalCommand yes\n  RemoteForward 127.0.0.1:1 127.0.0.1:2\n  BatchMode no\n"
    )
    argv = reading("web01.example.org", "root", 2222, None, None)
    shown = subprocess.run(
        [argv[0], "-F", str(loose), "-G", *argv[1:]], capture_output=True, text=True, check=True
    ).stdout
    said = dict(line.partition(" ")[::2] for line in shown.splitlines())
    assert said["stricthostkeychecking"] == "true"
    assert said["batchmode"] == "yes"
    assert (said["forwardagent"], said["forwardx11"]) == ("no", "no")
    assert said["permitlocalcommand"] == "no"
    assert said["clearallforwardings"] == "yes"
    assert (said["user"], said["port"]) == ("root", "2222")
    assert shlex.join(argv).endswith("-- web01.example.org")
