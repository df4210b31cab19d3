"""The observation's script where a guest's tools are ours: its log, and what ucf knows."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import pytest

from sandbox.core.deadline import Deadline
from sandbox.observe.observation import observe
from sandbox.observe.observation_parse import parse
from tests.support.fakes.local_shell import LocalShell

SCRIPT = files("sandbox.observe") / "observe.sh"
SHELLS = [("dash",), ("bash", "--posix"), ("busybox", "sh")]
MARK = "%%mark%%"


def deadline() -> Deadline:
    return Deadline(30, "baseline")


LOGGED = """#!/bin/sh
echo "disk: read error"
for second in $(seq 400); do echo "watchdog[$second]: tick at 0x${second}ff"; done
"""


@pytest.fixture
def chatty(tmp_path: Path) -> Path:
    """A folder with a journal in which one thing is said very often, after another one."""
    journalctl = tmp_path / "journalctl"
    journalctl.write_text(LOGGED)
    journalctl.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize("awk", ["mawk", "gawk", "busybox"])
def test_what_is_said_every_second_does_not_hide_the_rest(awk: str, chatty: Path) -> None:
    found = shutil.which(awk)
    assert found
    (chatty / "awk").symlink_to(found)
    shell = LocalShell(("sh",), env={"PATH": f"{chatty}:{os.environ['PATH']}"})
    seen = observe(shell, deadline())
    assert seen.journal_errors == ("disk: read error", "watchdog[1]: tick at 0x1ff")


def test_without_awk_there_are_the_last_lines(chatty: Path) -> None:
    for name in ("sh", "cat", "uname", "head", "tail", "sed", "grep", "sort", "df", "seq"):
        (chatty / name).symlink_to(shutil.which(name) or "")
    # The script adds the usual folders to PATH: here they must not bring the tools back.
    shell = LocalShell(("sh",), env={"PATH": str(chatty)})
    text = SCRIPT.read_text().replace(":/usr/local/sbin:/usr/sbin:/sbin", "")
    seen = parse(shell.run(text, deadline(), args=(MARK, "all")).stdout, MARK)
    # Without dmesg these are the kernel's lines, and the journal's have nothing more.
    assert len(seen.kernel_errors) == 200
    assert seen.kernel_errors[-1] == "watchdog[400]: tick at 0x400ff"


@pytest.mark.parametrize("interpreter", SHELLS, ids=lambda argv: argv[0])
@pytest.mark.parametrize("has_ucf", [True, False])
def test_files_that_only_ucf_knows(
    interpreter: tuple[str, ...], has_ucf: bool, tmp_path: Path
) -> None:
    database = tmp_path / "var/lib/dpkg"
    (database / "info").mkdir(parents=True)
    listed, other = tmp_path / "listed", tmp_path / "of ucf"
    listed.write_text("a")
    other.write_text("b")
    (database / "status").write_text(
        "Package: a\nStatus: install ok installed\nMaintainer: a <a@example.org>\nVersion: 1\n"
        f"Architecture: all\nDescription: a\nConffiles:\n {listed} {'0' * 32}\n"
    )
    if has_ucf:
        (tmp_path / "var/lib/ucf").mkdir()
        (tmp_path / "var/lib/ucf/hashfile").write_text(f"{'f' * 32}  {other}\n")
    shell = LocalShell(interpreter, env={"DPKG_ROOT": str(tmp_path)})
    assert observe(shell, deadline()).conffiles == {
        str(path): hashlib.md5(path.read_bytes()).hexdigest()
        for path in ([listed, other] if has_ucf else [listed])
    }


STALE = [
    ("7f00-7f01 r-xp 00001000 fe:01 7393       /usr/lib/libssl.so.3 (deleted)", True),
    ("7f00-7f01 r-xp 00001000 08:01 7393       /usr/lib/libssl.so.3 (deleted)", True),
    ("7f00-7f01 r-xp 00001000 103:02 7393      /lib/x86_64-linux-gnu/libc.so.6 (deleted)", True),
    ("7f00-7f01 r-xp 00001000 00:1f 7393       /usr/sbin/nginx (deleted)", True),  # btrfs, zfs
    ("7f00-7f01 r-xp 00001000 00:10 7393       /opt/shop/shop (deleted)", True),
    ("7f00-7f01 r-xp 00001000 00:02 7393       /usr/lib/systemd/systemd-udevd (deleted)", False),
    ("7f00-7f01 r-xp 00001000 00:01 7393       /usr/bin/udevadm (deleted)", False),
    ("7f00-7f01 rw-s 00000000 00:01 1026       /dev/zero (deleted)", False),
    ("7f00-7f01 r--p 00001000 fe:01 7393       /usr/lib/libssl.so.3 (deleted)", False),
    ("7f00-7f01 r-xp 00001000 fe:01 7393       /usr/lib/libssl.so.3", False),
    ("7f00-7f01 r-xp 00001000 fe:01 7393       /tmp/usr/lib/own.so (deleted)", False),
]


@pytest.mark.parametrize("script", ["observe/observe.sh", "preflight/preflight.sh"])
@pytest.mark.parametrize("shell", SHELLS, ids=lambda words: words[0])
def test_what_is_left_of_an_initramfs_was_not_replaced(script: str, shell: tuple[str, ...]) -> None:
    text = (files("sandbox") / script).read_text().splitlines()
    pattern = [line for line in text if line.startswith(("DEVICE=", "STALE="))]
    assert len(pattern) == 2
    lines = "\n".join(line for line, _stale in STALE)
    command = "\n".join((*pattern, 'grep -E "$STALE"'))
    found = subprocess.run([*shell, "-c", command], input=lines, capture_output=True, text=True)
    assert found.stdout.splitlines() == [line for line, stale in STALE if stale]
