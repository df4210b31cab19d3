"""The kinds of change that two observations can show, and how each is found. Pure."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from enum import StrEnum
from fnmatch import fnmatchcase

from sandbox.core.noise import is_lasting
from sandbox.core.records import Certificate, Filesystem, Observation, Package, Port, Record, Wide

ABSENT = ("config-files", "not-installed")  # states of a package
# A sign that a filesystem grew for a reason: 1 % of its size, and never less than 1 MiB.
_FILESYSTEM_SHARE = 0.01
_FILESYSTEM_LEAST = 1024 * 1024
# Settings that a kernel computes from the memory that it finds: the next start computes them a bit
# differently. What an administrator sets differs by more.
_COMPUTED_NAMES = """
    fs.file-max fs.inotify.max_user_watches kernel.threads-max net.ipv4.tcp_max_orphans
    net.ipv4.tcp_max_syn_backlog net.ipv4.tcp_max_tw_buckets net.ipv4.tcp_mem net.ipv4.tcp_rmem
    net.ipv4.tcp_wmem net.ipv4.udp_mem net.netfilter.nf_conntrack_* vm.min_free_kbytes
"""
_COMPUTED = tuple(_COMPUTED_NAMES.split())
_COMPUTED_SHARE = 0.2
# So are the sizes of file systems in memory.
_MEMORY_SHARE = 0.01
_SIZE = re.compile(r"(size|nr_inodes)=([0-9]{1,20})([kmg]?)")


class Change(Record):
    """A named value that differs; ``None`` means that there was none."""

    name: str
    before: str | None = None
    after: str | None = None


class Fate(StrEnum):
    """What became of a configuration file: shipped before and after, here before and after."""

    NEW = "new"
    GONE = "gone"
    UPDATED = "updated"  # was as the package had shipped it, and is its new one
    REPLACED = "replaced"  # was this guest's own, and is the package's
    KEPT = "kept"  # as it is here; the package's new one lies beside it
    BEHIND = "behind"  # unchanged here, while the package ships another one
    AHEAD = "ahead"  # unchanged here, and what the package ships now
    SCRIPT = "script"  # neither as before nor as shipped
    CHANGED = "changed"  # it is not known what its package ships


class ConffileChange(Change):
    """A configuration file: its checksums, and what became of it."""

    fate: Fate = Fate.CHANGED


class CertificateChange(Record):
    """A server's certificate that is another one now; ``None``: there was none, or is none."""

    path: str
    before: Certificate | None = None
    after: Certificate | None = None


class FilesystemChange(Record):
    """Used bytes and the share that ``df`` shows, before and after."""

    mount: str
    used_before: int
    used_after: int
    percent_before: int
    percent_after: int
    size: int = 0

    @property
    def grown(self) -> int:
        """Bytes by which the used space grew; negative when it shrank."""
        return self.used_after - self.used_before


def split_package(key: str) -> tuple[str, str]:
    """Name and architecture of an observation's package key, ``name:arch`` or ``name``."""
    name, _, architecture = key.partition(":")
    return name, architecture


def changes_of(before: dict[str, str], after: dict[str, str]) -> tuple[Change, ...]:
    return tuple(
        Change(name=name, before=before.get(name), after=after.get(name))
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    )


def mode_changes(before: dict[str, str], after: dict[str, str]) -> tuple[Change, ...]:
    """Files come and go with their packages: told of are those that are still there, and new ones
    that all users may write, or that give rights."""
    return tuple(change for change in changes_of(before, after) if _is_told(change))


def setting_changes(before: dict[str, str], after: dict[str, str]) -> tuple[Change, ...]:
    """Another kernel has other keys: told of are those that both have."""
    return tuple(
        change
        for change in changes_of(before, after)
        if None not in (change.before, change.after)
        and not is_nearly(change.name, change.before, change.after)
    )


def is_nearly(setting: str, one: str | None, other: str | None) -> bool:
    """Whether a setting that a kernel computes has about the same value."""
    if not any(fnmatchcase(setting, pattern) for pattern in _COMPUTED):
        return False
    pairs = [(one or "").split(), (other or "").split()]
    return len(pairs[0]) == len(pairs[1]) and all(
        _is_close(old, new, _COMPUTED_SHARE) for old, new in zip(*pairs, strict=True)
    )


def mount_changes(before: dict[str, str], after: dict[str, str]) -> tuple[Change, ...]:
    """Type and options; not that the kernel found a bit more or less memory."""
    changes = changes_of(before, after)
    return tuple(c for c in changes if not (c.before and c.after and _is_as_large(c)))


