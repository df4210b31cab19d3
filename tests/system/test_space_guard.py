"""The guard that gives a clone up before a running source's writes fail."""

from __future__ import annotations

import itertools
import subprocess
import threading
import time
from pathlib import Path

from sandbox.clone.space_guard import SpaceGuard
from sandbox.hosts.volumes.danger import LEAST_FREE, disk_danger
from tests.support.waiting import wait_until
from tests.unit.test_space_guard import Alarm


def test_space_that_runs_out_later_is_noticed(tmp_path: Path) -> None:
    """On a real and small filesystem."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "sbtest", tmp_path], check=True)
    try:
        alarm = Alarm()
        with SpaceGuard(lambda: disk_danger(tmp_path, 4 << 20), alarm, interval=0.02):
            assert not alarm.rung.wait(0.3)
            (tmp_path / "scratch").write_bytes(bytes(5 << 20))
            assert alarm.rung.wait(5)
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_enough_space_is_no_alarm(tmp_path: Path) -> None:
    alarm, looks = Alarm(), itertools.count()

    def danger() -> str:
        next(looks)
        return disk_danger(tmp_path, free=lambda _path: LEAST_FREE)

    with SpaceGuard(danger, alarm, interval=0.01):
        wait_until(lambda: next(looks) > 10, "some looks")
    assert alarm.said == []


def test_too_little_is_one_alarm_with_the_figures(tmp_path: Path) -> None:
    alarm = Alarm()

    def danger() -> str:
        return disk_danger(tmp_path, free=lambda _path: 5 << 20)

    with SpaceGuard(danger, alarm, interval=0.01):
        wait_until(lambda: alarm.rung.is_set() and not _is_watching(), "the watch to end")
    assert len(alarm.said) == 1
    assert f"{tmp_path} has only 5 MiB free" in alarm.said[0]
    assert alarm.threads == {"space-guard"}


def test_leaving_ends_the_watch_at_once() -> None:
    started = time.monotonic()
    with SpaceGuard(lambda: "", Alarm(), interval=300):
        assert _is_watching()
    assert time.monotonic() - started < 250
    assert not _is_watching()


def _is_watching() -> bool:
    return "space-guard" in {thread.name for thread in threading.enumerate()}
