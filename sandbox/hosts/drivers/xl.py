"""Xen's own tool, which libvirt knows nothing of: domains that it started, and their files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from lxml import etree

from sandbox.core.deadline import Deadline
from sandbox.hosts.transport import Host

_DOM0 = 0
_NO_ADDRESS = "00:00:00:00:00:00"


@dataclass(frozen=True)
class XlDomain:
    """A running domain as ``xl list -l`` shows it."""

    name: str
    uuid: str
    type: str  # pv, pvh, hvm
    boot: str  # "pygrub", a kernel's path, or ""
    disks: tuple[tuple[str, str, str], ...]  # target, path, format


@runtime_checkable
class TakesXl(Protocol):
    """A hypervisor that can take over guests of xl's."""

    def from_xl(self, config: str) -> str:
        """The domain XML of an xl configuration; nothing is made."""

    def define(self, xml: str) -> None:
        """Make a guest known; it is not started."""


def domains(host: Host, deadline: Deadline) -> tuple[XlDomain, ...]:
    """All running domains of the host but its own; none where there is no xl."""
    return parse_list(host.run(["xl", "list", "-l"], deadline, check=False).stdout)


def parse_list(text: str) -> tuple[XlDomain, ...]:
    """What ``xl list -l`` printed; pure. A domain that is being made has no facts yet."""
    try:
        listed = json.loads(text)
    except ValueError:
        return ()
    entries = [_mapping(entry) for entry in listed] if isinstance(listed, list) else []
    return tuple(
        _domain(config)
        for entry in entries
        if entry.get("domid") != _DOM0 and (config := _mapping(entry.get("config")))
    )


def adopted(xml: str) -> str:
    """The domain XML that libvirt makes of xl's file, mended where it means less than xl did.

    A device becomes a disk that Xen serves itself (libvirt makes a file of it, served by QEMU);
    the address 00:00:… stands for none, which libvirt then chooses. Pure.
    """
    domain = etree.fromstring(xml.encode())
    for disk in domain.iterfind("./devices/disk[@type='file']"):
        source, driver = disk.find("./source"), disk.find("./driver")
        path = "" if source is None else source.get("file", "")
        if source is None or driver is None or not path.startswith("/dev/"):
            continue
        if driver.get("type", "raw") == "raw":
            disk.set("type", "block")
            driver.attrib.clear()
            driver.attrib.update({"name": "phy", "type": "raw"})
            source.attrib.clear()
            source.set("dev", path)
    for card in domain.iterfind("./devices/interface"):
        address = card.find("./mac")
        if address is not None and address.get("address") == _NO_ADDRESS:
            card.remove(address)
    etree.indent(domain)
    return etree.tostring(domain).decode()


def _domain(config: dict[str, Any]) -> XlDomain:
    common, build = _mapping(config.get("c_info")), _mapping(config.get("b_info"))
    kind = str(common.get("type", ""))
    own = _mapping(build.get(f"type.{kind}"))
    boot = next((str(p[k]) for p in (own, build) for k in ("kernel", "bootloader") if p.get(k)), "")
    disks = config.get("disks")
    found = [_mapping(disk) for disk in disks] if isinstance(disks, list) else []
    return XlDomain(
        str(common.get("name", "")),
        str(common.get("uuid", "")),
        kind,
        boot,
        tuple(
            (str(d.get("vdev", "")), str(d["pdev_path"]), str(d.get("format", "raw")))
            for d in found
            if d.get("pdev_path")
        ),
    )


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
