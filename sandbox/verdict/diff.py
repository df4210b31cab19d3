"""What an upgrade changed in the guest: two observations, two check sessions, compared.

Pure: the same values always give the same differences. Nothing here judges; the verdict does.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from sandbox.core.noise import comes_and_goes, normalised, tells_of_the_host
from sandbox.core.records import (
    CheckResult,
    CheckSession,
    Observation,
    Outcome,
    Package,
    PackageChange,
    Port,
    Record,
    Wide,
)
from sandbox.verdict.diff_kinds import (
    ABSENT,
    CertificateChange,
    Change,
    ConffileChange,
    FilesystemChange,
    certificate_changes,
    changes_of,
    conffile_changes,
    filesystem_changes,
    grew_alike,
    is_nearly,
    listening_changes,
    mode_changes,
    mount_changes,
    setting_changes,
    split_package,
    taken_ports,
)


class Differences(Record):
    """Everything that two observations of one guest do not share; empty means no difference."""

    packages: tuple[PackageChange, ...] = ()  # installed, removed and changed, by name
    half_configured: tuple[str, ...] = ()  # newly left half-way by the package manager
    units: tuple[Change, ...] = ()  # state transitions, appearing and vanishing units
    failed_units: tuple[str, ...] = ()  # failed after and not before
    recovered_units: tuple[str, ...] = ()  # failed before and not after
    ports_opened: tuple[Port, ...] = ()
    ports_closed: tuple[Port, ...] = ()
    ports_taken: tuple[Change, ...] = ()  # by another program; "tcp 0.0.0.0:80"
    conffiles: tuple[ConffileChange, ...] = ()  # checksums; path as the name
    enabled: tuple[str, ...] = ()  # units that the administrator's links start at boot
    disabled: tuple[str, ...] = ()
    masked: tuple[str, ...] = ()
    mounts: tuple[Change, ...] = ()  # type and options, by mount point
    listening: tuple[Change, ...] = ()  # versions of what listens; "nginx on tcp 0.0.0.0:80"
    modes: tuple[Change, ...] = ()  # "640 root shadow", of paths beneath /etc
    users: tuple[Change, ...] = ()  # "uid:gid:shell"
    groups: tuple[Change, ...] = ()  # "gid:member,member"
    modules_loaded: tuple[str, ...] = ()  # of the kernel
    modules_gone: tuple[str, ...] = ()
    settings: tuple[Change, ...] = ()  # sysctl
    certificates: tuple[CertificateChange, ...] = ()
    memory_before: int = 0  # bytes in use; 0 when unknown
    memory_after: int = 0
    memory_control: int = 0  # on the control, at the same time as after
    one_sided: bool = False  # modes, users and what else is wide was seen only once
    unseen: bool = False  # and not even once
    kernel: Change | None = None  # the running kernel, when it is another one
    kernels_installed: tuple[str, ...] = ()
    kernels_removed: tuple[str, ...] = ()
    state: Change | None = None  # systemctl is-system-running
    boot_seconds_before: float = 0.0  # 0 when unknown
    boot_seconds_after: float = 0.0
    boot_seconds_control: float = 0.0  # the control's last boot; 0 when there was none
    kernel_errors: tuple[str, ...] = ()  # kinds of lines not seen before
    journal_errors: tuple[str, ...] = ()
    filesystems: tuple[FilesystemChange, ...] = ()
    stale_processes: tuple[str, ...] = ()  # new ones only
    reboot_required: bool = False  # wanted after, and not before
    drift: int = 0  # how many were left out, since the control has them, too

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
    UNPROVEN = "unproven"  # fails after; whether it held before is not known
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
    old, new = before.wide, after.wide
    if old is None or new is None:
        old = new = Wide()
    return Differences(
        packages=_package_changes(before.packages, after.packages),
        half_configured=_new(before.not_configured, after.not_configured),
        units=tuple(c for c in changes_of(before.units, after.units) if not comes_and_goes(c.name)),
        failed_units=tuple(sorted({*after.failed_units} - {*before.failed_units})),
        recovered_units=tuple(sorted({*before.failed_units} - {*after.failed_units})),
        ports_opened=_new_ports(before.ports, after.ports),
        ports_closed=_new_ports(after.ports, before.ports),
        ports_taken=taken_ports(before.ports, after.ports),
        conffiles=conffile_changes(before, after, old, new),
        enabled=_new(before.enabled, after.enabled),
        disabled=_new(after.enabled, before.enabled),
        masked=_new(before.masked, after.masked),
        # Records of an older version do not know mounts.
        mounts=mount_changes(before.mounts, after.mounts) if before.mounts and after.mounts else (),
        listening=listening_changes(before, after),
        modes=mode_changes(old.modes, new.modes),
        users=changes_of(old.users, new.users),
        groups=changes_of(old.groups, new.groups),
        modules_loaded=_new(old.modules, new.modules),
        modules_gone=_new(new.modules, old.modules),
        settings=setting_changes(old.settings, new.settings),
        certificates=certificate_changes(old.certificates, new.certificates),
        memory_before=old.memory_used,
        memory_after=new.memory_used,
        one_sided=(before.wide is None) != (after.wide is None),
        unseen=before.wide is None and after.wide is None,
        kernel=_change("kernel", before.kernel, after.kernel),
        kernels_installed=_new(before.kernels, after.kernels),
        kernels_removed=_new(after.kernels, before.kernels),
        state=_change("state", before.state, after.state),
        boot_seconds_before=before.boot_seconds,
        boot_seconds_after=after.boot_seconds,
        kernel_errors=_new_lines(before.kernel_errors, after.kernel_errors),
        journal_errors=_new_lines(before.journal_errors, after.journal_errors),
        filesystems=filesystem_changes(before.filesystems, after.filesystems),
        stale_processes=_new(before.stale_processes, after.stale_processes),
        reboot_required=after.reboot_required and not before.reboot_required,
    )


# What the control may have, too: then it was not the upgrade.
_DRIFTING_NAMES = """
    units failed_units recovered_units ports_opened ports_closed ports_taken enabled disabled masked
    mounts listening modes users groups modules_loaded modules_gone certificates stale_processes
