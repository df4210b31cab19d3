"""A state folder, a guest and the hypervisor in memory: enough for rehearsals that end early.

Exports, overlays, bridges, gates and the package proxy are real; only the domain is not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from lxml import etree

from sandbox.core.deadline import Deadline
from sandbox.core.process import run as run_program
from sandbox.core.progress import Silent
from sandbox.core.records import (
    PhaseTime,
    RunRecord,
)
from sandbox.core.settings import Settings, shipped_scenarios
from sandbox.core.store import RunFolder, Store
from sandbox.hosts.drivers.fake import FakeHypervisor
from sandbox.network import isolation
from sandbox.rehearsal.recipe import rehearse
from sandbox.scenario import Scenario, load_scenario

GUEST = "web01"
PNG = b"\x89PNG\r\n\x1a\nscreen"


class Bridged(FakeHypervisor):
    """Its networks are real bridges, so that gates can be put on them."""

    def create_network(self, xml: str) -> None:
        super().create_network(xml)
        bridge = etree.fromstring(xml.encode()).find("./bridge")
        assert bridge is not None
        _ip("link", "add", str(bridge.get("name")), "up", "type", "bridge")

    def destroy_network(self, name: str, run: str) -> bool:
        there = super().destroy_network(name, run)
        for made in (isolation.names(run), isolation.names(run, control=True)):
            if there and made.name == name:
                _ip("link", "del", made.bridge)
        return there


def _ip(*words: str) -> None:
    run_program(["ip", *words], Deadline(20, "ip"))


class Told(Silent):
    """Remembers what a front door would show."""

    def __init__(self) -> None:
        self.ended: list[PhaseTime] = []

    def phase_ended(self, time: PhaseTime) -> None:
        self.ended.append(time)


@dataclass
class Stage:
    settings: Settings
    hypervisor: Bridged = field(default_factory=Bridged)
    progress: Told = field(default_factory=Told)
    folders: list[RunFolder] = field(default_factory=list)

    @property
    def image(self) -> Path:
        return self.settings.state / "web01.qcow2"

    def scenario(self, text: str = f"source: {{guest: {GUEST}}}") -> Scenario:
        folder = self.settings.state / "scenario"
        folder.mkdir(exist_ok=True)
        (folder / "key").touch(mode=0o600)
        (folder / "scenario.yaml").write_text(
            f"{text}\nupgrade: {{what: all}}\nlogin: {{key: key}}\n"
            "deadlines: {boot: 1, clone: 20}\nmemory: 256MiB\n"
        )
        return load_scenario(folder, shared=shipped_scenarios() / "shared")

    def new_folder(self) -> RunFolder:
        self.folders.append(Store(self.settings).create())
        return self.folders[-1]

    def rehearse(self, text: str | None = None, *, keep: bool = False) -> RunRecord:
        scenario = self.scenario() if text is None else self.scenario(text)
        return rehearse(
            scenario,
            self.hypervisor,
            self.new_folder(),
            self.settings,
            self.progress,
            accelerated=False,
            keep=keep,
        )

    def stored(self) -> RunRecord:
        return Store(self.settings).load(self.folders[-1])

    def left(self) -> list[str]:
        """Whatever there still is of the runs."""
        found = [name for name, _mark in self.hypervisor.marked_domains()]
        found += [name for name, _mark in self.hypervisor.marked_networks()]
        found += [str(folder.clone) for folder in self.folders if folder.clone.exists()]
        tables = run_program(["nft", "list", "tables"], Deadline(20, "nft")).stdout
        for folder in self.folders:
            for control in (False, True):
                names = isolation.names(folder.id, control=control)
                found += [names.table] if names.table in tables else []
                found += [names.bridge] if Path(f"/sys/class/net/{names.bridge}").exists() else []
            found += commands_with(str(folder.clone))
        return found


def commands_with(text: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has ended
            continue
        if text in command:
            found.append(command)
    return found


def add_guest(stage: Stage, *, running: bool = False) -> None:
    run_program(
        ["qemu-img", "create", "-q", "-f", "qcow2", stage.image, "8M"], Deadline(20, "qemu-img")
    )
    stage.hypervisor.define(
        f"<domain type='kvm'><name>{GUEST}</name><uuid>1eaa1eaa-0001-4000-8000-000000000001</uuid>"
        "<memory unit='MiB'>512</memory><vcpu>1</vcpu><os><type>hvm</type></os><devices>"
        f"<disk type='file' device='disk'><driver name='qemu' type='qcow2'/>"
        f"<source file='{stage.image}'/><target dev='vda' bus='virtio'/></disk>"
        "<interface type='network'><mac address='52:54:00:00:00:01'/><source network='default'/>"
        "</interface></devices></domain>",
        running=running,
    )
