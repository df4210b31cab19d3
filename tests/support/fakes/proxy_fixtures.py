"""Fixtures of the proxy tests: a package source on loopback, and a proxy that may reach it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.network.proxy.package_proxy import PackageProxy
from tests.support.machine.package_server import DEB, INDEX, Source, package_source


@pytest.fixture
def source() -> Iterator[Source]:
    with package_source() as running:
        running.objects = {DEB: b"package" * 50_000, INDEX: b"index", "/secret": b"secret"}
        yield running


@pytest.fixture
def proxy(source: Source, tmp_path: Path) -> Iterator[PackageProxy]:
    allowed = [f"{source.url}/debian/"]
    with PackageProxy([], tmp_path / "cache", operator_allowed=allowed, timeout=5) as running:
        yield running
