"""What an upgrade changed in the guest: two observations, two check sessions, compared.

Pure: the same values always give the same differences. Nothing here judges; the verdict does.
"""

from __future__ import annotations

import re
from enum import StrEnum

from sandbox.noise import comes_and_goes
from sandbox.records import (
    CheckResult,
    CheckSession,
    Filesystem,
    Observation,
    Outcome,
    Package,
    PackageChange,
    Port,
    Record,
)

_ABSENT = ("config-files", "not-installed")
# What differs in the same log line from one boot to the next: times, process ids, addresses.
_VOLATILE = re.compile(r"0x[0-9a-fA-F]+|\b[0-9a-fA-F]{8,}\b|\d+")
# A sign that a filesystem grew for a reason: 1 % of its size, and never less than 1 MiB.
_FILESYSTEM_SHARE = 0.01
_FILESYSTEM_LEAST = 1024 * 1024


class Change(Record):
    """A named value that differs; ``None`` means that there was none."""

    name: str
    before: str | None = None
    after: str | None = None


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


class Differences(Record):
    """Everything that two observations of one guest do not share; empty means no difference."""

    packages: tuple[PackageChange, ...] = ()  # installed, removed and changed, by name
    half_configured: tuple[str, ...] = ()  # newly left half-way by the package manager
    units: tuple[Change, ...] = ()  # state transitions, appearing and vanishing units
    failed_units: tuple[str, ...] = ()  # failed after and not before
    recovered_units: tuple[str, ...] = ()  # failed before and not after
    ports_opened: tuple[Port, ...] = ()
    ports_closed: tuple[Port, ...] = ()
    conffiles: tuple[Change, ...] = ()  # checksums; path as the name
    kernel: Change | None = None  # the running kernel, when it is another one
    kernels_installed: tuple[str, ...] = ()
    kernels_removed: tuple[str, ...] = ()
    state: Change | None = None  # systemctl is-system-running
    boot_seconds_before: float = 0.0  # 0 when unknown
    boot_seconds_after: float = 0.0
    kernel_errors: tuple[str, ...] = ()  # kinds of lines not seen before
    journal_errors: tuple[str, ...] = ()
    filesystems: tuple[FilesystemChange, ...] = ()
    stale_processes: tuple[str, ...] = ()  # new ones only
    reboot_required: bool = False  # wanted after, and not before
    drift: int = 0  # how many were left out, since the twin has them, too

    @property
    def installed(self) -> tuple[PackageChange, ...]:
        return tuple(p for p in self.packages if p.old is None)

    @property
    def removed(self) -> tuple[PackageChange, ...]:
        return tuple(p for p in self.packages if p.new is None)

    @property
    def upgraded(self) -> tuple[PackageChange, ...]:
        """Packages whose version changed, downgrades included."""
        return tuple(p for p in self.packages if p.old is not None and p.new is not None)


class Effect(StrEnum):
    """What became of one check."""

    HOLDS = "holds"  # passed before and after
    BROKE = "broke"  # passed before, does not after: the upgrade's doing
    LOST = "lost"  # passed before, gave no answer after
    WAS_BROKEN = "was-broken"  # did not hold before: says nothing of the upgrade
    UNPROVEN = "unproven"  # fails after, and nobody knows whether it held before
    UNJUDGED = "unjudged"  # no answer before, no failure after


class CheckChange(Record):
    """One check's result before and after; ``None`` where it did not run."""

    name: str
    before: CheckResult | None = None
    after: CheckResult | None = None

    @property
    def held_before(self) -> bool:
        return self.before is not None and self.before.outcome is Outcome.PASSED

    @property
    def effect(self) -> Effect:
        if self.before is not None and _broken(self.before):
            return Effect.WAS_BROKEN
        if self.after is not None and _broken(self.after):
            return Effect.BROKE if self.held_before else Effect.UNPROVEN
        if not self.held_before:
            return Effect.UNJUDGED
        holds = self.after is not None and self.after.outcome is Outcome.PASSED
        return Effect.HOLDS if holds else Effect.LOST


def compare(before: Observation, after: Observation) -> Differences:
    """What ``after`` has that ``before`` had not, and the other way round."""
    failed = set(after.failed_units) - set(before.failed_units)
    recovered = set(before.failed_units) - set(after.failed_units)
    return Differences(
        packages=_package_changes(before.packages, after.packages),
        half_configured=_new(before.not_configured, after.not_configured),
        units=tuple(c for c in _changes(before.units, after.units) if not comes_and_goes(c.name)),
        failed_units=tuple(sorted(failed)),
        recovered_units=tuple(sorted(recovered)),
        ports_opened=_new_ports(before.ports, after.ports),
        ports_closed=_new_ports(after.ports, before.ports),
        conffiles=_changes(before.conffiles, after.conffiles),
        kernel=_change("kernel", before.kernel, after.kernel),
        kernels_installed=_new(before.kernels, after.kernels),
        kernels_removed=_new(after.kernels, before.kernels),
        state=_change("state", before.state, after.state),
        boot_seconds_before=before.boot_seconds,
        boot_seconds_after=after.boot_seconds,
        kernel_errors=_new_lines(before.kernel_errors, after.kernel_errors),
        journal_errors=_new_lines(before.journal_errors, after.journal_errors),
        filesystems=_filesystem_changes(before.filesystems, after.filesystems),
        stale_processes=_new(before.stale_processes, after.stale_processes),
        reboot_required=after.reboot_required and not before.reboot_required,
    )


