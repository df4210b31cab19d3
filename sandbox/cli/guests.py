"""`sandbox guests`: what there is to rehearse on every host, and what cannot be and why not."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace

import click
from lxml import etree

from sandbox.cli.listing import aligned
from sandbox.core.clean_text import one_line
from sandbox.core.deadline import Deadline
from sandbox.core.errors import CommandFailed, RequestError, SandboxError
from sandbox.core.records import Disk
from sandbox.core.settings import Settings
from sandbox.core.wording import size
from sandbox.hosts.capacity import disk_problem
from sandbox.hosts.drivers import Hypervisor, xl
from sandbox.hosts.drivers.xen_xml import boot_chain
from sandbox.hosts.inventory import KnownHost, connected, default_host, find_host, inventory
from sandbox.hosts.source import Source, guest_source, kernel_problem
from sandbox.hosts.transport import Host
from sandbox.hosts.volumes import lvm
from sandbox.hosts.volumes.storage import storage_of

UNREACHED = 4
LOOK_SECONDS = 300.0  # at one host
_AT_ONCE = 8  # hosts
_REFLINKS = ("xfs", "btrfs", "ocfs2", "bcachefs", "zfs")
_OURS = "sandbox-"  # clones, which libvirt may have ended since xl listed them
_COLOURS = {"yes": "green", "packages only": "yellow", "no": "red"}


@dataclass(frozen=True)
class DiskRow:
    """One disk, and what it lies in."""

    target: str
    path: str
    size: int  # bytes
    store: str  # "lvm-thin vg0/thin", "qcow2 on xfs"


@dataclass(frozen=True)
class GuestRow:
    """One guest of a host."""

    host: str
    name: str
    state: str
    type: str
    boot: str
    disks: tuple[DiskRow, ...]
    rehearsal: str  # "yes", "packages only" or "no"
    reason: str = ""
    hint: str = ""


@dataclass(frozen=True)
class _Stores:
    """What the disks of a Xen host lie in; of others nothing is asked."""

    volumes: lvm.Survey
    file_systems: dict[str, str]  # path -> "xfs"

    def of(self, disk: Disk) -> str:
        volume = self.volumes.by_path.get(disk.path)
        if volume is not None:
            pool = f"lvm-thin {volume.group}/{volume.pool}"
            return pool if volume.pool else f"lvm (thick) {volume.group}"
        system = self.file_systems.get(disk.path)
        return f"{disk.format} on {system}" if system else disk.format

    def problem(self, source: Source) -> str:
        """Why a running guest's disks cannot be copied in an instant; "" when they can."""
        for disk in source.disks if source.running else ():
            system = self.file_systems.get(disk.path, "")
            if system and system not in _REFLINKS:
                return f"it runs, and {disk.path} lies on {system}, which has no reflinks"
        return ""


def print_guests(settings: Settings, host: str | None, *, as_json: bool) -> int:
    """Print the guests of all hosts, or of one; 4 when a host could not be looked at."""
    if host is not None:
        hosts: Sequence[KnownHost] = (find_host(host, settings),)
    else:
        hosts = inventory(settings) or (default_host(settings),)
    unreached = 0
    rows: list[GuestRow] = []
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for known, found in zip(hosts, pool.map(_look, hosts), strict=True):
            if isinstance(found, SandboxError):
                unreached += 1
                _tell_unreached(known, found, as_json)
            else:
                rows += found
    if as_json:
        for row in rows:
            click.echo(json.dumps(asdict(row)))
    else:
        _print(rows, told=bool(unreached))
    return UNREACHED if unreached else 0


def _look(host: KnownHost) -> list[GuestRow] | SandboxError:
    try:
        with connected(host) as hypervisor:
            return guest_rows(hypervisor, host, Deadline(LOOK_SECONDS, f"looking at {host.name}"))
    except SandboxError as problem:
        return problem


