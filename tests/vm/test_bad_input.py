"""What goes wrong at a user's desk: a clear error, the right exit code, nothing left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from sandbox.core.deadline import Deadline
from sandbox.core.process import run
from sandbox.core.settings import Settings
from sandbox.demo.broken import build_deb
from sandbox.demo.guest import Production
from sandbox.demo.image import DemoImage, derive_image
from tests.support.guests import resuming
from tests.support.guests.archive import Archive
from tests.support.guests.guests import PRODUCTION, Lab

pytestmark = pytest.mark.vm
ALL = "upgrade: {what: all}\nmemory: 512MiB\n"


@dataclass
class Command:
    """The real command, as a user runs it."""

    settings: Settings
    program: Sequence[str] = (sys.executable, "-m", "sandbox")

    def __call__(self, *arguments: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SANDBOX_")} | {
            "SANDBOX_STATE": str(self.settings.state),
            "SANDBOX_CACHE": str(self.settings.cache),
            "SANDBOX_UPSTREAM_PROXY": self.settings.upstream_proxy,
            "SANDBOX_PROXY_ALLOW": " ".join(self.settings.proxy_allow),
            "SANDBOX_CONTROL": self.settings.control,
            "SANDBOX_WATCH": "0",
        }
        return subprocess.run(
            [*self.program, *map(str, arguments)],
            env=environment | env,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def sandbox(settings: Settings) -> Command:
    return Command(settings)


@dataclass
class Resuming:
    """The same, but its clones of the tests' image go on from a saved boot."""

    sandbox: Command
    environment: dict[str, str]

    def __call__(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return Command(self.sandbox.settings, resuming.PROGRAM)(*arguments, **self.environment)


@pytest.fixture
def resumed(sandbox: Command, saved: Path, image: DemoImage) -> Resuming:
    return Resuming(sandbox, resuming.environment(saved, image.path))


@pytest.fixture
def key(image: DemoImage) -> Path:
    return image.key


def test_an_unknown_guest_is_rejected_with_the_nearest_one(
    sandbox: Command, production: Production
) -> None:
    mistyped = PRODUCTION.replace("test", "tset")
    ended = sandbox("run", "security", "--guest", mistyped, "--key", production.key)
    assert ended.returncode == 2
    assert f"no guest {mistyped!r}" in ended.stdout
    assert f"did you mean {PRODUCTION!r}" in ended.stdout


@pytest.mark.parametrize("name", ["web'01", 'web"01', "../web01", "web/01", "-web", "a\nb", ""])
def test_a_guest_name_that_cannot_be_one_is_rejected(sandbox: Command, name: str) -> None:
    ended = sandbox("run", "security", f"--guest={name}")
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    assert ended.stderr.startswith("sandbox: ")


def test_an_image_with_a_lying_format_is_rejected(
    sandbox: Command, image: DemoImage, key: Path, tmp_path: Path
) -> None:
    raw = tmp_path / "disk.raw"
    raw.write_bytes(bytes(1 << 20))
    for path, format, words in (
        (image.path, "raw", "looks like qcow2"),
        (image.path, "vmdk", "looks like qcow2"),
        (raw, "qcow2", "no qcow2 header"),
    ):
        ended = sandbox("run", "security", "--image", path, "--format", format, "--key", key)
        assert ended.returncode == 2, ended.stdout
        assert words in ended.stdout


def test_an_image_that_is_a_running_guests_disk_is_rejected(
    sandbox: Command, production: Production
) -> None:
    disk = run(["virsh", "-q", "domblklist", PRODUCTION], Deadline(20, "asking")).stdout.split()[1]
    ended = sandbox(
        "run", "security", "--image", disk, "--format", "qcow2", "--key", production.key
    )
    assert ended.returncode == 2
    assert f"--guest {PRODUCTION}" in ended.stdout


def test_a_yaml_bomb_is_rejected(sandbox: Command, tmp_path: Path) -> None:
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{n}: &{n} [{', '.join(['*' + p] * 9)}]\n"
        for p, n in zip("abcdefg", "bcdefgh", strict=True)
    )
    (tmp_path / "scenario.yaml").write_text(bomb)
    ended = sandbox("run", tmp_path, "--guest", PRODUCTION)
    assert ended.returncode == 2
    assert "scenario.yaml" in ended.stderr


