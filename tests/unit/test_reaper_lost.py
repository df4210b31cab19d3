"""Runs whose whole state folder is gone: only what runs is left to tell of them."""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path

from sshd import wait_for
from test_reaper import clone_of, hypervisor, store

from sandbox.hypervisors.fake import FakeHypervisor
from sandbox.reaper import reap
from sandbox.settings import Settings
from sandbox.store import Store

__all__ = ["hypervisor", "store"]


def test_the_processes_of_a_lost_state_folder_are_ended_too(
    hypervisor: FakeHypervisor, store: Store, tmp_path: Path
) -> None:
    """They are known by the path that they work on, which lay beneath that other folder."""
    other = Store(Settings(state=tmp_path / "other")).create()
    clone_of(hypervisor, other)
    hypervisor.end_export("web01", other.clone)
    image, socket = tmp_path / "a.raw", other.clone / "a.sock"
    image.write_bytes(bytes(1 << 20))
    server = subprocess.Popen(
        ["qemu-nbd", "--read-only", "--persistent", "-f", "raw", "--socket", socket, image]
    )
    try:
        assert wait_for(socket.exists)
        shutil.rmtree(tmp_path / "other")
        (done,) = reap(hypervisor, store)
        assert done.run == other.id
        assert any("qemu-nbd" in removed for removed in done.removed)
        assert server.wait(10) == -signal.SIGKILL
    finally:
        server.kill()
        server.wait()