def without_drift(found: Differences, drift: Differences) -> Differences:
    """What an upgrade changed: not what changed alike on a twin that was not upgraded."""
    logged = {_kind(line) for line in (*drift.kernel_errors, *drift.journal_errors)}
    left: dict[str, tuple[object, ...]] = {
        "units": _apart(found.units, drift.units),
        "failed_units": _apart(found.failed_units, drift.failed_units),
        "recovered_units": _apart(found.recovered_units, drift.recovered_units),
        "ports_opened": _apart(found.ports_opened, drift.ports_opened),
        "ports_closed": _apart(found.ports_closed, drift.ports_closed),
        "conffiles": _apart(found.conffiles, drift.conffiles),
        "stale_processes": _apart(found.stale_processes, drift.stale_processes),
        "kernel_errors": tuple(e for e in found.kernel_errors if _kind(e) not in logged),
        "journal_errors": tuple(e for e in found.journal_errors if _kind(e) not in logged),
    }
    gone = sum(len(getattr(found, name)) - len(items) for name, items in left.items())
    update: dict[str, object] = {**left, "drift": gone}
    if found.state is not None and found.state == drift.state:
        update |= {"state": None, "drift": gone + 1}
    return found.model_copy(update=update)


def _apart(items: tuple[Record, ...] | tuple[str, ...], others: object) -> tuple[object, ...]:
    assert isinstance(others, tuple)
    return tuple(item for item in items if item not in others)


def compare_checks(
    before: CheckSession | None, after: CheckSession | None
) -> tuple[CheckChange, ...]:
    """Every check seen in either session, in the order of the first, then of the second.

    A name that a session reports twice counts with its worst outcome.
    """
    old = _by_name(before)
    new = _by_name(after)
    return tuple(
        CheckChange(name=name, before=old.get(name), after=new.get(name))
        for name in dict.fromkeys([*old, *new])
    )


def split_package(key: str) -> tuple[str, str]:
    """Name and architecture of an observation's package key, ``name:arch`` or ``name``."""
    name, _, architecture = key.partition(":")
    return name, architecture


_WORST = (Outcome.PASSED, Outcome.SKIPPED, Outcome.FAILED, Outcome.ERROR)


def _by_name(session: CheckSession | None) -> dict[str, CheckResult]:
    found: dict[str, CheckResult] = {}
    for result in session.results if session else ():
        known = found.get(result.name)
        if known is None or _WORST.index(result.outcome) > _WORST.index(known.outcome):
            found[result.name] = result
    return found


def _broken(result: CheckResult) -> bool:
    return result.outcome in (Outcome.FAILED, Outcome.ERROR)


def _package_changes(
    before: dict[str, Package], after: dict[str, Package]
) -> tuple[PackageChange, ...]:
    changes = []
    for key in sorted({*before, *after}, key=split_package):
        old, new = _version(before.get(key)), _version(after.get(key))
        if old != new:
            name, architecture = split_package(key)
            changes.append(PackageChange(name=name, old=old, new=new, architecture=architecture))
    return tuple(changes)


def _version(package: Package | None) -> str | None:
    return None if package is None or package.status in _ABSENT else package.version


def _changes(before: dict[str, str], after: dict[str, str]) -> tuple[Change, ...]:
    return tuple(
        Change(name=name, before=before.get(name), after=after.get(name))
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    )


def _change(name: str, before: str, after: str) -> Change | None:
    return None if before == after else Change(name=name, before=before, after=after)


def _new(before: tuple[str, ...], after: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(item for item in dict.fromkeys(after) if item not in before)


def _new_ports(before: tuple[Port, ...], after: tuple[Port, ...]) -> tuple[Port, ...]:
    known = {(p.protocol, p.address, p.port) for p in before}
    fresh = {(p.protocol, p.address, p.port): p for p in after}
    return tuple(port for key, port in sorted(fresh.items()) if key not in known)


def _new_lines(before: tuple[str, ...], after: tuple[str, ...]) -> tuple[str, ...]:
    known = {_kind(line) for line in before}
    fresh: dict[str, str] = {}
    for line in after:
        kind = _kind(line)
        if kind not in known:
            fresh.setdefault(kind, line)
    return tuple(fresh.values())


def _kind(line: str) -> str:
    return " ".join(_VOLATILE.sub("#", line).split())


def _filesystem_changes(
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
