"""The clone: exports, overlays, network and domain, every one undone in reverse on exit."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from lxml import etree

from sandbox.clone.guest import Entrance
from sandbox.clone.key_injection import inject_key
from sandbox.clone.reaper import DISK_WATCH, Reaped, domain_name, remove_run
from sandbox.clone.ssh import GuestLogin
from sandbox.core.deadline import Deadline
from sandbox.core.errors import RequestError
from sandbox.core.process import start
from sandbox.core.records import Dependency, SourceFacts
from sandbox.core.store import RunFolder
from sandbox.hosts.admission import Admission, admitted
from sandbox.hosts.drivers import Hypervisor, Mark
from sandbox.hosts.drivers.clone_xml import CloneDisk, CloneSpec, CloneXml, macs, memory_of
from sandbox.hosts.source import Source
from sandbox.hosts.volumes import MadeDisks
from sandbox.hosts.volumes.danger import LEAST_FREE
from sandbox.hosts.volumes.images import make_folder, require_space
from sandbox.hosts.volumes.storage import Storage, storage_of
from sandbox.network import egress, isolation, stand_ins

# What a rehearsal writes at most: downloads, a kernel, an initramfs, logs.
_NEEDED_SPACE = 1 << 30
_NVRAM = "nvram.fd"
CONTROL_CONSOLE = "control-console.log"


@dataclass(frozen=True)
class CloneOrder:
    """Everything that was decided about the clone."""

    source: Source
    mark: Mark
    login: GuestLogin
    inject: bool
    accelerated: bool
    memory: int | None = None
    keep_free: int = 0  # bytes of the host's memory that no clone may take
    control: bool = False  # whether it has a control, where there is room
    dependencies: tuple[Dependency, ...] = ()  # what is answered for


@dataclass(frozen=True)
class Clone:
    """A started clone."""

    entrance: Entrance
    facts: SourceFacts
    allocated: int  # bytes that its disks took when it was made
    controls: tuple[CloneDisk, ...] = ()  # the control's disks, from the same instant


class CloneLease:
    """The right to have a clone: it ends with the clone removed, unless it is kept.

    The way down is :func:`sandbox.clone.reaper.remove_run` alone, whatever had been made by then.
    """

    def __init__(self, hypervisor: Hypervisor, folder: RunFolder) -> None:
        self._hypervisor = hypervisor
        self._folder = folder
        self.reaped: Reaped | None = None
        self.kept = False

    def end(self, deadline: Deadline, *, keep: bool) -> None:
        """Remove the clone, or leave it up until `sandbox rm`. A host that cannot be reached for
        a while is waited for until the deadline."""
        if keep:
            self._folder.note(kept="yes")
            self.kept = True
        else:
            # If even this is interrupted, the record must not say that all is gone.
            self.reaped = Reaped(self._folder.id, (), ("the clean-up was interrupted",))
            self.reaped = remove_run(self._hypervisor, self._folder, deadline)


def create_clone(
    hypervisor: Hypervisor, order: CloneOrder, folder: RunFolder, deadline: Deadline
) -> Clone:
    """Make and start the clone of a source, under a :class:`CloneLease`."""
    require_space(folder.clone, _NEEDED_SPACE)
    with _admitted(hypervisor, order, folder.id, deadline) as admission:
        return _create(hypervisor, order, folder, admission, deadline)


def create_control(
    hypervisor: Hypervisor, order: CloneOrder, folder: RunFolder, clone: Clone, deadline: Deadline
) -> Entrance:
    """Start the control, from the disks that were made for it.

    Raises :class:`NoRoom` where the host has memory for one only.
    """
    make_folder(control_place(folder), 0o711)
    with _admitted(hypervisor, order, f"{folder.id} control", deadline) as admission:
        entrance, _derived = _start(
            hypervisor, order, folder, clone.controls, admission, deadline, control=True
        )
    return entrance


def control_place(folder: RunFolder) -> Path:
    """Where the control's files are."""
    return folder.clone / "control"


def remove_control(hypervisor: Hypervisor, folder: RunFolder) -> None:
    """End the control, whose memory and bridge are needed no more; what it has of disks goes with
    the run's."""
    hypervisor.destroy(domain_name(folder.id, control=True), folder.id)
    isolation.remove_control(hypervisor, folder.id)


def _admitted(hypervisor: Hypervisor, order: CloneOrder, who: str, deadline: Deadline) -> Admission:
    memory = memory_of(order.source.xml) if order.memory is None else order.memory
    return admitted(hypervisor, who, memory, order.keep_free, deadline)


