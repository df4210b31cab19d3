"""The XML of a pull-mode backup: the source's disks at one instant, served over NBD."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lxml import etree


def backup_xml(domain_xml: str, targets: Sequence[str], socket: Path, folder: Path) -> str:
    """Export ``targets``, leave every other disk out; what the source overwrites meanwhile is
    kept in scratch files in ``folder`` (their growth is the source's writes, no more)."""
    root = etree.Element("domainbackup", mode="pull")
    etree.SubElement(root, "server", transport="unix", socket=str(socket))
    disks = etree.SubElement(root, "disks")
    domain = etree.fromstring(domain_xml.encode())
    for target in domain.iterfind("./devices/disk/target"):
        name = str(target.get("dev"))
        if name in targets:
            disk = etree.SubElement(
                disks, "disk", name=name, backup="yes", type="file", exportname=name
            )
            etree.SubElement(disk, "scratch", file=str(folder / f"{name}.scratch"))
        else:
            etree.SubElement(disks, "disk", name=name, backup="no")
    return etree.tostring(root, pretty_print=True).decode()


def backup_socket(xml: str) -> Path | None:
    """The NBD socket of a backup that is in progress."""
    server = etree.fromstring(xml.encode()).find("./server")
    path = None if server is None else server.get("socket")
    return Path(path) if path else None