def guest_rows(hypervisor: Hypervisor, host: KnownHost, deadline: Deadline) -> list[GuestRow]:
    """All guests of a host, those that only xl knows last."""
    others: tuple[xl.XlDomain, ...] = ()
    if isinstance(hypervisor, xl.TakesXl):
        others = xl.domains(hypervisor.host, deadline)  # before libvirt's: see _OURS
    rows, sources = [], {}
    names = hypervisor.guests()
    for name in names:
        try:
            row, source = _row(hypervisor, host, name, deadline)
        except RequestError:
            continue  # gone since it was listed
        if row.state == "off" and any(other.name == name for other in others):
            row = _refused(row, "it runs, started by xl: libvirt believes that it is off")
            row = replace(row, state="running (xl)", hint=f"xl shutdown {name}; virsh start {name}")
            source = None
        rows.append(row)
        if source is not None:
            sources[name] = source
    if not storage_of(hypervisor).local:
        stores = _stores(hypervisor.host, sources.values(), deadline)
        rows = [
            _with_stores(r, sources[r.name], stores, host) if r.name in sources else r for r in rows
        ]
    return [*rows, *(_foreign_row(o, host) for o in others if _is_foreign(o, names))]


def _row(
    hypervisor: Hypervisor, host: KnownHost, name: str, deadline: Deadline
) -> tuple[GuestRow, Source | None]:
    domain = hypervisor.lookup(name)
    state = hypervisor.state(name) if domain.running else "off"
    chain = boot_chain(domain.xml)
    row = GuestRow(host.name, name, state, chain.type, chain.loader, (), "yes")
    try:
        source = guest_source(hypervisor, name, deadline, kernel="")
    except RequestError as problem:
        return _refused(row, problem.message, problem.hint), None
    disks = tuple(DiskRow(d.target, d.path, d.size, d.format) for d in source.disks)
    row = replace(row, disks=disks)
    other_kernel = kernel_problem(hypervisor, domain, "a new kernel")
    if other_kernel is not None:
        said = other_kernel.message, other_kernel.hint
        row = replace(row, rehearsal="packages only", reason=said[0], hint=said[1])
    busy = storage_of(hypervisor).in_use(domain) if source.running else ""
    return (_refused(row, busy, "try again later") if busy else row), source


def _refused(row: GuestRow, reason: str, hint: str = "") -> GuestRow:
    return replace(row, rehearsal="no", reason=reason, hint=hint)


def _stores(host: Host, sources: Iterable[Source], deadline: Deadline) -> _Stores:
    """Two questions for all disks of the host."""
    disks = [disk for source in sources for disk in source.disks]
    files = list(dict.fromkeys(disk.path for disk in disks if disk.store == "file"))
    shown = ""
    if files:
        shown = host.run(["stat", "-f", "-c", "%T %n", "--", *files], deadline, check=False).stdout
    pairs = (line.split(" ", 1) for line in shown.splitlines() if " " in line)
    return _Stores(lvm.survey(host, deadline), {path: system for system, path in pairs})


def _with_stores(row: GuestRow, source: Source, stores: _Stores, host: KnownHost) -> GuestRow:
    found = (DiskRow(d.target, d.path, d.size, stores.of(d)) for d in source.disks)
    row = replace(row, disks=tuple(found))
    slow = stores.problem(source)
    if slow:
        return _refused(row, slow, "shut it down for its rehearsal, or move it to LVM thin or XFS")
    elsewhere = disk_problem(host.limits, source.disks, stores.volumes)
    return _refused(row, elsewhere, f"`store` of {host.name} in hosts.yaml") if elsewhere else row


def _is_foreign(domain: xl.XlDomain, known: Sequence[str]) -> bool:
    return domain.name not in known and not domain.name.startswith(_OURS)


def _foreign_row(domain: xl.XlDomain, host: KnownHost) -> GuestRow:
    disks = tuple(DiskRow(target, path, 0, format) for target, path, format in domain.disks)
    row = GuestRow(
        host.name, domain.name, "running (xl)", domain.type, domain.boot or "?", disks, "no"
    )
    return _refused(
        row,
        "started by xl: libvirt does not know it",
        f"sandbox guests --host {host.name} --import {domain.name}",
    )