"""
_DRIFTING = tuple(_DRIFTING_NAMES.split())
# What came on the control and goes on the clone, or the other way round, comes and goes by itself.
_OTHER_WAY = {
    "failed_units": "recovered_units",
    "recovered_units": "failed_units",
    "ports_opened": "ports_closed",
    "ports_closed": "ports_opened",
    "modules_loaded": "modules_gone",
    "modules_gone": "modules_loaded",
}
_FLIPPING = ("units", "mounts")


def without_drift(
    found: Differences, drift: Differences, control: Sequence[Observation] = ()
) -> Differences:
    """What an upgrade changed: not what changed alike on the control, and no error of a kind that
    ``control``, all its observations, logged at any time."""
    lines = [*drift.kernel_errors, *drift.journal_errors]
    for seen in control:
        lines += [*seen.kernel_errors, *seen.journal_errors]
    logged = set(map(normalised, lines))
    contents = {(file.name, file.before, file.after) for file in drift.conffiles}
    left: dict[str, tuple[object, ...]] = {
        **{name: _apart(getattr(found, name), _drift(name, drift)) for name in _DRIFTING},
        # What its package ships is another matter on the control.
        "conffiles": tuple(
            file
            for file in found.conffiles
            if file.before == file.after or (file.name, file.before, file.after) not in contents
        ),
        "filesystems": tuple(
            each for each in found.filesystems if not grew_alike(each, drift.filesystems)
        ),
        "settings": tuple(each for each in found.settings if not _set_alike(each, drift.settings)),
        "kernel_errors": tuple(e for e in found.kernel_errors if normalised(e) not in logged),
        "journal_errors": tuple(e for e in found.journal_errors if normalised(e) not in logged),
    }
    gone = sum(len(getattr(found, name)) - len(items) for name, items in left.items())
    update: dict[str, object] = {
        **left,
        "drift": gone,
        "boot_seconds_control": drift.boot_seconds_after,
        "memory_control": drift.memory_after,
    }
    if found.state is not None and found.state == drift.state:
        update |= {"state": None, "drift": gone + 1}
    return found.model_copy(update=update)


def _drift(name: str, drift: Differences) -> tuple[object, ...]:
    """What of this kind is left out: seen on the control, either way round."""
    same: tuple[object, ...] = getattr(drift, name)
    if name in _OTHER_WAY:
        back: tuple[object, ...] = getattr(drift, _OTHER_WAY[name])
    elif name in _FLIPPING:
        changes: tuple[Change, ...] = getattr(drift, name)
        back = tuple(Change(name=c.name, before=c.after, after=c.before) for c in changes)
    else:
        back = ()
    return (*same, *back)


def _set_alike(setting: Change, drift: tuple[Change, ...]) -> bool:
    return any(
        setting.name == control.name
        and (setting == control or is_nearly(setting.name, setting.after, control.after))
        for control in drift
    )


def _apart(
    items: tuple[Record, ...] | tuple[str, ...], others: tuple[object, ...]
) -> tuple[object, ...]:
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
    return None if package is None or package.status in ABSENT else package.version


def _change(name: str, before: str, after: str) -> Change | None:
    return None if before == after else Change(name=name, before=before, after=after)


def _new(before: tuple[str, ...], after: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(item for item in dict.fromkeys(after) if item not in before)


def _new_ports(before: tuple[Port, ...], after: tuple[Port, ...]) -> tuple[Port, ...]:
    known = {(p.protocol, p.address, p.port) for p in before}
    fresh = {(p.protocol, p.address, p.port): p for p in after}
    return tuple(port for key, port in sorted(fresh.items()) if key not in known)


def _new_lines(before: tuple[str, ...], after: tuple[str, ...]) -> tuple[str, ...]:
    known = set(map(normalised, before))
    fresh: dict[str, str] = {}
    for line in after:
        kind = normalised(line)
        if kind not in known and not tells_of_the_host(line):
            fresh.setdefault(kind, line)
    return tuple(fresh.values())
