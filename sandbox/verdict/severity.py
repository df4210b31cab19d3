"""What of all differences matters, the worst first: one sentence each. Pure."""

from __future__ import annotations

import os.path
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from fnmatch import fnmatchcase

from sandbox.core.noise import is_lasting
from sandbox.core.records import Port, Record
from sandbox.verdict.diff import Differences
from sandbox.verdict.diff_kinds import (
    CertificateChange,
    Change,
    ConffileChange,
    Fate,
    is_open,
    mode_bits,
)

SHOWN = 10  # lines that a report shows; the rest is folded away
_APART = 3  # more of one kind share a line
_MEMORY_GROWTH, _MEMORY_LEAST = 1.25, 64 * 1024 * 1024
_BOOT_GROWTH, _BOOT_LEAST = 1.5, 3.0  # seconds: a boot of one is soon one of two
_FULL = 90  # percent
_EVERYWHERE = ("0.0.0.0", "::", "*")  # noqa: S104 - what others listen on
_NO_LOGIN = ("nologin", "false", "sync", "halt", "shutdown")
_POWERFUL = frozenset(
    ("root", "sudo", "wheel", "adm", "admin", "shadow", "disk", "docker", "lxd", "libvirt", "kvm")
)
_SECRETS = (
    "/etc/shadow*", "/etc/gshadow*", "/etc/sudoers", "/etc/sudoers.d/*", "/etc/ssh/ssh_host_*_key",
    "*/private", "*/private/*", "*.key", "*-key.pem", "*/privkey*.pem", "/etc/krb5.keytab",
)  # fmt: skip
_DRIVERS = (  # without one of these a disk or a network card may be gone
    "virtio*", "xen_blkfront", "xen_netfront", "nvme*", "ahci", "sd_mod", "dm_*", "raid*", "md_mod",
    "ext4", "xfs", "btrfs", "e1000*", "igb", "ixgbe", "mlx*", "bnx*", "tg3", "r8169", "vmxnet3",
    "hv_*", "bonding", "bridge", "8021q", "nf_tables", "ip_tables",
)  # fmt: skip


class DiffSeverity(StrEnum):
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


class GradedLine(Record):
    """One sentence; of many of a kind, ``items`` names each."""

    severity: DiffSeverity
    text: str
    items: tuple[str, ...] = ()


class _Fact(Record):
    """One difference: a sentence of its own, or one of ``many`` ("{} files are gone")."""

    severity: DiffSeverity
    text: str
    many: str
    name: str = ""


_ORDER = tuple(DiffSeverity)
HIGH, MEDIUM, LOW = _ORDER


def ranked(differences: Differences) -> tuple[GradedLine, ...]:
    """Every difference but upgraded and installed packages, which are a list of their own."""
    groups: dict[tuple[DiffSeverity, str], list[_Fact]] = {}
    for fact in _facts(differences):
        groups.setdefault((fact.severity, fact.many), []).append(fact)
    lines: list[GradedLine] = []
    for (severity, many), facts in groups.items():
        if len(facts) <= _APART:
            lines += [GradedLine(severity=severity, text=fact.text) for fact in facts]
            continue
        items = tuple(fact.name or fact.text for fact in facts)
        text = many.replace("{}", str(len(facts))).replace("{where}", _where(items))
        lines.append(GradedLine(severity=severity, text=text, items=items))
    return tuple(sorted(lines, key=lambda line: _ORDER.index(line.severity)))


def tally(lines: Sequence[GradedLine]) -> str:
    """ "1 high, 20 low"."""
    numbers = ((severity, sum(line.severity is severity for line in lines)) for severity in _ORDER)
    return ", ".join(f"{number} {severity.value}" for severity, number in numbers if number)


def _where(paths: Sequence[str]) -> str:
    """The folder that all have in common: " beneath /etc/ssl"."""
    if not all(path.startswith("/") for path in paths):
        return ""
    return f" beneath {os.path.commonpath(paths)}"


def _facts(d: Differences) -> Iterator[_Fact]:
    """In the order in which those of the same severity are told."""
    yield from _units(d)
    yield from _ports(d)
    yield from _packages(d)
    yield from _mounts(d)
    yield from _people(d)
    yield from (_mode(change) for change in d.modes)
    yield from (_certificate(change) for change in d.certificates)
    yield from (_conffile(change) for change in d.conffiles)
    yield from _kernel(d)
    yield from _resources(d)
    yield from _logs(d)
    if d.one_sided or d.unseen:
        when = "at all" if d.unseen else "both times"
        yield _one(LOW, "file modes, users, modules, settings and certificates are not compared: "
                   f"the guest did not tell them {when}")  # fmt: skip


