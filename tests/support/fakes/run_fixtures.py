"""A state folder with runs, the hypervisor beside it, and a record in the making."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest

from sandbox.core.deadline import Deadline
from sandbox.core.settings import Settings
from sandbox.hosts.drivers.libvirt_qemu import LibvirtQemu
from tests.support.fakes.run_world import World


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Commands that connect to a hypervisor get libvirt's test driver."""
    state = Path(tempfile.mkdtemp(prefix="sb-", dir="/tmp"))
    hypervisor = LibvirtQemu.connect("test:///default", Deadline(10, "connecting"))

    def driver_for(_uri: str, deadline: Deadline) -> LibvirtQemu:
        return LibvirtQemu.connect("test:///default", deadline)  # the same books, until closed

    monkeypatch.setattr("sandbox.hosts.drivers.driver_for", driver_for)
    monkeypatch.setattr("sandbox.doctor.host_checks.driver_for", driver_for)
    monkeypatch.setenv("SANDBOX_STATE", str(state / "state"))
    monkeypatch.setenv("SANDBOX_CACHE", str(state / "cache"))
    try:
        yield World(Settings(state=state / "state", cache=state / "cache"), hypervisor)
    finally:
        empty_the_books()
        hypervisor.close()
        shutil.rmtree(state)


def empty_the_books() -> None:
    """The test driver keeps them as long as any connection is open, and a busy machine may close
    one late: the next test's clones may have the same names."""
    books = libvirt.open("test:///default")
    for one in (*books.listAllDomains(), *books.listAllNetworks()):
        if one.name().startswith("sandbox-"):
            one.destroy()
    books.close()
