"""What is removed from a Xen host, and what never is, whatever the lists there say."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.core.errors import CommandFailed
from sandbox.hosts.drivers import Mark
from sandbox.hosts.transport import LocalHost
from sandbox.hosts.volumes import host_disks, lvm
from sandbox.hosts.volumes.host_disks import PLACE, HostDisks
from tests.support.fakes.lvm_world import MARK, RUN, Scripted, ours, row
from tests.support.fakes.xen_host import SHELLS
from tests.support.machine.processes import is_running
from tests.support.waiting import holds_soon, soon

OTHER = "20260102-030405-ffffff"


@dataclass(frozen=True)
class Place:
    """A host's file system: `host-clones` for our lists, `srv` with production's images."""

    root: Path

    @property
    def images(self) -> Path:
        return self.root / "srv"

    @property
    def lists(self) -> Path:
        return self.root / "host-clones" / RUN

    def begin(self, *images: Path, run: str = RUN) -> list[Path]:
        """The folders of a run for copies of the files in ``images``."""
        places = [image / PLACE / run for image in images]
        mark = replace(MARK, run=run)
        HostDisks(LocalHost())._make_folders([PurePosixPath(p) for p in places], mark, soon())
        for place in places:
            (place / "xvda.raw").write_bytes(b"copy")
        return places

    def remove(self, run: str = RUN) -> tuple[str, ...]:
        return host_disks.remove(LocalHost(), run, soon())


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    with tempfile.TemporaryDirectory(prefix="sbtest-") as root:
        made = Place(Path(root))
        made.images.mkdir()
        (made.images / "web01.raw").write_bytes(b"production")
        monkeypatch.setattr(host_disks, "FOLDER", PurePosixPath(root) / "host-clones")
        monkeypatch.setattr(lvm, "marked", lambda *_: ())  # the machine's own
        yield made


@pytest.fixture(params=SHELLS, autouse=True)
def shell(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `sh` is on the host."""
    found = shutil.which(request.param)
    words = f"{found} sh" if request.param == "busybox" else found
    (tmp_path / "sh").write_text(f'#!/bin/dash\nexec {words} "$@"\n')
    (tmp_path / "sh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


def contents(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


# -- what is removed --------------------------------------------------------------------------


def test_everything_of_a_run_is_removed_and_named_and_nothing_else(place: Place) -> None:
    other_disk = place.images / "a b's \\c"
    other_disk.mkdir()
    mine = place.begin(place.images, other_disk)
    theirs = place.begin(place.images, run=OTHER)
    removed = place.remove()
    assert removed == (*(f"folder {path}" for path in mine), f"folder {place.lists}")
    assert contents(place.images) == {
        "web01.raw",
        "a b's \\c",
        PLACE,
        f"{PLACE}/{OTHER}",
        f"{PLACE}/{OTHER}/xvda.raw",
    }
    assert place.remove() == (), "a second time there is nothing to do"
    assert place.remove(OTHER) == (f"folder {theirs[0]}", f"folder {place.lists.parent / OTHER}")
    assert contents(place.images) == {"web01.raw", "a b's \\c"}


def test_a_run_that_was_killed_while_it_made_its_folders(place: Place) -> None:
    (made,) = place.begin(place.images)
    shutil.rmtree(made)
    assert place.remove() == (f"folder {place.lists}",)
    place.lists.mkdir(parents=True)  # not even the list had been written
    assert place.remove() == (f"folder {place.lists}",)


def test_what_could_not_be_removed_is_tried_again(place: Place) -> None:
    """The list stays: it is all that anybody knows of the run's files."""
    first, second = place.begin(place.images, place.root)
    subprocess.run(["mount", "-t", "tmpfs", "sbtest", first], check=True)
    try:
        with pytest.raises(CommandFailed, match="busy"):
            place.remove()
        assert (place.lists / "places").exists()
        assert not second.exists(), "the others are removed all the same"
    finally:
        subprocess.run(["umount", first], check=True)
    assert place.remove() == (f"folder {first}", f"folder {place.lists}")


# -- what never is ----------------------------------------------------------------------------

TAMPERED = (
    "{images}",
    "{images}/",
    "{images}/web01.raw",
    "/",
    "",
    "..",
    ".",
    "relative/.upgrade-sandbox/{run}",
    "{images}/.upgrade-sandbox/",
    "{images}/.upgrade-sandbox/{run}/../../",
    "{images}/.upgrade-sandbox/{other}",
    "{images}/keep.upgrade-sandbox/{run}",
    "{images}/.upgrade-sandbox/{run}/more",
    "-rf {images}",
    "*",
    "$(rm -rf {images})",
)


@pytest.mark.parametrize("line", TAMPERED)
def test_a_list_that_was_tampered_with_removes_nothing_else(place: Place, line: str) -> None:
    (mine,) = place.begin(place.images)
    place.begin(place.images, run=OTHER)
    (mine.parent.parent / f"keep{PLACE}" / RUN).mkdir(parents=True)
    before = contents(place.images)
    text = line.format(images=place.images, run=RUN, other=OTHER)
    (place.lists / "places").write_text(f"{text}\n")
    assert place.remove() == (f"folder {place.lists}",)
    assert contents(place.images) == before


@settings(max_examples=30, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40))
def test_any_line_of_a_list_is_survived(line: str) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="sbtest-") as root,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(host_disks, "FOLDER", PurePosixPath(root) / "host-clones")
        patch.setattr(lvm, "marked", lambda *_: ())
        made = Place(Path(root))
        made.images.mkdir()
        (mine,) = made.begin(made.images)
        (made.lists / "places").write_text(f"{line}\n{mine}\n")
        assert made.remove() == (f"folder {mine}", f"folder {made.lists}")
        assert contents(Path(root)) == {"srv", "host-clones"}


