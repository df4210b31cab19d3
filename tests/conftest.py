"""Shared by all tests."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A guest that emulation itself brings down (a timer lost on a busy host, a panic at boot)
    gets one more try; the report shows each. Nothing else is ever run twice."""
    for item in items:
        if item.get_closest_marker("vm") is not None:
            item.add_marker(pytest.mark.flaky(reruns=1))