def _is_as_large(mount: Change) -> bool:
    sides = [(side or "").split(",") for side in (mount.before, mount.after)]
    if not all(side[0].startswith("tmpfs ") for side in sides) or len(sides[0]) != len(sides[1]):
        return False
    return all(old == new or _is_near(old, new) for old, new in zip(*sides, strict=True))


def _is_near(old: str, new: str) -> bool:
    sizes = _SIZE.fullmatch(old), _SIZE.fullmatch(new)
    if not sizes[0] or not sizes[1] or sizes[0].group(1, 3) != sizes[1].group(1, 3):
        return False
    return _is_close(sizes[0][2], sizes[1][2], _MEMORY_SHARE)


def _is_close(one: str, other: str, share: float) -> bool:
    if one == other:
        return True
    if not all(re.fullmatch("[0-9]{1,20}", side) for side in (one, other)):
        return False
    numbers = sorted((int(one), int(other)))
    return numbers[1] - numbers[0] <= share * numbers[1]


def _is_told(mode: Change) -> bool:
    if mode.after is None:
        return False
    if mode.before is not None:
        return True
    return mode.name.startswith("/etc/sudoers.d/") or is_open(mode.after)


def is_open(mode: str) -> bool:
    """Whether "666 root root" lets all users write, without the sticky bit."""
    bits = mode_bits(mode)
    return bool(bits & 0o002) and not bits & 0o1000


def mode_bits(mode: str) -> int:
    """Of "640 root shadow"."""
    octal = mode.partition(" ")[0]
    return int(octal, 8) if re.fullmatch("[0-7]{1,5}", octal) else 0


# As dpkg names what it does not put in place, and as ucf does.
_BESIDE = (".dpkg-dist", ".dpkg-new", ".ucf-dist", ".ucf-new")


def conffile_changes(
    before: Observation, after: Observation, old: Wide, new: Wide
) -> tuple[ConffileChange, ...]:
    """Those whose content is another one here, or as their package ships them."""
    changes = []
    for path in sorted({*before.conffiles, *after.conffiles}):
        here = before.conffiles.get(path), after.conffiles.get(path)
        shipped = old.shipped.get(path), new.shipped.get(path)
        if here[0] != here[1] or (None not in (*here, *shipped) and shipped[0] != shipped[1]):
            beside = any(f"{path}{end}" in new.modes for end in _BESIDE)
            fate = _fate(here, shipped, beside=beside)
            changes.append(ConffileChange(name=path, before=here[0], after=here[1], fate=fate))
    return tuple(changes)


def _fate(
    here: tuple[str | None, str | None], shipped: tuple[str | None, str | None], *, beside: bool
) -> Fate:
    if here[0] in (None, "missing") and here[1] not in (None, "missing"):
        return Fate.NEW
    if here[1] in (None, "missing"):
        return Fate.GONE
    if here[0] == here[1]:
        if here[1] == shipped[1]:
            return Fate.AHEAD
        return Fate.KEPT if beside else Fate.BEHIND
    if None in shipped:
        return Fate.CHANGED
    if here[1] != shipped[1]:
        return Fate.SCRIPT
    return Fate.UPDATED if here[0] == shipped[0] else Fate.REPLACED


def certificate_changes(
    before: dict[str, Certificate], after: dict[str, Certificate]
) -> tuple[CertificateChange, ...]:
    return tuple(
        CertificateChange(path=path, before=before.get(path), after=after.get(path))
        for path in sorted({*before, *after})
        if before.get(path) != after.get(path)
    )


# Packages of servers whose process has another name; the first that is there counts. What none is
# known of is not told. Linux cuts a process's name at 15 characters.
_SERVERS = {
    "sshd": ("openssh-server",),
    "named": ("bind9",),
    "master": ("postfix",),
    "dovecot": ("dovecot-core",),
    "exim4": ("exim4-daemon-light", "exim4-daemon-heavy"),
    "mariadbd": ("mariadb-server", "mariadb-server-[0-9]*"),
    "mysqld": ("mysql-server", "mysql-server-[0-9]*", "mariadb-server", "mariadb-server-[0-9]*"),
    "postgres": ("postgresql-[0-9]", "postgresql-[0-9][0-9]", "postgresql-[0-9].[0-9]"),
    "smbd": ("samba",),
    "nmbd": ("samba",),
    "chronyd": ("chrony",),
    "ntpd": ("ntpsec", "ntp"),
    "dockerd": ("docker.io", "docker-ce"),
    "docker-proxy": ("docker.io", "docker-ce"),
    "rsyslogd": ("rsyslog",),
    "slapd": ("slapd",),
    "cupsd": ("cups-daemon",),
    "systemd-resolve": ("systemd-resolved", "systemd"),
    "systemd-network": ("systemd",),
    "systemd-timesyn": ("systemd-timesyncd", "systemd"),
    "rpc.mountd": ("nfs-kernel-server",),
    "rpc.statd": ("nfs-common",),
    "proftpd": ("proftpd-core", "proftpd-basic"),
    "pdns_server": ("pdns-server",),
    "krb5kdc": ("krb5-kdc",),
    "zabbix_agentd": ("zabbix-agent",),
}
_PHP = re.compile(r"php-fpm([0-9.]+)")
# Another name of the same program.
_RENAMED = {"mysqld": "mariadbd"}
_FOR_OTHERS = ("systemd", "init")  # they open sockets for the services that they start


