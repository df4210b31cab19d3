"""What an image's header names: files of its own folder, never the host's."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox.core.errors import RequestError
from sandbox.core.process import run
from sandbox.hosts.drivers.fake import FakeHypervisor
from sandbox.hosts.source import ImageSpec, Source, image_source, proofs, vitals
from tests.support.guests.small_disks import SIZE, disk, guest, make_image
from tests.support.waiting import soon

SECRET = "/etc/passwd"


def found(path: Path, format: str = "qcow2", bases: tuple[Path, ...] = ()) -> Source:
    return image_source(FakeHypervisor(), ImageSpec(((path, format),), bases=bases), soon())


def overlay(path: Path, base: object, format: str = "raw") -> Path:
    """As qemu-img would make it of a base that is not there."""
    argv = ["qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", format, "-b", str(base)]
    run([*argv, str(path), str(SIZE)], soon())
    return path


def vmdk(path: Path, extent: str) -> Path:
    path.write_text(
        "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\n"
        f'createType="monolithicFlat"\nRW 2 FLAT "{extent}" 0\n'
    )
    return path


def with_hosts_data_file(folder: Path) -> Path:
    """A qcow2 image whose data is the host's file, by way of a link for its maker alone."""
    path, name = folder / "a.qcow2", folder / "data"
    argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={name}", str(path)]
    run([*argv, str(SIZE)], soon())
    name.unlink()
    name.symlink_to(SECRET)
    return path


def link(folder: Path) -> Path:
    (folder / "base").symlink_to(SECRET)
    return overlay(folder / "a.qcow2", "base")


def second_storey(folder: Path) -> Path:
    overlay(folder / "base.qcow2", SECRET)
    return overlay(folder / "a.qcow2", folder / "base.qcow2", "qcow2")


def vmdk_beneath(folder: Path) -> Path:
    return overlay(folder / "a.qcow2", vmdk(folder / "base.vmdk", SECRET).name, "vmdk")


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: overlay(folder / "a.qcow2", SECRET),
        lambda folder: overlay(folder / "a.qcow2", "../" * 20 + SECRET[1:]),
        link,
        second_storey,
        vmdk_beneath,
        with_hosts_data_file,
    ],
)
def test_a_file_of_the_hosts_is_not_taken_into_a_clone(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    path = make(tmp_path)
    with pytest.raises(RequestError, match=f"takes a part of its content from {SECRET}") as caught:
        found(path)
    assert "qemu-img convert" in caught.value.hint


def test_an_extent_of_the_hosts_is_not_taken_into_a_clone(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=f"content from {SECRET}"):
        found(vmdk(tmp_path / "a.vmdk", SECRET), "vmdk")


@pytest.mark.parametrize(
    "base",
    [
        'json:{"driver":"raw","file":{"driver":"file","filename":"/etc/passwd"}}',
        "nbd://127.0.0.1:1/x",
        "file:/etc/passwd",
    ],
)
def test_what_is_no_plain_file_is_never_opened(tmp_path: Path, base: str) -> None:
    with pytest.raises(RequestError, match="which is no plain file"):
        found(overlay(tmp_path / "a.qcow2", base))


def test_a_device_is_no_base(tmp_path: Path) -> None:
    path = overlay(tmp_path / "a.qcow2", tmp_path / "pipe")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RequestError, match="pipe, which is no file"):
        found(path)


def test_an_image_that_stands_on_itself_is_rejected(tmp_path: Path) -> None:
    path = overlay(tmp_path / "a.qcow2", "a.qcow2", "qcow2")
    with pytest.raises(RequestError, match="stands on itself"):
        found(path)


def test_files_of_its_own_folder_are_part_of_an_image(tmp_path: Path) -> None:
    base = make_image(tmp_path / "base.qcow2")
    middle = overlay(tmp_path / "middle.qcow2", "base.qcow2", "qcow2")
    top = overlay(tmp_path / "a.qcow2", middle, "qcow2")
    assert found(top).disks[0].chain == (str(middle), str(base))
    flat = make_image(tmp_path / "flat", "raw")
    image = vmdk(tmp_path / "a.vmdk", flat.name)
    assert found(image, "vmdk").disks[0].chain == (str(flat),)
    assert found(make_image(tmp_path / "s.vmdk", "vmdk"), "vmdk").disks[0].chain == ()


def test_a_base_in_another_folder_has_to_be_stated(tmp_path: Path) -> None:
    (tmp_path / "bases").mkdir()
    (tmp_path / "images").mkdir()
    base = make_image(tmp_path / "bases" / "debian.qcow2")
    top = overlay(tmp_path / "images" / "a.qcow2", base, "qcow2")
    with pytest.raises(RequestError, match="takes a part") as caught:
        found(top)
    assert "bases: [FILE]" in caught.value.hint
    assert found(top, bases=(base,)).disks[0].chain == (str(base),)


def test_an_overlay_on_a_running_guests_disk_is_rejected(tmp_path: Path) -> None:
    """Its content changes under the clone."""
    base = make_image(tmp_path / "vda.qcow2")
    top = overlay(tmp_path / "a.qcow2", base, "qcow2")
    hypervisor = FakeHypervisor()
    domain = hypervisor.define(guest(disk("vda", f"file='{base}'")), running=True)
    spec = ImageSpec(((top, "qcow2"),))
    with pytest.raises(RequestError, match=r"vda\.qcow2 is a disk of the running guest 'web01'"):
        image_source(hypervisor, spec, soon())
    domain.state = "off"
    assert image_source(hypervisor, spec, soon()).kind == "image"


def test_a_write_to_any_of_its_files_is_noticed(tmp_path: Path) -> None:
    base = make_image(tmp_path / "base.qcow2")
    source = found(overlay(tmp_path / "a.qcow2", base, "qcow2"))
    before = vitals(FakeHypervisor(), source)
    assert [row[0] for row in before.files] == [str(tmp_path / "a.qcow2"), str(base)]
    base.touch()
    after = vitals(FakeHypervisor(), source)
    assert "disk files changed" in proofs(source, before, after)[1]
