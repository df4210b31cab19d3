"""Xen's own tool, which libvirt knows nothing of: domains that it started, and their files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from sandbox.deadline import Deadline
from sandbox.host import Host

_DOM0 = 0


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
