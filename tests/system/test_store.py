"""Runs on disk: what they are called, who may read them, who owns them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.core.errors import HostError
from sandbox.core.settings import Settings
from sandbox.core.store import (
    Store,
    is_alive,
    start_time,
)
from tests.support.waiting import holds_soon

OWNER = (
    "import time\nfrom sandbox.core.store import this_process\nprint(this_process(), flush=True)\n"
)


@pytest.fixture
def owner() -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Another process, and its mark."""
    child = subprocess.Popen(
        [sys.executable, "-c", f"{OWNER}time.sleep(60)"], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout
    yield child.stdout.readline().strip(), child
    child.kill()
    child.wait()
    child.stdout.close()


def test_a_full_disk_is_the_hosts_fault(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "sbtest", tmp_path], check=True)
    try:
        (tmp_path / "filler").write_bytes(bytes(60 << 10))
        with (tmp_path / "filler2").open("wb", buffering=0) as filler:
            while True:
                try:
                    filler.write(bytes(4096))
                except OSError:
                    break
        with pytest.raises(HostError, match="No space left"):
            Store(Settings(state=tmp_path / "s")).create()
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_a_killed_owner_is_dead_even_before_its_status_is_collected(
    owner: tuple[str, subprocess.Popen[str]],
) -> None:
    mark, child = owner
    assert is_alive(mark)
    os.kill(child.pid, signal.SIGKILL)
    assert holds_soon(lambda: not is_alive(mark)), "a zombie counts as alive"
    child.wait()
    assert not is_alive(mark)


def test_a_process_whose_name_looks_like_its_own_status(tmp_path: Path) -> None:
    """proc(5): the second field is the name, and may hold spaces and brackets."""
    program = tmp_path / "x) Z 1 ("
    program.symlink_to("/usr/bin/sleep")
    children = [subprocess.Popen([name, "60"]) for name in ("sleep", program, "sleep")]
    try:
        before, started, after = (int(start_time(child.pid)) for child in children)
        assert before <= started <= after
    finally:
        for child in children:
            child.kill()
            child.wait()
    assert [start_time(child.pid) for child in children] == ["", "", ""]