def _one(severity: DiffSeverity, text: str) -> _Fact:
    return _Fact(severity=severity, text=text, many=text)


def _fact(severity: DiffSeverity, name: str, text: str, many: str) -> _Fact:
    return _Fact(severity=severity, name=name, text=f"{name} {text}", many=many)


def _units(d: Differences) -> Iterator[_Fact]:
    for name in d.failed_units:
        yield _fact(HIGH, name, "failed", "{} units failed")
    told = {*d.failed_units, *d.recovered_units}
    mounts = {mount.name for mount in d.mounts} - {""}
    for unit in d.units:
        if unit.name not in told and _mount_point(unit.name) not in mounts:
            yield _unit(unit)
    if d.state:
        severity = MEDIUM if d.state.after == "degraded" and not d.failed_units else LOW
        yield _one(severity, f"the system's state is {d.state.after}, before {d.state.before}")
    for name in d.disabled:
        yield _fact(MEDIUM, name, "is not enabled any more", "{} units are not enabled any more")
    for name in d.masked:
        yield _fact(MEDIUM, name, "is masked now", "{} units are masked now")
    for name in d.enabled:
        yield _fact(MEDIUM, name, "is enabled now", "{} units are enabled now")
    for name in d.recovered_units:
        yield _fact(LOW, name, "does not fail any more", "{} units do not fail any more")


def _mount_point(unit: str) -> str:
    r"""Of "srv-a\x2db.mount": /srv/a-b; "" of other units."""
    name = unit.removesuffix(".mount")
    if name == unit:
        return ""
    path = "/" + name.replace("-", "/").lstrip("/")
    return re.sub(r"\\x([0-9a-f]{2})", lambda code: chr(int(code[1], 16)), path)


def _unit(unit: Change) -> _Fact:
    before, after = unit.before or "absent", unit.after or "absent"
    text = f"is {after}, before {before}"
    if before.startswith("active") and not after.startswith("active"):
        if before == "active/running" and unit.name.endswith(".service"):
            return _fact(HIGH, unit.name, text, "{} services do not run any more")
        return _fact(MEDIUM, unit.name, text, "{} units are not active any more")
    return _fact(LOW, unit.name, text, "{} units are in another state")


def _ports(d: Differences) -> Iterator[_Fact]:
    for port in d.ports_closed:
        severity = HIGH if is_lasting(port) else LOW
        yield _fact(severity, _port(port), "is closed now", "{} ports are closed now")
    for port in d.ports_opened:
        if not is_lasting(port) or port.address.startswith("127.") or port.address == "::1":
            severity, where = LOW, ""
        elif port.address in _EVERYWHERE:
            severity, where = HIGH, ", on all addresses"
        else:
            severity, where = MEDIUM, ""
        yield _fact(severity, _port(port), f"is open now{where}", f"{{}} ports are open now{where}")
    for change in d.ports_taken:
        text = f"is {change.after}'s now, {change.before}'s before"
        yield _fact(HIGH, f"port {change.name}", text, "{} ports are another program's now")
    for change in d.listening:
        text = f"is {change.after or 'of no package'} now, before {change.before or 'of none'}"
        yield _fact(LOW, change.name, text, "{} listening programs are of another version")


def _port(port: Port) -> str:
    owner = f" ({port.process})" if port.process else ""
    return f"port {port.protocol} {port.address}:{port.port}{owner}"


def _packages(d: Differences) -> Iterator[_Fact]:
    for name in d.half_configured:
        yield _fact(HIGH, name, "is half-configured", "{} packages are half-configured")
    for package in d.removed:
        old = package.old or ""
        yield _fact(HIGH, package.name, f"{old} was removed", "{} packages were removed")


def _mounts(d: Differences) -> Iterator[_Fact]:
    for mount in d.mounts:
        if mount.after is None:
            yield _fact(HIGH, mount.name, f"is not mounted any more ({mount.before})",
                        "{} file systems are not mounted any more")  # fmt: skip
        elif mount.before is None:
            yield _fact(LOW, mount.name, f"is mounted now ({mount.after})",
                        "{} file systems are mounted now")  # fmt: skip
        else:
            yield _fact(MEDIUM, mount.name, f"is mounted as {mount.after}, before {mount.before}",
                        "{} file systems are mounted in another way")  # fmt: skip