def test_a_symbolic_link_is_not_followed_out(place: Place) -> None:
    production = place.root / "production"
    (production / RUN).mkdir(parents=True)
    (production / RUN / "disk.raw").write_bytes(b"production")
    (mine,) = place.begin(place.images)
    shutil.rmtree(mine)
    mine.symlink_to(production / RUN)  # the run's own folder leads away
    (place.root / PLACE).symlink_to(production)  # or the one above it does
    with (place.lists / "places").open("a") as file:
        file.write(f"{place.root / PLACE / RUN}\n")
    place.remove()
    assert (production / RUN / "disk.raw").read_bytes() == b"production"
    assert not mine.is_symlink()
    inner = place.begin(place.images)[0]
    (inner / "away").symlink_to(production)
    place.remove()
    assert (production / RUN / "disk.raw").exists()


def test_only_the_runs_own_servers_are_ended(place: Place, tmp_path: Path) -> None:
    """By their command line: no number in a file is believed."""
    place.begin(place.images)
    place.begin(place.images, run=OTHER)
    server, editor = tmp_path / "qemu-nbd", tmp_path / "editor"
    for program in (server, editor):
        program.symlink_to("/usr/bin/tail")
    files = [place.lists / "xvda.sock", place.lists.parent / OTHER / "xvda.sock"]
    for file in files:
        file.touch()
    started = [
        subprocess.Popen([program, "-f", file], stderr=subprocess.DEVNULL)
        for program, file in [(server, files[0]), (server, files[1]), (editor, files[0])]
    ]
    (place.lists / "xvda.pid").write_text(f"{started[1].pid}\n")
    try:
        assert holds_soon(lambda: all(is_running(child.pid) for child in started))
        place.remove()
        assert started[0].wait(10) < 0
        assert [child.poll() for child in started[1:]] == [None, None]
    finally:
        for child in started:
            child.kill()
            child.wait()


# -- whose it is ------------------------------------------------------------------------------


def test_folders_and_volumes_carry_the_same_mark(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.begin(place.images)
    volumes = Scripted([ours("sbabcdef-xvda"), row("web01-root")])
    monkeypatch.undo()
    monkeypatch.setattr(host_disks, "FOLDER", PurePosixPath(place.root) / "host-clones")
    found = lvm.marked(volumes, soon())
    monkeypatch.setattr(lvm, "marked", lambda *_: found)
    assert host_disks.marked(LocalHost(), soon()) == (
        ("/dev/vg0/sbabcdef-xvda", MARK),
        (str(place.lists), MARK),
    )


@pytest.mark.parametrize("text", ["", "{", "null", "[]", '{"run": "x"}', "3", '"x"', "\xff"])
def test_a_damaged_mark_hides_no_other(place: Place, text: str) -> None:
    place.begin(place.images, run=OTHER)
    place.lists.mkdir(parents=True)
    (place.lists / "mark.json").write_bytes(text.encode("latin-1"))
    found = host_disks.marked(LocalHost(), soon())
    assert found == ((str(place.lists.parent / OTHER), replace(MARK, run=OTHER)),)


def test_a_mark_says_all_of_its_run(place: Place) -> None:
    odd = Mark(RUN, "1:2:3:4", 1800000000, "/srv/a b/'x' \"y\" \\z\nä/clones")
    HostDisks(LocalHost())._make_folders([], odd, soon())
    assert host_disks.marked(LocalHost(), soon()) == ((str(place.lists), odd),)


def test_a_host_that_never_had_a_clone(place: Place) -> None:
    assert host_disks.marked(LocalHost(), soon()) == ()
    assert place.remove() == ()
