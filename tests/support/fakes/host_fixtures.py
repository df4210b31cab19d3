"""Fixtures of the tests that reach a host over ssh."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sandbox.hosts.transport import Host, LocalHost
from tests.support.fakes.host_way import Way, way_to
from tests.support.machine.sshd import Sshd, running_sshd


@pytest.fixture(scope="module")
def host_sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with running_sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture
def way(host_sshd: Sshd) -> Iterator[Way]:
    with way_to(host_sshd) as made:
        yield made


@pytest.fixture(params=["local", "remote"])
def machine(request: pytest.FixtureRequest, way: Way) -> Host:
    """Every implementation of Host."""
    return LocalHost() if request.param == "local" else way.host()