def _people(d: Differences) -> Iterator[_Fact]:
    for user in d.users:
        yield _user(user)
    for group in d.groups:
        old, new = (_members(side) for side in (group.before, group.after))
        joined = sorted(new - old)
        if joined and group.name in _POWERFUL:
            text = f"has new members: {', '.join(joined)}"
            yield _fact(HIGH, f"group {group.name}", text, "{} groups with rights have new members")
        elif group.after is None:
            yield _fact(MEDIUM, f"group {group.name}", "is gone", "{} groups are gone")
        elif group.before is None:
            yield _fact(LOW, f"group {group.name}", "is new", "{} groups are new")
        else:
            yield _fact(LOW, f"group {group.name}", _group(group), "{} groups are different")


def _group(group: Change) -> str:
    old, new = (_members(side) for side in (group.before, group.after))
    numbers = [(side or "").partition(":")[0] for side in (group.after, group.before)]
    said = [f"has the number {numbers[0]}, before {numbers[1]}"] if numbers[0] != numbers[1] else []
    for members, words in ((new - old, "has new members"), (old - new, "has lost members")):
        said += [f"{words}: {', '.join(sorted(members))}"] if members else []
    return " and ".join(said) or "names its members in another way"


def _members(group: str | None) -> set[str]:
    return set(filter(None, (group or "").rpartition(":")[2].split(",")))


def _user(user: Change) -> _Fact:
    name = f"user {user.name}"
    if user.after is None:
        return _fact(MEDIUM, name, "is gone", "{} users are gone")
    root, login = _rights(user.after)
    was_root, could_login = _rights(user.before)
    change = "is new" if user.before is None else f"is {user.after}, before {user.before}"
    if root and not was_root:
        return _fact(HIGH, name, f"{change}: it has the rights of root (uid 0)",
                     "{} users have the rights of root now")  # fmt: skip
    if login and not could_login:
        shell = user.after.rpartition(":")[2]
        return _fact(HIGH, name, f"{change} and can log in ({shell})", "{} more users can log in")
    if user.before is None:
        return _fact(LOW, name, "is new, without a login", "{} users without a login are new")
    return _fact(MEDIUM, name, change, "{} users are different")


def _rights(user: str | None) -> tuple[bool, bool]:
    """Whether "uid:gid:shell" is root, and whether it can log in."""
    if user is None:
        return False, False
    uid, _, rest = user.partition(":")
    return uid == "0", rest.rpartition("/")[2] not in _NO_LOGIN


def _mode(mode: Change) -> _Fact:
    after = mode.after or ""
    if mode.before is None:
        text = f"is new ({after})"
        return _fact(HIGH, mode.name, text, "{} new files{where} give rights to any user")
    old, new = mode_bits(mode.before), mode_bits(after)
    owner = mode.before.partition(" ")[2] != after.partition(" ")[2]
    loosened = bool(new & ~old & 0o6077)
    text = f"is {after}, before {mode.before}"
    secret = any(fnmatchcase(mode.name, pattern) for pattern in _SECRETS)
    if (secret and (loosened or owner)) or (is_open(after) and not is_open(mode.before)):
        return _fact(HIGH, mode.name, text, "{} files{where} are open to others than before")
    if owner:
        return _fact(MEDIUM, mode.name, text, "{} files{where} have another owner")
    if loosened:
        return _fact(MEDIUM, mode.name, text, "{} files{where} are open to more than before")
    return _fact(LOW, mode.name, text, "{} files{where} have another mode")


def _certificate(change: CertificateChange) -> _Fact:
    name, many = f"certificate {change.path}", "{} certificates were replaced"
    if change.after is None:
        return _fact(HIGH, name, "is gone", "{} certificates are gone")
    until = f"valid until {_day(change.after.expires)}" if change.after.expires else "unreadable"
    about = f"{change.after.subject}, {until}" if change.after.subject else until
    if change.before is None:
        return _fact(LOW, name, f"is new ({about})", "{} certificates are new")
    sooner = 0 < change.after.expires < change.before.expires
    end = f", sooner than before: {_day(change.before.expires)}" if sooner else ""
    return _fact(HIGH, name, f"was replaced ({about}{end})", many)


def _day(moment: float) -> str:
    try:
        return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d")
    except (OverflowError, ValueError, OSError):
        return "at an unknown time"


