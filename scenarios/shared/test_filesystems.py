"""There is room left on every filesystem, /boot included."""

from __future__ import annotations

from sandbox.checks import CheckSettings
from sandbox.checks.compare import fullness, real_filesystems
from sandbox.core.records import Filesystem, Observation


def test_has_room(each_filesystem: Filesystem, now: Observation, settings: CheckSettings) -> None:
    mount = each_filesystem.mount
    problem = fullness(real_filesystems(now).get(mount), mount, settings.filesystems_max_percent)
    assert not problem, problem
