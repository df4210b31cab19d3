"""The package cache: whole objects or none, the longest unused removed first."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox.core.errors import HostError
from sandbox.network.proxy.cache import Cache
from sandbox.network.proxy.package_proxy import PackageProxy

# --- the cache as such ----------------------------------------------------------------------


def put(cache: Cache, url: str, body: bytes) -> bool:
    part = cache.store(url, {"etag": '"x"'}, len(body))
    assert part is not None
    part.write(body)
    return part.commit()


def test_only_whole_objects_are_kept(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "c", 1_000_000)
    part = cache.store("http://mirror.example/a", {}, 10)
    assert part
    part.write(b"short")
    assert not part.commit()
    assert cache.open("http://mirror.example/a") is None
    assert cache.store("http://mirror.example/huge", {}, 2_000_000) is None
    assert [path for path in (tmp_path / "c").rglob("*") if path.is_file()] == []


def test_a_damaged_object_is_no_object(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "c", 1_000_000)
    assert put(cache, "http://mirror.example/a", b"whole")
    (stored,) = (tmp_path / "c").glob("??/*")
    for damage in (b"", b"[]\nwhole", b"{}\nwhole", b"\xff\n", stored.read_bytes()[:-1]):
        stored.write_bytes(damage)
        assert cache.open("http://mirror.example/a") is None


def test_a_cache_that_cannot_be_made() -> None:
    folder = Path("/proc/self/nothing-can-be-made-here")
    with pytest.raises(HostError, match="cache cannot be used"):
        PackageProxy([], folder).__enter__()


def test_a_part_that_cannot_be_written_is_dropped(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "c", 1_000_000)
    part = cache.store("http://mirror.example/a", {}, 300_000)
    assert part
    part._file.close()
    with Path("/dev/full").open("wb", buffering=0) as full:
        part._file = full
        part.write(b"x" * 300_000)
        assert not part.commit()
    assert list((tmp_path / "c").glob("part-*")) == []
