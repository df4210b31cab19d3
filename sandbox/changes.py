"""The kinds of change that two observations can show, and how each is found. Pure."""

from __future__ import annotations

import re
from enum import StrEnum

from sandbox.records import Certificate, Filesystem, Observation, Record, Wide

# A sign that a filesystem grew for a reason: 1 % of its size, and never less than 1 MiB.
_FILESYSTEM_SHARE = 0.01
_FILESYSTEM_LEAST = 1024 * 1024


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
    that anybody may write, or that give rights."""
    return tuple(change for change in changes_of(before, after) if _is_told(change))


def setting_changes(before: dict[str, str], after: dict[str, str]) -> tuple[Change, ...]:
    """Another kernel has other keys: told of are those that both have."""
    changes = changes_of(before, after)
    return tuple(c for c in changes if c.before is not None and c.after is not None)


def _is_told(mode: Change) -> bool:
    if mode.after is None:
        return False
    if mode.before is not None:
        return True
    return mode.name.startswith("/etc/sudoers.d/") or is_open(mode.after)


def is_open(mode: str) -> bool:
    """Whether "666 root root" lets anybody write, without the sticky bit."""
    bits = mode_bits(mode)
    return bool(bits & 0o002) and not bits & 0o1000


def mode_bits(mode: str) -> int:
    """Of "640 root shadow"."""
    octal = mode.partition(" ")[0]
    return int(octal, 8) if re.fullmatch("[0-7]{1,5}", octal) else 0


def conffile_changes(
    before: Observation, after: Observation, old: Wide, new: Wide
) -> tuple[ConffileChange, ...]:
    """Those whose content is another one here, or as their package ships them."""
    changes = []
    for path in sorted({*before.conffiles, *after.conffiles}):
        here = before.conffiles.get(path), after.conffiles.get(path)
        shipped = old.shipped.get(path), new.shipped.get(path)
        if here[0] != here[1] or (None not in (*here, *shipped) and shipped[0] != shipped[1]):
            beside = any(f"{path}{end}" in new.modes for end in (".dpkg-dist", ".dpkg-new"))
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


# Packages of servers whose process has another name. What none is known of is not told.
_SERVERS = {
    "sshd": "openssh-server",
    "named": "bind9",
    "master": "postfix",
    "dovecot": "dovecot-core",
    "exim4": "exim4-daemon-light",
    "mariadbd": "mariadb-server",
    "mysqld": "mysql-server",
    "smbd": "samba",
    "chronyd": "chrony",
    "ntpd": "ntpsec",
    "dockerd": "docker.io",
    "slapd": "slapd",
    "cupsd": "cups-daemon",
    "systemd-resolve": "systemd-resolved",
}


def listening_changes(before: Observation, after: Observation) -> tuple[Change, ...]:
    """What listens as before, and whose package is of another version."""
    old = {split_package(key)[0]: package.version for key, package in before.packages.items()}
    new = {split_package(key)[0]: package.version for key, package in after.packages.items()}
    known = {(p.protocol, p.address, p.port) for p in before.ports}
    changes = {}
    for port in after.ports:
        package = _SERVERS.get(port.process, port.process)
        versions = old.get(package), new.get(package)
        if (port.protocol, port.address, port.port) in known and versions[0] != versions[1]:
            name = f"{port.process} on {port.protocol} {port.address}:{port.port}"
            changes[name] = Change(name=name, before=versions[0], after=versions[1])
    return tuple(changes[name] for name in sorted(changes))


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
        )
        for new in after
        if new.mount in old and _is_grown(old[new.mount], new)
    )
    return tuple(sorted(changes, key=lambda change: change.mount))


def _is_grown(old: Filesystem, new: Filesystem) -> bool:
    threshold = max(_FILESYSTEM_LEAST, _FILESYSTEM_SHARE * old.size)
    return abs(new.used - old.used) >= threshold