def _create(
    hypervisor: Hypervisor,
    order: CloneOrder,
    folder: RunFolder,
    admission: Admission,
    deadline: Deadline,
) -> Clone:
    source = order.source
    storage = storage_of(hypervisor)
    if storage.local:
        _watch_disk(hypervisor, folder)
    made = storage.make(source, folder, order.mark, deadline, control=order.control)
    mutations = _inject(storage, order, made, folder, deadline)
    controls = storage.control_copies(made, control_place(folder)) if order.control else ()
    entrance, derived = _start(
        hypervisor, order, folder, made.disks, admission, deadline, control=False
    )
    facts = _facts(hypervisor, source, made, derived, mutations)
    answered = tuple(f"answered by a stand-in: {stand_ins.say(one)}" for one in order.dependencies)
    facts = facts.model_copy(update={"changed": (*facts.changed, *answered)})
    return Clone(entrance, facts, made.allocated, controls)


def _start(
    hypervisor: Hypervisor,
    order: CloneOrder,
    folder: RunFolder,
    disks: tuple[CloneDisk, ...],
    admission: Admission,
    deadline: Deadline,
    *,
    control: bool,
) -> tuple[Entrance, CloneXml]:
    """The bridge and the domain: of the clone, or of the control."""
    net = isolation.create(
        hypervisor, folder.id, order.mark, order.login.port, deadline, control=control
    )
    needed = order.dependencies
    egress.listen(hypervisor.host, net.bridge, folder, dependencies=needed, control=control)
    stand_ins.start_servers(hypervisor.host, needed, net.bridge, folder, deadline)
    name = domain_name(folder.id, control=control)
    console = folder.artifacts / (CONTROL_CONSOLE if control else "console.log")
    nvram = (control_place(folder) if control else folder.clone) / _NVRAM
    spec = CloneSpec(
        name=name,
        mark=order.mark,
        disks=disks,
        bridge=net.bridge,
        console_log=console,
        accelerated=order.accelerated,
        nvram=nvram,
        nvram_copied=_copy_nvram(order.source.xml, nvram),
        memory=order.memory,
    )
    derived = hypervisor.derive(order.source.xml, spec)
    if not control:
        (folder.artifacts / "clone.xml").write_text(derived.xml)
    admission.start(lambda: hypervisor.start(derived.xml, deadline))
    hypervisor.follow_console(name, console, folder)
    return Entrance(name, macs(derived.xml), net.bridge, net.name, console), derived


def _watch_disk(hypervisor: Hypervisor, folder: RunFolder) -> None:
    """Start a process that also watches while the clone is kept, or after we are killed."""
    # -P: a folder of the user's that happens to be called sandbox is not imported.
    argv = (sys.executable, "-P", "-m", DISK_WATCH, hypervisor.uri, f"{folder.clone}/")
    with (folder.clone / "disk-watch.log").open("wb") as log:
        watcher = start([*argv, str(LEAST_FREE)], log)
    folder.register(watcher.pid, "disk watch")


def _inject(
    storage: Storage,
    order: CloneOrder,
    made: MadeDisks,
    folder: RunFolder,
    deadline: Deadline,
) -> tuple[str, ...]:
    if order.inject and not storage.local:
        raise RequestError(
            "inject: true is not possible on that host: its clones' disks are not on this machine",
            "let the guest accept a key, and name user and key under login:",
        )
    return inject_key(order.login, made.disks[0].overlay, folder, deadline, order.inject)


def _copy_nvram(source_xml: str, own: Path) -> bool:
    """Copy the source's UEFI variables for the clone; false where it has none in a file."""
    nvram = etree.fromstring(source_xml.encode()).find("./os/nvram")
    path = ""
    if nvram is not None:
        source = nvram.find("./source")  # libvirt 8.5 and later can also write it this way
        path = (nvram.text or "").strip() if source is None else source.get("file", "")
    if not path or not Path(path).is_file():
        return False
    own.touch(mode=0o600)
    shutil.copyfile(path, own)
    return True


def _facts(
    hypervisor: Hypervisor,
    source: Source,
    made: MadeDisks,
    derived: CloneXml,
    mutations: tuple[str, ...],
) -> SourceFacts:
    return SourceFacts(
        name=source.name,
        kind=source.kind,
        host=hypervisor.uri.partition("?")[0],  # the connection's options are private
        disks=source.disks,
        method=made.method,
        consistency=made.consistency,
        paused_ms=made.paused_ms,
        warnings=made.warnings,
        dropped=derived.dropped,
        changed=derived.changed,
        mutations=mutations,
    )
