"""Fixtures that several files share; what they make is in tests/support/fakes."""

from __future__ import annotations

from tests.support.fakes.apt_fixtures import debian, rehearsal, updates
from tests.support.fakes.guest_fixtures import (
    closed_guest,
    commands,
    found,
    guest,
    hypervisor,
    sshd,
)
from tests.support.fakes.host_fixtures import host_sshd, machine, way
from tests.support.fakes.preflight_fixtures import open_world
from tests.support.fakes.proxy_fixtures import proxy, source
from tests.support.fakes.record_fixtures import alive, running
from tests.support.fakes.run_fixtures import world
from tests.support.fakes.stage_fixtures import stage

__all__ = [
    "alive",
    "closed_guest",
    "commands",
    "debian",
    "found",
    "guest",
    "host_sshd",
    "hypervisor",
    "machine",
    "open_world",
    "proxy",
    "rehearsal",
    "running",
    "source",
    "sshd",
    "stage",
    "updates",
    "way",
    "world",
]
