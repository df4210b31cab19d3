"""Room beside production's image files: looked for before a clone is made, and while it lives."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.core.errors import HostError
from sandbox.core.records import Disk
from sandbox.hosts.transport import LocalHost
from sandbox.hosts.volumes import host_disks, host_space
from sandbox.hosts.volumes.host_disks import HostDisks
from sandbox.hosts.volumes.host_space import FileSystem, parse_df
from tests.support.fakes.lvm_world import MARK, RUN
from tests.support.waiting import soon

MIB = 1 << 20


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 16 MiB."""
    place = tmp_path / "a small one"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "sbtest", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (
            "/dev/mapper/vg0-images 4184064 1000000 3184064  24% /srv/images",
            FileSystem("/srv/images", 3184064 << 10),
        ),
        ("a b c  100 90 10 90% /mnt/with a space", FileSystem("/mnt/with a space", 10 << 10)),
        ("tmpfs 100 100 -5 105% /run", FileSystem("/run", 0)),
        ("none 0 0 0 - /proc", FileSystem("/proc", 0)),
    ],
)
def test_lines_of_df(line: str, found: FileSystem) -> None:
    assert parse_df(f"{line}\n{line}\n") == (found,)


@given(st.text(max_size=200))
def test_no_answer_is_too_odd(text: str) -> None:
    assert all(system.free >= 0 for system in parse_df(text))


def test_a_file_system_is_named_with_what_is_free_and_what_is_needed(small: Path) -> None:
    folders = [PurePosixPath(small), PurePosixPath(small)]
    host_space.require_room(LocalHost(), folders, 16 * MIB, soon())
    with pytest.raises(HostError, match=r"has 16 MiB free.*needs 17 MiB") as caught:
        host_space.require_room(LocalHost(), folders, 17 * MIB, soon())
    assert str(small) in caught.value.message
    assert "fail production's writes" in caught.value.message
    assert caught.value.hint


def test_a_clone_of_files_is_refused_before_anything_is_made(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_disks, "FOLDER", PurePosixPath(tmp_path / "host-clones"))
    image = small / "web01.raw"
    image.write_bytes(bytes(MIB))
    disk = Disk(target="xvda", format="raw", path=str(image), size=MIB, store="file")
    with pytest.raises(HostError, match="needs 1536 MiB"):
        HostDisks(LocalHost()).make("web01", True, [disk], MARK, soon())
    assert list(small.iterdir()) == [image]
    assert not (tmp_path / "host-clones").exists()


def test_a_living_clones_file_system_is_watched(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_disks, "FOLDER", PurePosixPath(tmp_path / "host-clones"))
    monkeypatch.setattr(host_space, "LEAST", 10 * MIB)

    def danger() -> str:
        return host_space.danger(LocalHost(), host_disks.places_of(RUN), soon())

    assert danger() == "", "a run without files has no list"
    place = PurePosixPath(small / host_disks.PLACE / RUN)
    HostDisks(LocalHost())._make_folders([place, place.with_name("gone")], MARK, soon())
    Path(place.with_name("gone")).rmdir()
    assert danger() == ""
    (small / "written").write_bytes(bytes(8 * MIB))
    assert f"{small} of the host has only 8 MiB free (limit 10 MiB)" in danger()
