"""Runs on disk in every state, and the real driver over libvirt's own test hypervisor."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from click.testing import CliRunner, Result
from lxml import etree

from sandbox.clone.reaper import domain_name
from sandbox.core.deadline import Deadline
from sandbox.core.records import RunRecord
from sandbox.core.settings import Settings
from sandbox.core.store import RunFolder, Store
from sandbox.hosts.drivers import Mark
from sandbox.hosts.drivers.marks import mark_element
from sandbox.network import isolation
from tests.support.fakes.sample_records import write_artifacts
from tests.support.machine import forked
from workers.cli import main

if TYPE_CHECKING:
    from sandbox.hosts.drivers.libvirt_qemu import LibvirtQemu

DEAD = "999999999:1:00000000-0000-0000-0000-000000000000"  # an owner that cannot be alive
COMMAND = (sys.executable, "-c", "from workers.cli import main; main(prog_name='sandbox')")
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass
class World:
    """A state folder of its own, and a hypervisor that runs nothing but keeps all books."""

    settings: Settings
    hypervisor: LibvirtQemu

    @property
    def store(self) -> Store:
        return Store(self.settings)

    @property
    def environment(self) -> dict[str, str]:
        """For a `sandbox` of its own; no other variable of the product is inherited."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("SANDBOX_")}
        own = {"SANDBOX_STATE": self.settings.state, "SANDBOX_CACHE": self.settings.cache}
        return inherited | {name: str(path) for name, path in own.items()}

    def run(
        self, record: RunRecord | None = None, *, owner: str = DEAD, clone: bool = True
    ) -> RunFolder:
        """A run as it is while its owner works; ``record`` is written under the run's id."""
        folder = self.store.create()
        folder.note(owner=owner)
        if record is not None:
            folder.save(record.model_copy(update={"id": folder.id}))
            write_artifacts(folder.artifacts)
        if not clone:
            shutil.rmtree(folder.clone)
        return folder

    def start_clone(self, folder: RunFolder, owner: str = DEAD) -> None:
        """The domain and network that belong to a run."""
        mark = Mark(folder.id, owner, 0)
        names = isolation.names(folder.id)
        self.hypervisor.create_network(isolation.network_xml(names, mark, 7))
        root = etree.Element("domain", type="test")
        etree.SubElement(root, "name").text = domain_name(folder.id)
        etree.SubElement(root, "metadata").append(mark_element(mark))
        etree.SubElement(root, "memory").text = "65536"
        etree.SubElement(etree.SubElement(root, "os"), "type").text = "hvm"
        self.hypervisor.start(etree.tostring(root).decode(), Deadline(5, "start"))

    def clones(self) -> list[str]:
        marked = (*self.hypervisor.marked_domains(), *self.hypervisor.marked_networks())
        return [name for name, _mark in marked]

    def invoke(self, *arguments: str) -> Result:
        """The command in this process, output captured: not a terminal."""
        return CliRunner().invoke(main, arguments, env=self.environment)


def sandbox(*arguments: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """The real command in a process of its own, its output in files."""
    return forked.run(arguments, environment=environment, timeout=60)


def in_terminal(*arguments: str, environment: Mapping[str, str], columns: int = 100) -> str:
    """What the real command writes to a terminal."""
    terminal = {"TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": "50"}
    environment = {**environment, **terminal}
    for name in ("NO_COLOR", "FORCE_COLOR", "CI"):
        environment.pop(name, None)
    ours, theirs = pty.openpty()
    argv = [*COMMAND, *arguments]
    child = subprocess.Popen(argv, env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    said = b""
    end = time.monotonic() + 60
    try:
        while time.monotonic() < end and select.select([ours], [], [], 60)[0]:
            try:
                data = os.read(ours, 65536)
            except OSError:  # the other side has closed the terminal
                break
            if not data:
                break
            said += data
    finally:
        os.close(ours)
        child.kill()
        child.wait()
    return said.decode().replace("\r\n", "\n")