def _tell_unreached(host: KnownHost, problem: SandboxError, as_json: bool) -> None:
    if as_json:
        said = {"host": host.name, "error": problem.message, "hint": problem.hint}
        click.echo(json.dumps(said))
    else:
        click.secho(f"{host.name}: {one_line(problem.message)}", fg="red", err=True)
        if problem.hint:
            click.echo(f"  {one_line(problem.hint)}", err=True)


def _print(rows: Sequence[GuestRow], *, told: bool) -> None:
    if not rows:
        click.echo("" if told else "no guests", nl=not told)
        return
    heads = ("HOST", "GUEST", "STATE", "TYPE", "BOOT", "DISKS", "REHEARSAL")
    lines = list(aligned([heads, *map(_cells, rows)]))
    click.echo(lines[0])
    for row, line in zip(rows, lines[1:], strict=True):
        start = line[: len(line) - len(row.rehearsal)]
        click.echo(start + click.style(row.rehearsal, fg=_COLOURS[row.rehearsal]))
        for words in filter(None, (row.reason, row.hint)):
            click.echo(f"    {one_line(words)}")


def _cells(row: GuestRow) -> tuple[str, ...]:
    disks = [f"{d.target} {d.store}" + (f" {size(d.size)}" if d.size else "") for d in row.disks]
    cells = (row.host, row.name, row.state, row.type, row.boot, ", ".join(disks) or "none")
    return (*map(one_line, cells), row.rehearsal)


def import_guest(
    settings: Settings, host: str | None, name: str, config: str | None, *, define: bool
) -> None:
    """Print the libvirt XML of a guest that has a file of xl's; with ``define`` make it known.

    Raises :class:`RequestError` where that would give libvirt a guest that xl runs: it would be
    taken for a stopped one, and its disks for clean.
    """
    known = find_host(host, settings)
    path = config or f"/etc/xen/{name}.cfg"
    deadline = Deadline(LOOK_SECONDS, f"importing {name}")
    with connected(known) as hypervisor:
        if not isinstance(hypervisor, xl.TakesXl):
            raise RequestError(f"{known.name} is no Xen host", "name one with --host")
        if name in hypervisor.guests():
            raise RequestError(f"libvirt on {known.name} knows {name!r} already", "sandbox guests")
        xml = xl.adopted(hypervisor.from_xl(_read(hypervisor.host, path, deadline)))
        found = etree.fromstring(xml.encode()).findtext("./name")
        if found != name:
            raise RequestError(f"{path} is of the guest {found!r}, not {name!r}", "give --config")
        runs = hypervisor.host.run(["xl", "domid", name], deadline, check=False).ok
        if define and runs:
            raise RequestError(
                f"{name!r} runs under xl: libvirt would take it for a stopped guest",
                f"shut it down first (xl shutdown {name}), define it, start it by libvirt",
            )
        if define:
            hypervisor.define(xml)
    click.echo(xml)
    chain = boot_chain(xml)
    kernel = "its own kernel" if chain.own_kernel else "not its own kernel: named packages only"
    click.echo(f"{chain.type}, booted by {chain.loader}: {kernel}", err=True)
    if define:
        click.echo(f"{name} is defined; start it on {known.name}:  virsh start {name}", err=True)
    else:
        click.echo(f"nothing was changed; --define makes {name} known to libvirt", err=True)
        if runs:
            click.echo(f"it runs under xl: shut it down before that: xl shutdown {name}", err=True)


def _read(host: Host, path: str, deadline: Deadline) -> str:
    try:
        return host.run(["cat", "--", path], deadline).stdout
    except CommandFailed as problem:
        raise RequestError(
            f"{path} cannot be read on {host.name}: {one_line(problem.tail)}",
            "give the guest's xl configuration there with --config PATH",
        ) from problem
