"""The output of wide.sh as a :class:`~sandbox.core.records.Wide`.

Pure. A hostile guest may print anything.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase

from sandbox.core.records import Certificate, Wide
from sandbox.observe.observation_parse import MAX_TEXT, split

MOST_CERTIFICATES = 200
_LONGEST_NAMES = 8000  # a group may have many members
_CERTIFICATE_BYTES = 64 * 1024
# Settings that describe the moment, the machine's memory or the kernel's version, not the
# configuration. Where the size of a value tells the two apart, its size is compared instead.
_RESTLESS_NAMES = """
    kernel.acct kernel.bootloader_* kernel.cad_pid kernel.cap_last_cap kernel.hung_task_detect_count
    kernel.ns_last_pid kernel.osrelease kernel.perf_cpu_time_max_percent
    kernel.perf_event_max_sample_rate kernel.*_next_id kernel.tainted kernel.version
    kernel.max_lock_depth vm.admin_reserve_kbytes vm.lowmem_reserve_ratio vm.user_reserve_kbytes
    vm.stat_refresh fs.aio-nr fs.dentry-* fs.epoll.* fs.file-nr fs.inode-*
    net.core.bpf_jit_limit net.ipv4.tcp_available_* net.ipv4.tcp_allowed_congestion_control
    net.ipv4.*_hash_entries
"""
_RESTLESS = tuple(_RESTLESS_NAMES.split())
_MODE = re.compile(r"([0-7]{1,5}) (\S{1,64}) (\S{1,64}) \S (/.*)")
_SHIPPED = re.compile(r" (/.*) ([0-9a-f]{32})( obsolete)?")
_SETTING = re.compile(r"([\w/.*-]{3,120}):(.*)")


def parse_wide(text: str, mark: str) -> Wide | None:
    """What wide.sh printed with ``mark``; None when it did not come to its end."""
    sections = split(text, mark, _LONGEST_NAMES)
    if "end" not in sections:
        return None
    users, groups, modules = names_of(sections.get("names", ()))
    return Wide(
        memory_used=memory_of(sections.get("memory", ())),
        modes=modes_of(sections.get("modes", ())),
        users=users,
        groups=groups,
        modules=modules,
        settings=settings_of(sections.get("settings", ())),
        shipped=_shipped(sections.get("shipped", ())),
        certificates=certificates_of(sections.get("certificates", ())),
    )


def memory_of(lines: Iterable[str]) -> int:
    """/proc/meminfo: bytes in use that nothing else could have at once."""
    found = {}
    for line in lines:
        name, _, rest = line.partition(":")
        number = rest.split()[:1]
        if number and re.fullmatch(r"[0-9]{1,15}", number[0]):
            found[name] = int(number[0]) * 1024
    if "MemTotal" not in found or "MemAvailable" not in found:
        return 0
    return max(0, found["MemTotal"] - found["MemAvailable"])


def modes_of(lines: Iterable[str]) -> dict[str, str]:
    """Path -> mode, owner and group."""
    matches = (_MODE.fullmatch(line) for line in lines)
    return {m[4][:MAX_TEXT]: f"{m[1]} {m[2]} {m[3]}" for m in matches if m}


def names_of(lines: Iterable[str]) -> tuple[dict[str, str], dict[str, str], tuple[str, ...]]:
    """Users, groups and kernel modules: passwd and group without their second field, and
    /proc/modules, told from each other by their colons."""
    users: dict[str, str] = {}
    groups: dict[str, str] = {}
    modules = set()
    for line in lines:
        match line[:_LONGEST_NAMES].split(":"):
            case [name, uid, gid, _about, _home, shell] if name:
                users[name] = f"{uid}:{gid}:{shell}"
            case [name, gid, members] if name:
                groups[name] = f"{gid}:{members}"
            case [module] if words := module.split():
                modules.add(words[0][:64])
    return users, groups, tuple(sorted(modules))


def settings_of(lines: Iterable[str]) -> dict[str, str]:
    """Lines "net/ipv4/ip_forward:0": one for each line of a key's value."""
    found: dict[str, str] = {}
    for line in lines:
        match = _SETTING.fullmatch(line)
        if match is None:
            continue
        # As sysctl writes it: dots between the parts, and a slash for a dot in one.
        name = match[1].replace(".", "\0").replace("/", ".").replace("\0", "/")
        if not any(fnmatchcase(name, pattern) for pattern in _RESTLESS):
            value = " ".join(match[2].split())[:MAX_TEXT]
            found[name] = f"{found[name]} {value}"[:MAX_TEXT] if name in found else value
    return found


def _shipped(lines: Iterable[str]) -> dict[str, str]:
    matches = (_SHIPPED.fullmatch(line) for line in lines)
    # An obsolete one is not shipped any more.
    return {m[1][:MAX_TEXT]: m[2] for m in matches if m and not m[3]}


def certificates_of(lines: Sequence[str]) -> dict[str, Certificate]:
    """Lines "# path", then the base64 of the first certificate there."""
    texts: dict[str, list[str]] = {}
    path = ""
    for line in lines:
        if line.startswith("# /"):
            path = line[2:][:MAX_TEXT]
            texts.pop(path, None)  # two configurations may name it
        elif path and (path in texts or len(texts) < MOST_CERTIFICATES):
            texts.setdefault(path, []).append(line.strip())
    found = {path: _certificate("".join(parts)) for path, parts in texts.items()}
    return {path: certificate for path, certificate in found.items() if certificate}


def _certificate(text: str) -> Certificate | None:
    # Only here: it takes a while to load, and most commands never need it.
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        data = base64.b64decode(text[:_CERTIFICATE_BYTES], validate=True)
    except ValueError:
        return None
    if not data:
        return None
    subject, expires = "", 0.0
    # One that this library does not know can still be told from another one.
    with suppress(ValueError, TypeError, OverflowError, UnsupportedAlgorithm):
        read = x509.load_der_x509_certificate(data)
        subject = read.subject.rfc4514_string()[:MAX_TEXT]
        expires = max(0.0, read.not_valid_after_utc.timestamp())
    fingerprint = hashlib.sha256(data).hexdigest()
    return Certificate(fingerprint=fingerprint, subject=subject, expires=expires)
