"""A throw-away key for guests that accept none of ours. With a real guest: tests/vm."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from sandbox.clone import key_injection
from sandbox.clone.ssh import GuestLogin
from sandbox.core.deadline import Deadline
from sandbox.core.errors import RequestError
from sandbox.core.process import Completed, run
from sandbox.core.settings import Settings
from sandbox.core.store import RunFolder, Store
from tests.support.waiting import soon


@pytest.fixture
def folder() -> Iterator[RunFolder]:
    with tempfile.TemporaryDirectory(prefix="sbtest-") as state:
        yield Store(Settings(state=Path(state))).create()


def test_a_key_pair_of_the_clones_own(folder: RunFolder) -> None:
    key = key_injection.make_key(folder, soon())
    assert key.parent == folder.clone, "it goes with the clone"
    assert key.stat().st_mode & 0o777 == 0o600
    shown = subprocess.run(["ssh-keygen", "-y", "-f", key], capture_output=True, check=True)
    assert shown.stdout.split()[:2] == key.with_suffix(".pub").read_bytes().split()[:2]


def test_nothing_is_done_unless_asked_for(folder: RunFolder, tmp_path: Path) -> None:
    login = GuestLogin("root", tmp_path / "key")
    assert key_injection.inject_key(login, tmp_path / "none", folder, soon(), wanted=False) == ()


def test_a_disk_that_cannot_be_opened_is_rejected_with_libguestfs_words(folder: RunFolder) -> None:
    login = GuestLogin("root", key_injection.make_key(folder, soon()))
    with pytest.raises(RequestError, match="no key could be put into") as caught:
        key_injection.inject_key(login, folder.clone / "vda.qcow2", folder, soon(), wanted=True)
    assert "vda.qcow2" in caught.value.message
    assert "libguestfs" in caught.value.hint


@pytest.mark.parametrize(("user", "home"), [("root", "/root"), ("admin", "~admin")])
def test_what_is_run_and_what_is_reported(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, user: str, home: str
) -> None:
    """Recorded, not run: libguestfs takes a minute under emulation."""
    called: list[Sequence[str]] = []
    environments: list[dict[str, str]] = []

    def record(argv: Sequence[str], _deadline: Deadline, *, env: dict[str, str]) -> Completed:
        called.append(argv)
        environments.append(env)
        return Completed(tuple(argv), 0, "", "")

    monkeypatch.setattr(key_injection, "run", record)
    login = GuestLogin(user, folder.clone / "id_ed25519")
    overlay = folder.clone / "vda.qcow2"
    mutations = key_injection.inject_key(login, overlay, folder, soon(), wanted=True)
    assert mutations == (f"{home}/.ssh/authorized_keys: this run's throw-away key added",)
    words = list(called[0])
    assert words[: words.index("virt-customize")] == [*key_injection.with_own_tmp(folder)]
    assert words[words.index("-a") + 1] == str(overlay), "only the overlay is written"
    assert words[words.index("--format") + 1] == "qcow2", "stated, not probed"
    assert "--no-network" in words
    assert words[-1] == f"{user}:file:{folder.clone}/id_ed25519.pub"
    assert environments[0]["TMPDIR"] == str(folder.clone)
    assert environments[0]["LIBGUESTFS_BACKEND"] == "direct", "no domain of libvirt's is made"
    assert not [name for name in environments[0] if name.startswith(("SANDBOX_", "SSH_"))]
    assert (folder.clone.parent.parent / "guestfs").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("parent", ["/tmp", "/var/tmp"])
def test_its_tmp_is_in_the_clones_folder_wherever_that_is(parent: str) -> None:
    """libguestfs makes its sockets in /tmp, and leaves them there when it is killed."""
    with tempfile.TemporaryDirectory(prefix="sbtest-", dir=parent) as state:
        folder = Store(Settings(state=Path(state))).create()
        (folder.clone / "overlay").write_text("the clone's disk")
        name = f"libguestfs-{folder.id}"
        script = 'set -e; mkdir "/tmp/$1"; touch "/tmp/$1/guestfsd.sock"; cat "$2"; rm "$2"'
        argv = ["sh", "-c", script, "sh", name, str(folder.clone / "overlay")]
        done = run([*key_injection.with_own_tmp(folder), *argv], soon())
        assert done.stdout == "the clone's disk"
        assert not (folder.clone / "overlay").exists(), "it was another file"
        assert not Path("/tmp", name).exists()
        assert (folder.clone / "tmp" / name / "guestfsd.sock").exists()
        folder.remove_clone()
        assert not folder.clone.exists()