def _program(process: str) -> str:
    """A process's name without its version and what it is doing: php-fpm8.2, "nginx: master"."""
    name = process.partition(":")[0].rstrip("0123456789.") or process
    return _RENAMED.get(name, name)


def taken_ports(before: Iterable[Port], after: Iterable[Port]) -> tuple[Change, ...]:
    """Ports on which another program listens now; where one side is unknown, nothing is told."""
    old, new = _listeners(before), _listeners(after)
    return tuple(
        Change(name=place, before=" and ".join(sorted(was)), after=" and ".join(sorted(new[place])))
        for place, was in sorted(old.items())
        if place in new and {*map(_program, was)} != {*map(_program, new[place])}
    )


def _listeners(ports: Iterable[Port]) -> dict[str, set[str]]:
    """Processes by "tcp 0.0.0.0:80"; without those of which one is unknown."""
    found: dict[str, set[str]] = defaultdict(set)
    for port in filter(is_lasting, ports):
        found[_place(port)].add(port.process)
    return {place: names for place, names in found.items() if not names & {"", *_FOR_OTHERS}}


def _place(port: Port) -> str:
    return f"{port.protocol} {port.address}:{port.port}"


def listening_changes(before: Observation, after: Observation) -> tuple[Change, ...]:
    """What listens as before, and whose package is of another version."""
    sides = [_installed(seen.packages) for seen in (before, after)]
    processes = {_place(port): port.process for port in before.ports}
    changes = {}
    for port in after.ports:
        process = processes.get(_place(port))
        if process is None or _program(process) != _program(port.process):
            continue
        old, new = _versions(process, sides[0]), _versions(port.process, sides[1])
        names = sorted(old.keys() & new.keys() or old.keys() | new.keys())
        told = [", ".join(side[n] for n in names if n in side) or None for side in (old, new)]
        if told[0] != told[1]:
            name = f"{port.process} on {_place(port)}"
            changes[name] = Change(name=name, before=told[0], after=told[1])
    return tuple(changes[name] for name in sorted(changes))


def _installed(packages: dict[str, Package]) -> dict[str, str]:
    """Versions by name."""
    present = {k: p for k, p in packages.items() if p.status not in ABSENT}
    return {split_package(key)[0]: package.version for key, package in present.items()}


def _versions(process: str, packages: dict[str, str]) -> dict[str, str]:
    """Of the package that a process is of; PostgreSQL's are there in several versions at once."""
    php = _PHP.fullmatch(process)
    if php or process not in _SERVERS:
        name = f"php{php[1]}-fpm" if php else process
        return {name: packages[name]} if name in packages else {}
    for pattern in _SERVERS[process]:
        found = {name: v for name, v in packages.items() if fnmatchcase(name, pattern)}
        if found:
            return found
    return {}


def filesystem_changes(
    before: tuple[Filesystem, ...], after: tuple[Filesystem, ...]
) -> tuple[FilesystemChange, ...]:
    old = {f.mount: f for f in before}
    changes = (
        FilesystemChange(
            mount=new.mount,
            used_before=old[new.mount].used,
            used_after=new.used,
            percent_before=old[new.mount].percent,
            percent_after=new.percent,
            size=new.size,
        )
        for new in after
        if new.mount in old and _is_grown(old[new.mount], new)
    )
    return tuple(sorted(changes, key=lambda change: change.mount))


def _is_grown(old: Filesystem, new: Filesystem) -> bool:
    return abs(new.used - old.used) >= _worth_telling(old.size)


def _worth_telling(size: int) -> float:
    return max(_FILESYSTEM_LEAST, _FILESYSTEM_SHARE * size)


def grew_alike(found: FilesystemChange, controls: Iterable[FilesystemChange]) -> bool:
    """Whether the control's grew, or shrank, as much or more."""
    sign = 1 if found.grown > 0 else -1
    return any(
        control.mount == found.mount
        and sign * (found.grown - control.grown) < _worth_telling(found.size)
        for control in controls
    )
