"""Clones that go on from a saved boot instead of booting: half a second for half a minute.

For tests of what happens *inside* a guest. The driver is the real one but for its start: the first
clone of an image boots and is saved together with its disks as they are at that moment; that one
and every later clone of the same machine on the same image goes on from there, under its own name,
on its own overlay and bridge. Their boot id is one, and their clock stands where it was saved.
Tests whose subject is a boot, or the clone itself, use the real driver.

The file that libvirt saves to is a header, the domain's XML, a cookie and QEMU's own stream
(libvirt, src/qemu/qemu_saveimage.h). libvirt refuses to restore it under another name, so each
clone gets a file of its own with its own XML.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import libvirt
from lxml import etree

from sandbox.core.deadline import Deadline
from sandbox.demo.guest import Production, link_local
from sandbox.demo.image import ensure_key
from sandbox.hosts.drivers.clone_xml import macs
from sandbox.hosts.drivers.libvirt_qemu import LibvirtQemu

# magic, version, length of XML and cookie, was running, compression, offset of the cookie, unused
_HEADER = struct.Struct("=16s5I56x")
_BOOT_SECONDS = 300.0
_BACKUP_FOLDER = "/export/"  # in the clone's folder, of sandbox.hosts.drivers.libvirt_qemu
_UP = "systemctl is-system-running --wait; udevadm settle; sync"


class ResumingQemu(LibvirtQemu):
    """QEMU's driver, whose clones of ``image`` go on from a saved boot that is kept in ``saved``.

    Without an image, and for clones of a running source, it is the real driver.
    """

    saved: Path = Path(os.environ.get("TEST_SAVED_BOOTS", ""))
    image: str = os.environ.get("TEST_SAVED_IMAGE", "")

    def start(self, xml: str, deadline: Deadline) -> None:
        if not self.image or _of_a_running_source(xml):
            super().start(xml, deadline)
            return
        boot = SavedBoot(self.saved / _key(xml, self.image))
        with boot.locked():
            if not boot.memory.exists():
                # Of no run's time: another process may have waited here for its turn.
                super().start(xml, Deadline(_BOOT_SECONDS, "booting once"))
                boot.save(self._connection, xml)
        boot.resume(self._connection, xml)


@dataclass(frozen=True)
class SavedBoot:
    """A booted machine: its memory, and its disks' overlays of that moment."""

    folder: Path

    @property
    def memory(self) -> Path:
        return self.folder / "memory"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One boot of a machine at a time, whichever process needs it first."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def save(self, connection: libvirt.virConnect, xml: str) -> None:
        """Wait until the domain is up, and save it; it is gone afterwards."""
        _wait_until_up(xml)
        unfinished = self.folder / "unfinished"
        connection.lookupByName(_name(xml)).save(str(unfinished))
        for number, overlay in enumerate(_overlays(xml)):
            shutil.copyfile(overlay, self.folder / f"disk{number}")
        unfinished.rename(self.memory)

    def resume(self, connection: libvirt.virConnect, xml: str) -> None:
        """Start the domain of ``xml`` from here, on its own overlays."""
        for number, overlay in enumerate(_overlays(xml)):
            stat = overlay.stat()
            backing = _backing(overlay)
            shutil.copyfile(self.folder / f"disk{number}", overlay)
            os.chown(overlay, stat.st_uid, stat.st_gid)
            _qemu_img("rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", backing, overlay)
        own = self.folder / f"{_name(xml)}.memory"
        try:
            _copy_with_xml(self.memory, own, xml)
            connection.restore(str(own))
        finally:
            own.unlink(missing_ok=True)


def _copy_with_xml(saved: Path, own: Path, xml: str) -> None:
    with saved.open("rb") as source, own.open("wb") as target:
        magic, version, length, running, compressed, cookie = _HEADER.unpack(
            source.read(_HEADER.size)
        )
        assert magic.rstrip(b"\0") == b"LibvirtQemudSave", magic
        data = source.read(length)
        text = xml.encode() + b"\0"
        more = data[cookie:] if cookie else b""
        target.write(
            _HEADER.pack(
                *(magic, version, len(text) + len(more), running, compressed),
                len(text) if cookie else 0,
            )
        )
        target.write(text + more)
        shutil.copyfileobj(source, target, 1 << 22)


def _key(xml: str, image: str) -> str:
    """Equal for clones that are the same machine on the same image."""
    root = etree.fromstring(xml.encode())
    own = ("./name", "./uuid", "./metadata", "./devices//source", "./devices//log")
    for path in (*own, "./devices/interface/target"):
        for element in root.findall(path):
            parent = element.getparent()
            assert parent is not None
            parent.remove(element)
    told = b"\0".join((etree.tostring(root, method="c14n"), image.encode()))
    return hashlib.sha256(told).hexdigest()[:16]


def _wait_until_up(xml: str) -> None:
    deadline = Deadline(_BOOT_SECONDS, "waiting for a clone to be up")
    bridge = etree.fromstring(xml.encode()).find("./devices/interface/source")
    assert bridge is not None
    mac = macs(xml)[0]
    clone = Production(_name(xml), f"{link_local(mac)}%{bridge.get('bridge')}", mac, ensure_key())
    while subprocess.run(clone.ssh(_UP), capture_output=True, check=False).returncode == 255:
        deadline.sleep(0.5)


def _name(xml: str) -> str:
    return str(etree.fromstring(xml.encode()).findtext("./name"))


def _overlays(xml: str) -> list[Path]:
    sources = etree.fromstring(xml.encode()).iterfind(
        "./devices/disk[@device='disk']/source[@file]"
    )
    return [Path(str(source.get("file"))) for source in sources]


def _backing(overlay: Path) -> str:
    facts = json.loads(_qemu_img("info", "-U", "--output=json", "-f", "qcow2", overlay))
    return str(facts["backing-filename"])


def _of_a_running_source(xml: str) -> bool:
    """Its disks stand on the source's own export, and hold what it has written since its boot."""
    return any(_BACKUP_FOLDER in _backing(overlay) for overlay in _overlays(xml))


def _qemu_img(*arguments: object) -> str:
    argv = ["qemu-img", *map(str, arguments)]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout
