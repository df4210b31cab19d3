"""The output of observe.sh as an Observation. Pure.

A hostile guest can print anything: every value is checked or cleaned, sizes are limited, and
the only exception is ours, when not even boot id and kernel can be read.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cmp_to_key
from itertools import zip_longest

from sandbox.core.errors import GuestUnreachable
from sandbox.core.noise import is_a_containers
from sandbox.core.records import Filesystem, Observation, Package, Port, Start

MAX_LINES = 20_000  # per section
MAX_TEXT = 500  # characters of one value
MAX_MESSAGES = 200
_INSTANTS = ("ActiveExit", "InactiveExit", "ActiveEnter")
UNIT_TYPES = (".service", ".socket", ".timer", ".mount")
# Not a filesystem that an upgrade can fill: in memory, read-only by nature, or not the guest's.
_PSEUDO_NAMES = """
    autofs binfmt_misc bpf cgroup cgroup2 configfs cramfs debugfs devpts devtmpfs efivarfs
    erofs fusectl hugetlbfs iso9660 mqueue nsfs proc pstore ramfs rootfs rpc_pipefs securityfs
    selinuxfs squashfs sysfs tmpfs tracefs udf
    9p ceph cifs nfs nfs4 smb3 virtiofs
"""
PSEUDO = frozenset(_PSEUDO_NAMES.split())
# Of those, what an upgrade can lose; the rest is the kernel's, or comes and goes with a session.
_MOUNTED = frozenset(("tmpfs", "9p", "ceph", "cifs", "nfs", "nfs4", "smb3", "virtiofs"))
_RESTLESS_MOUNTS = ("/run/", "/dev/", "/sys/", "/proc/")

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0a-\x1f\x7f-\x9f\ud800-\udfff]")
_BOOT_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_RELEASE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+~_-]{0,99}")
_MD5 = re.compile(r"\\?([0-9a-f]{32}) [ *](/.*)")
_DF = re.compile(r".*?\s(\d+)\s+(\d+)\s+(-?\d+)\s+(?:(\d+)%|-)\s+(/.*)")
_TIMESTAMP = re.compile(r"\[ *\d+\.\d+\] ")
_PROCESS = re.compile(r'\("([^"]{1,64})"(?:,pid=([0-9]{1,10}))?')
_FIRST_PROCESS = 1  # it opens sockets for others

Sections = Mapping[str, Sequence[str]]


def parse(text: str, mark: str, *, own_port: int = 0) -> Observation:
    """An observation from what observe.sh printed with ``mark``.

    ``own_port``: a loopback port that we listen on in the guest, to be left out.
    """
    sections = split(text, mark)
    boot_id = _only(sections, "boot_id")
    kernel = _only(sections, "kernel")
    if not _BOOT_ID.fullmatch(boot_id) or not _RELEASE.fullmatch(kernel):
        raise GuestUnreachable(
            "the guest did not answer the observation's questions",
            f"it said: {_clean(text)[:200] or 'nothing'}",
        )
    kernels = kernels_of(sections.get("kernels", ()))
    manager = _properties(sections.get("manager", ()))
    target = _properties(sections.get("target", ()))
    units, failed = units_of(sections.get("units", ()))
    enabled, masked = links_of(_lines(sections, "links"))
    packages, held = packages_of([*sections.get("dpkg", ()), *sections.get("rpm", ())])
    kernel_errors = _messages(sections.get("kernel_log", ()))
    journal = _messages(sections.get("journal", ()))
    return Observation(
        boot_id=boot_id,
        kernel=kernel,
        kernels=kernels,
        uptime=_number(_only(sections, "uptime").partition(" ")[0]),
        boot_seconds=_number(manager.get("FinishTimestampMonotonic", "")) / 1e6,
        state=manager.get("SystemState") or "unknown",
        target=target.get("Id", ""),
        target_reached=target.get("ActiveState", "active") == "active",
        packages=packages,
        held=held,
        units=units,
        failed_units=failed,
        restarts=restarts_of(_lines(sections, "restarts")),
        starts=starts_of(_lines(sections, "restarts")),
        enabled=enabled,
        masked=masked,
        ports=ports_of(sections, own_port),
        conffiles=conffiles_of(sections),
        filesystems=filesystems_of(sections),
        mounts=mounts_of(sections.get("mounts", ())),
        kernel_errors=kernel_errors,
        journal_errors=tuple(line for line in journal if line not in set(kernel_errors)),
        reboot_required=_only(sections, "reboot_required") == "yes"
        or bool(kernels and kernels[-1] != kernel),
        stale_processes=tuple(sorted(set(_lines(sections, "stale")))),
    )


def split(text: str, mark: str, longest: int = 4 * MAX_TEXT) -> dict[str, list[str]]:
    """Section name -> its non-empty lines, cleaned and limited to ``longest`` characters each."""
    sections: dict[str, list[str]] = {}
    lines: list[str] = []
    for raw in text.split("\n"):
        if raw.startswith(mark + " "):
            lines = sections.setdefault(_clean(raw[len(mark) + 1 :]).strip(), [])
        elif raw.strip() and len(lines) < MAX_LINES:
            lines.append(_clean(raw, longest))
    return sections


# --- kernels --------------------------------------------------------------------------------


def kernels_of(names: Iterable[str]) -> tuple[str, ...]:
    """Releases of the files vmlinuz-* in /boot, newest last; rescue copies are no kernels."""
    releases = {name.partition("-")[2] for name in names}
    real = [
        release
        for release in releases
        if _RELEASE.fullmatch(release)
        and "rescue" not in release
        and not release.endswith((".old", ".bak", ".dpkg-new", ".dpkg-bak", ".dpkg-tmp"))
    ]
    return tuple(sorted(real, key=cmp_to_key(compare_versions)))


def compare_versions(left: str, right: str) -> int:
    """Negative, zero or positive, in dpkg's order: numbers by value, "~" before the end.

    A kernel's "-rc" counts as older than its release, as ``linux-version`` has it.
    """
    a, b = left.replace("-rc", "~rc"), right.replace("-rc", "~rc")
    for words, digits in zip_longest(_parts(a), _parts(b), fillvalue=("", 0)):
        (word_a, number_a), (word_b, number_b) = words, digits
        if word_a != word_b:
            return -1 if _word_key(word_a) < _word_key(word_b) else 1
        if number_a != number_b:
            return -1 if number_a < number_b else 1
    return 0 if left == right else (-1 if left < right else 1)


def _parts(version: str) -> list[tuple[str, int]]:
    """Pairs of a word and the number after it: "6.1-a" -> ("", 6), (".", 1), ("-a", 0)."""
    return [
        (word, int(number or "0"))
        for word, number in re.findall(r"([^0-9]*)([0-9]{0,40})", version)
        if word or number
    ]


def _word_key(word: str) -> list[int]:
    """dpkg: "~" sorts before the end of a word, that before letters, those before the rest."""
    keys = [-1 if c == "~" else ord(c) if c.isascii() and c.isalpha() else 256 + ord(c)
            for c in word]  # fmt: skip
    return [*keys, 0]


# --- units, packages, configuration files ----------------------------------------------------


def units_of(lines: Iterable[str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """``systemctl list-units``: unit -> "active/running", and the names of the failed ones."""
    units: dict[str, str] = {}
    failed: set[str] = set()
    for line in lines:
        words = line.replace("●", " ").split(None, 4)
        if len(words) < 4 or "." not in words[0] or words[1] == "not-found":
            continue
        name = words[0]
        if words[2] == "failed":
            failed.add(name)
        if name.endswith(UNIT_TYPES):
            units[name] = f"{words[2]}/{words[3]}"
    return units, tuple(sorted(failed))


def shown_units(lines: Iterable[str]) -> list[dict[str, str]]:
    """``systemctl show`` of several units: the next one begins where a key comes again."""
    found: list[dict[str, str]] = [{}]
    for line in lines:
        for key, value in _properties((line,)).items():
            if key in found[-1]:
                found.append({})
            found[-1][key] = value
    return found


def restarts_of(lines: Iterable[str]) -> dict[str, int]:
    """How often systemd by itself started a service again; only those where it did."""
    found = {}
    for values in shown_units(lines):
        name, times = values.get("Id", ""), values.get("NRestarts", "")
        if name.endswith(".service") and times.isdecimal() and int(times[:9]) > 0:
            found[name] = int(times[:9])
    return found


def starts_of(lines: Iterable[str]) -> dict[str, Start]:
    """When each service was started last."""
    found = {}
    for values in shown_units(lines):
        name = values.get("Id", "")
        instants = (_number(values.get(f"{key}TimestampMonotonic", "")) / 1e6 for key in _INSTANTS)
        stopped, began, ready = instants
        if name.endswith(".service") and ready:
            found[name] = Start(stopped=stopped, began=began, ready=ready)
    return found


def links_of(paths: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The links beneath /etc/systemd/system: names of enabled units, and of masked ones."""
    enabled: set[str] = set()
    masked: set[str] = set()
    for path in paths:
        folder, _, name = path.rpartition("/")
        if "." in name:
            wanted = folder.endswith((".wants", ".requires"))
            (enabled if wanted else masked).add(name)
    return tuple(sorted(enabled)), tuple(sorted(masked))


def packages_of(lines: Iterable[str]) -> tuple[dict[str, Package], tuple[str, ...]]:
    """Lines "name, architecture, version, status, wanted" (tabs) and the names on hold."""
    versions: dict[str, list[str]] = {}
    states: dict[str, str] = {}
    held: set[str] = set()
    for line in lines:
        fields = line.split("\t")
        if len(fields) != 5 or not fields[0]:
            continue
        key = f"{fields[0]}:{fields[1]}"
        versions.setdefault(key, []).append(fields[2])
        states[key] = fields[3]
        if fields[4] == "hold":
            held.add(fields[0])
    # rpm keeps several versions of a kernel under one name.
    packages = {
        key: Package(version=" ".join(sorted(found)), status=states[key])
        for key, found in versions.items()
    }
    return packages, tuple(sorted(held))


def conffiles_of(sections: Sections) -> dict[str, str]:
    """Path -> md5 of its present content, or "missing"."""
    found = dict.fromkeys(_lines(sections, "conffiles"), "missing")
    for line in sections.get("md5sums", ()):
        if (match := _MD5.fullmatch(line)) and match[2] in found:
            found[match[2]] = match[1]
    return {path: digest for path, digest in found.items() if path.startswith("/")}


# --- ports ----------------------------------------------------------------------------------


