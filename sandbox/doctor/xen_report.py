"""A Xen host's own words, asked for in one round trip, as typed facts. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sandbox.core.errors import HostError
from sandbox.hosts.volumes import lvm

_SECTION = re.compile(r"^== ([a-z-]+)$", re.MULTILINE)
# Of Xen's command line, as libvirt reads it (libxlGetAutoballoonConf): a size that is none of
# these, like a percentage, does not keep it from taking dom0's memory.
_DOM0_SIZE = re.compile(
    r"(?:^| )dom0_mem=(?:(?:min:|max:)?[0-9]++[bBkKmMgG]?+,?+)++(?:$| )", re.MULTILINE
)


@dataclass(frozen=True)
class XenReport:
    """What a host said; what it did not say is empty."""

    clock: float | None = None  # Unix time
    root: bool = False
    info: Mapping[str, str] = field(default_factory=dict)  # of `xl info`
    autoballoon: str = ""  # of libvirt's libxl.conf, which starts our clones; xl.conf is for xl
    programs: Mapping[str, str] = field(default_factory=dict)  # name -> path
    loaders: tuple[str, ...] = ()  # paths
    device_models: tuple[str, ...] = ()  # paths: QEMU for Xen
    console_daemon: bool = False
    console_log: str = "none"  # of the running xenconsoled: none, guest, hv, all
    console_log_wanted: str = ""  # as the host's configuration has it
    pools: tuple[lvm.Pool, ...] = ()
    volumes_problem: str = ""  # why LVM could not be asked
    space: int | None = None  # bytes free in /var/lib
    problem: str = ""  # why Xen could not be asked

    @property
    def version(self) -> str:
        return self.info.get("xen_version", "")

    @property
    def free_memory(self) -> int:
        """Bytes that Xen has for new domains."""
        return _number(self.info.get("free_memory", "")) << 20

    @property
    def total_memory(self) -> int:
        return _number(self.info.get("total_memory", "")) << 20

    @property
    def guest_types(self) -> tuple[str, ...]:
        """Of the host's processor and Xen: pv, hvm."""
        words = self.info.get("virt_caps", "").split()
        return tuple(kind for kind in ("pv", "hvm") if kind in words)

    @property
    def dom0_memory(self) -> str:
        """How much dom0 was given when the host was booted; "" for all there is."""
        found = re.search(r"(?:^|\s)dom0_mem=(\S+)", self.info.get("xen_commandline", ""))
        return found[1] if found else ""

    @property
    def takes_from_dom0(self) -> bool:
        """Whether libvirt gives a new guest what dom0 has: as libxl.conf says, else it does
        unless dom0's memory is set on Xen's command line."""
        if self.autoballoon:
            return self.autoballoon != "0"
        return _DOM0_SIZE.search(self.info.get("xen_commandline", "")) is None


def script() -> str:
    """What is to be run on the host, by ``sh -s``."""
    return Path(__file__).with_name("xen_report.sh").read_text()


def parse_report(text: str) -> XenReport:
    """What the script printed; raises :class:`HostError` when that is cut off."""
    parts = _SECTION.split(text)
    sections = {name: body.strip() for name, body in zip(parts[1::2], parts[2::2], strict=True)}
    if "end" not in sections:
        raise HostError("the host's answer is cut off", "is its shell a POSIX one? try again")
    info = _pairs(sections.get("xl-info", ""), ":")
    pools, volumes_problem = _pools(sections.get("lvs", ""))
    clock, space = sections.get("clock", ""), sections.get("space", "")
    return XenReport(
        clock=float(clock) if re.fullmatch(r"[0-9]+\.[0-9]+", clock) else None,
        root=sections.get("user") == "0",
        info=info,
        autoballoon=_pairs(sections.get("libxl-conf", ""), "=")
        .get("autoballoon", "")
        .partition("#")[0]
        .strip(),
        programs=_pairs(sections.get("programs", ""), " "),
        loaders=tuple(sections.get("loaders", "").splitlines()),
        device_models=tuple(sections.get("device-models", "").splitlines()),
        console_daemon=bool(sections.get("consoles")),
        console_log=_console_log(sections.get("consoles", "").split("\n")) or "none",
        console_log_wanted=_wanted_log(sections.get("console-settings", "")),
        pools=pools,
        volumes_problem=volumes_problem,
        space=int(space) if space.isdecimal() and space.isascii() else None,
        problem="" if "xen_version" in info else _last_line(sections.get("xl-info", "")),
    )


def _console_log(words: Sequence[str]) -> str:
    """The last ``--log=VALUE`` or ``--log VALUE`` of a command line; "" without one."""
    said = ""
    for word, following in zip(words, (*words, "")[1:], strict=True):
        name, found, value = word.partition("=")
        if name == "--log":
            said = value if found else following
    return said


def _wanted_log(text: str) -> str:
    """XENCONSOLED_TRACE, or --log in XENCONSOLED_ARGS: what the daemon is to be started with."""
    pairs = {name: value.strip("\"'") for name, value in _pairs(text, "=").items()}
    return pairs.get("XENCONSOLED_TRACE") or _console_log(pairs.get("XENCONSOLED_ARGS", "").split())


def _pools(text: str) -> tuple[tuple[lvm.Pool, ...], str]:
    # Warnings of LVM's stand before its report.
    try:
        rows = lvm.parse_report(text[max(0, text.find("{")) :])
        return tuple(lvm.parse_pool(row) for row in rows if row["segtype"] == "thin-pool"), ""
    except (ValueError, KeyError, TypeError, AttributeError):
        return (), _last_line(text)


def _pairs(text: str, separator: str) -> dict[str, str]:
    rows = (line.partition(separator) for line in text.splitlines())
    return {name.strip(): value.strip() for name, found, value in rows if found}


def _last_line(text: str) -> str:
    return text.splitlines()[-1] if text else "no answer"


def _number(text: str) -> int:
    return int(text) if text.isdecimal() and text.isascii() else 0