def test_no_libvirt_is_an_error_that_says_how_to_start_it(sandbox: Command, key: Path) -> None:
    ended = sandbox(
        *("run", "security", "--guest", "web01", "--key", key),
        SANDBOX_URI="qemu:///system?socket=/nowhere/libvirt.sock",
    )
    assert ended.returncode == 4
    assert "cannot connect to libvirt" in ended.stderr
    assert "libvirtd" in ended.stderr


def test_a_run_that_does_not_exist_is_rejected(sandbox: Command) -> None:
    for command in (("report",), ("show",), ("rm",)):
        ended = sandbox(*command, "20200101-000000-abcdef")
        assert ended.returncode == 2
        assert "no run '20200101-000000-abcdef'" in ended.stderr


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem with hardly any room."""
    folder = Path("/tmp") / f"sbfull-{os.getpid()}"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)
    folder.rmdir()


def test_a_full_host_disk_is_an_error(
    sandbox: Command, production: Production, small_disk: Path
) -> None:
    ended = sandbox(
        *("run", "security", "--guest", PRODUCTION, "--key", production.key, "--json"),
        SANDBOX_STATE=str(small_disk / "state"),
    )
    assert ended.returncode == 4
    assert "MiB free" in json.loads(ended.stdout)["decision"]["reason"]
    assert not list((small_disk / "state" / "clones").iterdir())


def test_a_second_run_of_a_running_guest_is_an_error_while_the_first_one_lasts(
    lab: Lab, sandbox: Command, archive: Archive, production: Production, tmp_path: Path
) -> None:
    archive.offer([])
    folder = lab.scenario(ALL + "checks: {shared: [boot]}\n")
    arguments = ("run", folder, "--guest", PRODUCTION, "--key", production.key)
    second: list[subprocess.CompletedProcess[str]] = []
    from sandbox.core.progress import Silent
    from sandbox.core.records import Phase, Verdict

    class Second(Silent):
        def phase_started(self, phase: Phase, deadline: float) -> None:
            if phase is Phase.BOOT:
                second.append(sandbox(*arguments))

    lab.progress = Second()
    first = lab.run(folder, guest=PRODUCTION)
    assert second[0].returncode == 4
    assert "is rehearsing it" in second[0].stdout
    assert first.decision is not None
    assert first.decision.verdict is Verdict.PASS, "the first run was not disturbed"


def test_a_wrong_key_is_rejected(resumed: Resuming, image: DemoImage, tmp_path: Path) -> None:
    wrong = tmp_path / "key"
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", wrong], Deadline(20, "making a key"))
    ended = resumed("run", "security", "--image", image.path, "--format", "qcow2", "--key", wrong)
    assert ended.returncode == 2, ended.stdout
    assert "refuses 'root' with the key" in ended.stdout


def test_a_guest_without_sshd_is_inconclusive(lab: Lab, sandbox: Command, key: Path) -> None:
    mute = derive_image(
        lab.image,
        "vmmute",
        print,
        links={"/etc/systemd/system/ssh.service": "/dev/null"},
    )
    folder = lab.scenario(ALL + "deadlines: {boot: 40s}\n")
    ended = sandbox("run", folder, "--image", mute.path, "--format", "qcow2", "--key", key)
    assert ended.returncode == 3, ended.stdout
    assert "nothing answers on its SSH port" in ended.stdout


BAD_CHECKS = """
import os, time

def test_good(host):
    assert host.run("true").rc == 0

def test_bad(host):
    {line}
"""


@pytest.mark.parametrize(
    ("line", "words"),
    [("os._exit(0)", "test_bad"), ("time.sleep(10000)", "test_bad")],
    ids=["exits", "hangs"],
)
def test_a_check_that_hangs_or_exits_is_inconclusive(
    lab: Lab, resumed: Resuming, archive: Archive, key: Path, tmp_path: Path, line: str, words: str
) -> None:
    archive.offer([build_deb("web01-extra", "1.0", out=tmp_path)])
    folder = lab.scenario(
        ALL + "checks: {shared: []}\ndeadlines: {baseline: 40s}\n",
        test_own=BAD_CHECKS.format(line=line),
    )
    ended = resumed("run", folder, "--image", lab.image.path, "--format", "qcow2", "--key", key)
    assert ended.returncode == 3, ended.stdout
    assert words in ended.stdout