def ports_of(sections: Sections, own_port: int = 0) -> tuple[Port, ...]:
    """Listening sockets, from ss or from /proc/net, without our own forwarded port."""
    found = {port for line in sections.get("ss", ()) if (port := _ss_port(line))}
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in sections.get(f"net_{table}", ()):
            if port := _proc_port(table, line):
                found.add(port)
    others = [
        port
        for port in found
        if not (own_port and port.port == own_port and port.address in ("127.0.0.1", "::1"))
    ]
    return tuple(sorted(others, key=lambda p: (p.protocol, p.port, p.address, p.process)))


def _ss_port(line: str) -> Port | None:
    words = line.split(None, 6)
    if len(words) < 6 or words[0] not in ("tcp", "udp"):
        return None
    address, _, number = words[4].rpartition(":")
    if not number.isascii() or not number.isdigit() or not 0 < int(number[:6]) < 65536:
        return None
    address = address.partition("%")[0].strip("[]")
    return Port(
        protocol=words[0],
        address="::" if address == "*" else address,
        port=int(number),
        process=_owner(words[6]) if len(words) > 6 else "",
    )


def _owner(users: str) -> str:
    """Of all processes that hold a socket the oldest: the others are its children."""
    holders: list[tuple[str, str]] = _PROCESS.findall(users)
    if "users:(" not in users or not holders:
        return ""
    by_age = sorted((int(pid or 0), place) for place, (_, pid) in enumerate(holders))
    own = [place for pid, place in by_age if pid != _FIRST_PROCESS]
    return holders[own[0] if own else 0][0]


