"""The package cache: whole objects or none, the longest unused removed first."""

from __future__ import annotations

import time
from pathlib import Path

from sandbox.network.proxy.cache import Cache
from tests.unit.test_proxy_cache import put


def test_the_longest_unused_goes_first(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "c", 10_000)
    for number in range(4):
        assert put(cache, f"http://mirror.example/{number}", b"x" * 2000)
        time.sleep(0.02)
    old = cache.open("http://mirror.example/0")  # used just now
    assert old
    time.sleep(0.02)
    assert put(cache, "http://mirror.example/4", b"x" * 2000)
    present = []
    for number in range(5):
        if entry := cache.open(f"http://mirror.example/{number}"):
            present.append(number)
            entry.close()
    assert present == [0, 2, 3, 4]
    assert old.body.read() == b"x" * 2000
    old.close()