_FILES = "{} configuration files{where}"
_FATES = {
    Fate.NEW: (LOW, "is new", f"{_FILES} are new"),
    Fate.GONE: (MEDIUM, "is gone", f"{_FILES} are gone"),
    Fate.UPDATED: (
        LOW,
        "was as its package ships it, and is the package's new one now",
        f"{_FILES} were as their packages ship them, and are the packages' new ones now",
    ),
    Fate.REPLACED: (
        MEDIUM,
        "was replaced by the package's: what was changed here is gone",
        f"{_FILES} were replaced by the packages': what was changed here is gone",
    ),
    Fate.KEPT: (
        MEDIUM,
        "was kept as it is here; the package's new version lies beside it",
        f"{_FILES} were kept as they are here; the packages' new versions lie beside them",
    ),
    Fate.BEHIND: (
        LOW,
        "is unchanged here, while its package ships another one now",
        f"{_FILES} are unchanged here, while their packages ship others now",
    ),
    Fate.AHEAD: (
        LOW,
        "is unchanged here, and is what its package ships now",
        f"{_FILES} are unchanged here, and are what their packages ship now",
    ),
    Fate.SCRIPT: (
        MEDIUM,
        "was changed by a script: it is neither as before nor as its package ships it",
        f"{_FILES} were changed by a script: neither as before nor as their packages ship them",
    ),
    Fate.CHANGED: (MEDIUM, "changed", f"{_FILES} changed"),
}


def _conffile(change: ConffileChange) -> _Fact:
    severity, text, many = _FATES[change.fate]
    text = f"configuration file {change.name} {text}"
    return _Fact(severity=severity, name=change.name, text=text, many=many)


def _kernel(d: Differences) -> Iterator[_Fact]:
    for name in d.modules_gone:
        driver = any(fnmatchcase(name, pattern) for pattern in _DRIVERS)
        yield _fact(MEDIUM if driver else LOW, f"kernel module {name}", "is not loaded any more",
                    "{} kernel modules are not loaded any more")  # fmt: skip
    for setting in d.settings:
        yield _fact(MEDIUM, setting.name, f"is {setting.after}, before {setting.before}",
                    "{} kernel settings (sysctl) changed")  # fmt: skip
    if d.kernel:
        yield _one(LOW, f"kernel {d.kernel.after} runs, before {d.kernel.before}")
    for name in d.kernels_installed:
        yield _fact(LOW, f"kernel {name}", "was installed", "{} kernels were installed")
    for name in d.kernels_removed:
        yield _fact(LOW, f"kernel {name}", "was removed", "{} kernels were removed")
    for name in d.modules_loaded:
        yield _fact(LOW, f"kernel module {name}", "is loaded now",
                    "{} more kernel modules are loaded")  # fmt: skip


def _resources(d: Differences) -> Iterator[_Fact]:
    before, after, control = d.memory_before, d.memory_after, d.memory_control
    least = max(before * _MEMORY_GROWTH, before + _MEMORY_LEAST)
    if before and after >= least and (not control or after >= control * _MEMORY_GROWTH):
        mib = [f"{size >> 20} MiB" for size in (after, before)]
        yield _one(MEDIUM, f"{mib[0]} of memory are in use, before {mib[1]}")
    old, new, other = d.boot_seconds_before, d.boot_seconds_after, d.boot_seconds_control
    slower = bool(old) and new >= max(old * _BOOT_GROWTH, old + _BOOT_LEAST)
    if slower and (not other or new >= other * _BOOT_GROWTH):
        yield _one(MEDIUM, f"the boot takes {new:.0f} s, before {old:.0f} s")
    for change in d.filesystems:
        full = change.percent_after >= _FULL > change.percent_before
        text = f"is {change.percent_after} % full, before {change.percent_before} %"
        mib = [f"{change.grown / 2**20:+.1f} MiB"]
        yield _fact(MEDIUM if full else LOW, f"filesystem {change.mount}", f"{text} ({mib[0]})",
                    "{} filesystems are used to another extent")  # fmt: skip
    if d.reboot_required:
        yield _one(MEDIUM, "the guest asks for a reboot")
    for name in d.stale_processes:
        yield _fact(MEDIUM, name, "still runs old libraries", "{} programs still run old libraries")


def _logs(d: Differences) -> Iterator[_Fact]:
    for line in d.kernel_errors:
        yield _Fact(severity=MEDIUM, name=line, text=f"new kernel error: {line}",
                    many="{} new kinds of kernel errors")  # fmt: skip
    for line in d.journal_errors:
        yield _Fact(severity=LOW, name=line, text=f"new log error: {line}",
                    many="{} new kinds of errors in the log")  # fmt: skip
