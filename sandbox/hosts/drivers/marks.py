"""Our mark in libvirt metadata: written at creation, read back before anything is removed."""

from __future__ import annotations

from lxml import etree

from sandbox.core.errors import HostError
from sandbox.hosts.drivers import Mark

NAMESPACE = "https://upgrade-sandbox.invalid/mark/1"
PREFIX = "sandbox"


def mark_element(mark: Mark) -> etree._Element:
    """The child of ``<metadata>`` that carries the mark."""
    element = etree.Element(f"{{{NAMESPACE}}}run", nsmap={PREFIX: NAMESPACE})
    element.set("id", mark.run)
    element.set("owner", mark.owner)
    element.set("deadline", str(mark.deadline))
    if mark.folder:
        element.set("folder", mark.folder)
    return element


def read_mark(xml: str) -> Mark | None:
    """The mark in a domain's or network's XML; None when it is not ours."""
    root = etree.fromstring(xml.encode())
    found = root.find(f"./metadata/{{{NAMESPACE}}}run")
    if found is None or not found.get("id"):
        return None
    deadline = found.get("deadline", "0")
    return Mark(
        run=found.get("id", ""),
        owner=found.get("owner", ""),
        deadline=int(deadline) if deadline.isdigit() else 0,
        folder=found.get("folder", ""),
    )


def require_mark(name: str, xml: str, run: str) -> None:
    """Raise :class:`HostError` unless a run made this: asked before anything is removed."""
    mark = read_mark(xml)
    if mark is None or mark.run != run:
        raise HostError(
            f"{name!r} does not carry the mark of run {run}: not removed",
            "this run did not make it; remove it by hand if you know that it is not needed",
        )