_PROC_NET = re.compile(r"\s*\d+: ([0-9A-F]{8}|[0-9A-F]{32}):([0-9A-F]{4}) \S+ ([0-9A-F]{2}) .*")


def _proc_port(table: str, line: str) -> Port | None:
    match = _PROC_NET.fullmatch(line)
    # 0A is LISTEN; a UDP socket without a peer is "closed", 07.
    if not match or match[3] != ("0A" if table.startswith("tcp") else "07"):
        return None
    raw = bytes.fromhex(match[1])
    ordered = b"".join(raw[i : i + 4][::-1] for i in range(0, len(raw), 4))  # 32-bit words
    number = int(match[2], 16)
    if number == 0:
        return None
    return Port(protocol=table[:3], address=str(ipaddress.ip_address(ordered)), port=number)


# --- filesystems ----------------------------------------------------------------------------


def filesystems_of(sections: Sections) -> tuple[Filesystem, ...]:
    """Real, local filesystems with their fill and inode use; sizes in bytes."""
    kinds: dict[str, str] = {}
    for line in sections.get("mounts", ()):
        words = line.split()
        if len(words) >= 3:
            kinds[_unescape(words[1])] = words[2]
    inodes = {match[5]: match for line in sections.get("inodes", ()) if (match := _DF.match(line))}
    found: dict[str, Filesystem] = {}
    for line in sections.get("df", ()):
        match = _DF.match(line)
        if not match or kinds.get(match[5], "") in PSEUDO or is_a_containers(match[5]):
            continue
        size, used, available = (int(match[i][:18]) * 1024 for i in (1, 2, 3))
        if size <= 0:
            continue
        table = inodes.get(match[5])
        found[match[5]] = Filesystem(
            mount=match[5],
            size=size,
            used=used,
            available=available,
            inodes_percent=min(100, int(table[4])) if table and table[4] else 0,
        )
    return tuple(found[mount] for mount in sorted(found))


def mounts_of(lines: Iterable[str]) -> dict[str, str]:
    """Mount point -> type and options, without those that are the kernel's or a program's own."""
    found = {}
    for words in (line.split() for line in lines):
        if len(words) < 4 or (words[2] in PSEUDO and words[2] not in _MOUNTED):
            continue
        mount = _unescape(words[1])[:MAX_TEXT]
        restless = f"{mount}/".startswith(_RESTLESS_MOUNTS) or is_a_containers(mount)
        if mount.startswith("/") and not restless:
            found[mount] = f"{words[2]} {words[3]}"[:MAX_TEXT]
    return found


def _unescape(path: str) -> str:
    r"""/proc/mounts writes a blank as \040."""
    return re.sub(r"\\([0-3][0-7]{2})", lambda m: chr(int(m[1], 8)), path)


# --- small things ---------------------------------------------------------------------------


def _clean(text: str, longest: int = 4 * MAX_TEXT) -> str:
    return _CONTROL.sub("", text[:longest])


def _lines(sections: Sections, name: str) -> list[str]:
    return [line[:MAX_TEXT] for line in sections.get(name, ())]


def _only(sections: Sections, name: str) -> str:
    """The first line of a section, "" without one."""
    return next((line.strip() for line in sections.get(name, ())), "")


def _properties(lines: Iterable[str]) -> dict[str, str]:
    """Lines "Key=value" of ``systemctl show``."""
    pairs = (line.partition("=") for line in lines)
    return {key: value.strip()[:MAX_TEXT] for key, found, value in pairs if found}


def _number(text: str) -> float:
    return float(text) if re.fullmatch(r"\d{1,18}(?:\.\d{1,9})?", text, re.ASCII) else 0.0


def _messages(lines: Sequence[str]) -> tuple[str, ...]:
    """Log lines without their time, each once, the newest ones."""
    texts = (_TIMESTAMP.sub("", line, count=1).strip()[:MAX_TEXT] for line in lines)
    return tuple(dict.fromkeys(text for text in texts if text))[-MAX_MESSAGES:]
