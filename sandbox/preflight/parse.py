"""The output of preflight.sh as facts. Pure.

A guest can print anything: every value is checked or cleaned, sizes are limited, and the only
exception is ours, when it did not answer at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from pydantic import Field

from sandbox.core.errors import GuestUnreachable
from sandbox.core.records import PackageChange, Record, Start
from sandbox.managers.apt_parse import download_size_of, restarts_of, stops_of
from sandbox.observe.observation_parse import kernels_of, split, starts_of

MAX_TEXT = 500
_NUMBER = re.compile(r"\d{1,15}", re.ASCII)
_RELEASE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+~_-]{0,99}")
_DF = re.compile(r"\S.*?\s\d+\s+\d+\s+(-?\d{1,15})\s+(?:\d+%|-)\s+(/.*)", re.ASCII)
_GROWTH = re.compile(
    r"After this operation, (\d[\d,]{0,15}(?:\.\d{1,3})?) ([kMGTP]?B) "
    r"(of additional disk space will be used|disk space will be freed)",
    re.ASCII,
)
_UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "PB": 10**15}
_PLANNED = re.compile(
    r" {2,4}([a-z0-9][a-z0-9.+-]{0,200})(?::([a-z0-9-]{1,40}))?\*? "
    r"\(([^ ()]{1,200})(?: => ([^ ()]{1,200}))?\)"
)
_CONFFILE = re.compile(r" (/.{1,400}) ([0-9a-f]{32})")
_BY_UCF = re.compile(r"(\S{1,200}) (/.{1,400})")
_DIGEST = re.compile(r"[0-9a-f]{32}")
_MD5 = re.compile(r"\\?([0-9a-f]{32}) [ *]\.(/.*)")
_SERVICE = re.compile(r"/([^/]{1,200}\.service)(?:/|$)")
_DRIVER = re.compile(r".*/lib/modules/([^/]{1,100})/modules\.(?:dep|builtin):/([\w-]{1,60})\.ko")
_HOST = re.compile(r"(sd[a-z]{1,8}) ([\w-]{1,60})")
_PARTITION = re.compile(r"/dev/((?:xvd|vd|sd)[a-z]{1,8}|nvme\d{1,4}n\d{1,4})(?:p?\d{1,4})?")
_BUILT_IN = re.compile(r".*/lib/modules/([^/]{1,100})/modules\.builtin:/([\w-]{1,60})\.ko")
_CONFIG = re.compile(r".*/config-([^/:]{1,100}):CONFIG_(\w{1,40})=([ym])")

Sections = Mapping[str, Sequence[str]]


class Space(Record):
    """What is free where a path lies; two paths of one mount point share it."""

    mount: str
    free: int
    inodes: int | None = None


class Conffile(Record):
    """A configuration file of a package to be upgraded that is not as it was shipped."""

    path: str
    package: str
    deleted: bool = False


class GuestSurvey(Record):
    """What a guest says before its upgrade. Sizes are bytes, instants Unix time."""

    kernel: str
    now: int = 0
    kernels: tuple[str, ...] = ()  # installed, newest last
    xen: dict[str, str] = Field(
        default_factory=dict
    )  # type, guest_type, version/major, version/minor
    space: dict[str, Space] = Field(default_factory=dict)  # path -> what is free there
    df_error: str = ""  # why room was not measured
    read_only: tuple[str, ...] = ()  # mount points
    remounted: tuple[str, ...] = ()  # those of them that a hook of apt makes writable, it seems
    kernel_size: int = 0  # of the largest kernel in /boot
    initrd_size: int = 0
    compress: str = ""  # of initramfs-tools
    modules: str = ""
    initramfs_modules: tuple[str, ...] = ()
    disks: tuple[str, ...] = ()
    root_disks: tuple[str, ...] = ()  # those of them that / and /usr are on, where that is known
    hosts: dict[str, str] = Field(default_factory=dict)  # disk -> its SCSI controller's driver
    drivers: tuple[tuple[str, str], ...] = ()  # (kernel, driver of disks): module or built in
    built_in: tuple[tuple[str, str], ...] = ()  # those of them that are no modules
    config: tuple[tuple[str, str], ...] = ()  # (kernel, option) that is on
    mkinitramfs_asks: bool = False  # whether the kernel can unpack zstd; gzip where it cannot
    reboot_required: bool = False
    broken: tuple[str, ...] = ()  # packages that dpkg left half-way
    held: tuple[str, ...] = ()
    interrupted: bool = False  # dpkg was, in its own bookkeeping
    apt: bool = False
    lists: int = 0  # when the package lists were refreshed; 0: there are none
    asked: bool = False  # whether apt was asked at all
    as_root: bool = False  # since the user nobody could not run it
    said: tuple[str, ...] = ()  # what it said
    changes: tuple[PackageChange, ...] = ()
    kept_back: tuple[str, ...] = ()
    download: int = 0
    growth: int = 0
    conffiles: tuple[Conffile, ...] = ()
    # Of the running services that scripts of the upgrade name; and whose script restarts which.
    starts: dict[str, Start] = Field(default_factory=dict)
    restarts: dict[str, str] = Field(default_factory=dict)
    stops: tuple[str, ...] = ()  # those of them that are down while their package is unpacked
    users: tuple[str, ...] = ()  # services that run files which would be replaced
    stale: tuple[str, ...] = ()  # services that run files which were replaced already
    boot_seconds: float = 0.0


def parse(text: str, mark: str) -> GuestSurvey:
    """Facts from what preflight.sh printed with ``mark``."""
    sections = split(text, mark)
    kernel = _first(sections, "kernel")
    if not _RELEASE.fullmatch(kernel):
        raise GuestUnreachable(
            "the guest did not answer the preflight's questions",
            f"it said: {' '.join(text[:200].split()) or 'nothing'}",
        )
    sizes = _sizes(sections.get("boot", ()))
    plan = sections.get("plan", ())
    changes, kept_back = plan_of(plan)
    space, df_error = _space(sections)
    read_only = _read_only(sections.get("mounts", ()))
    configuration = _properties(sections.get("initramfs", ()))
    starts = starts_of(sections.get("starts", ()))
    broken, held = _states(sections.get("states", ()))
    return GuestSurvey(
        kernel=kernel,
        now=_number(_first(sections, "now")),
        kernels=kernels_of(name for name in sizes if name.startswith("vmlinu")),
        xen=_properties(sections.get("xen", ())),
        space=space,
        df_error=df_error,
        read_only=read_only,
        remounted=tuple(p for p in read_only if _is_remounted(p, sections.get("hooks", ()))),
        kernel_size=max((n for name, n in sizes.items() if name.startswith("vmlinu")), default=0),
        initrd_size=max((n for name, n in sizes.items() if name.startswith("initrd")), default=0),
        compress=configuration.get("COMPRESS", "").strip('"'),
        modules=configuration.get("MODULES", "").strip('"'),
        initramfs_modules=_lines(sections, "initramfs_modules"),
        disks=_lines(sections, "disks"),
        root_disks=_root_disks(sections),
        hosts=dict(_pairs(_HOST, sections.get("hosts", ()))),
        drivers=_pairs(_DRIVER, sections.get("drivers", ())),
        built_in=_pairs(_BUILT_IN, sections.get("drivers", ())),
        config=_pairs(_CONFIG, sections.get("config", ())),
        mkinitramfs_asks=any("/mkinitramfs:" in line for line in sections.get("config", ())),
        reboot_required=_first(sections, "reboot_required") == "yes",
        broken=broken,
        held=held,
        interrupted=bool(sections.get("interrupted")),
        apt="lists" in sections,
        lists=_number(_first(sections, "lists")),
        asked="plan" in sections,
        as_root="as_root" in sections,
        said=tuple(line for line in plan if not line.startswith("'")),
        changes=changes,
        kept_back=kept_back,
        download=download_size_of(plan),
        growth=_growth(plan),
        conffiles=_conffiles(sections, changes),
        starts=starts,
        restarts=restarts_of(sections.get("scripts", ()), starts),
        stops=tuple(sorted(stops_of(sections.get("scripts", ()), starts))),
        users=services_in(sections.get("users", ())),
        stale=services_in(sections.get("stale", ())),
        boot_seconds=_monotonic(sections.get("manager", ()), "FinishTimestampMonotonic"),
    )


def plan_of(lines: Iterable[str]) -> tuple[tuple[PackageChange, ...], tuple[str, ...]]:
    """``apt-get -V``'s lists, "   name (old => new)" beneath a title: what changes, and what is
    kept back; sorted by name.
    """
    found: dict[str, PackageChange] = {}
    kept_back: set[str] = set()
    title = ""
    for line in lines:
        if line.startswith("The following "):
            title = line
        elif not line.startswith("  "):
            title = ""
        elif match := _PLANNED.fullmatch(line.rstrip()):
            name, architecture, first, second = match.groups()
            if "kept back" in title:
                kept_back.add(name)
                continue
            if "REMOVED" in title:
                old, new = first, None
            elif "NEW" in title:
                old, new = None, first
            elif second and ("upgraded" in title or "DOWNGRADED" in title):
                old, new = first, second
            else:
                continue  # packages that are no longer required: no change
            found[f"{name}:{architecture}"] = PackageChange(
                name=name, old=old, new=new, architecture=architecture or ""
            )
    return tuple(found[key] for key in sorted(found)), tuple(sorted(kept_back))


def services_in(groups: Iterable[str]) -> tuple[str, ...]:
    """Lines of /proc/PID/cgroup: the system's services that these processes belong to."""
    found = (
        match
        for line in groups
        if "/user.slice/" not in line and (match := _SERVICE.search(line[: 2 * MAX_TEXT]))
    )
    return tuple(sorted({match[1] for match in found}))


def _sizes(lines: Iterable[str]) -> dict[str, int]:
    """Lines "SIZE PATH" -> name of the file, its size."""
    pairs = (line.partition(" ") for line in lines)
    return {path.rpartition("/")[2][:MAX_TEXT]: _number(size) for size, _, path in pairs if path}


def _states(lines: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Packages left half-way, and those on hold."""
    broken, held = set(), set()
    for line in lines:
        words = line.split("\t")
        if len(words) != 3 or not words[0]:
            continue
        if words[1] not in ("installed", "config-files", "not-installed"):
            broken.add(words[0][:MAX_TEXT])
        if words[2] == "hold":
            held.add(words[0][:MAX_TEXT])
    return tuple(sorted(broken)), tuple(sorted(held))


def _space(sections: Sections) -> tuple[dict[str, Space], str]:
    """df's lines are in the order of the paths that it was asked for. Where it failed for one, no
    line is known to be another's; then its words."""
    rows = [match for line in sections.get("df", ()) if (match := _DF.fullmatch(line))]
    inodes = [match for line in sections.get("inodes", ()) if (match := _DF.fullmatch(line))]
    paths = _lines(sections, "paths")
    if len(rows) != len(paths):
        words = (line for line in sections.get("df", ()) if line.startswith("df: "))
        return {}, next(words, f"df said {len(rows)} lines of {len(paths)}")[:MAX_TEXT]
    found = {}
    for index, (path, row) in enumerate(zip(paths, rows, strict=True)):
        table = inodes[index] if len(inodes) == len(rows) else None
        # A file system without a fixed number of inodes (btrfs) says 0 of 0.
        has_table = table is not None and not re.search(r"\s0\s+0\s+0\s+(?:-|0%)\s", table[0])
        found[path] = Space(
            mount=row[2][:MAX_TEXT],
            free=max(0, int(row[1])) * 1024,
            inodes=int(table[1]) if table is not None and has_table else None,
        )
    return found, ""


def _read_only(mounts: Iterable[str]) -> tuple[str, ...]:
    found: list[str] = []
    for line in mounts:
        words = line.split()
        if len(words) >= 4 and words[1] in ("/", "/usr", "/boot", "/var"):
            # The last mount at a place is the one that counts.
            found = [place for place in found if place != words[1]]
            if "ro" in words[3].split(","):
                found.append(words[1])
    return tuple(found)


def _root_disks(sections: Sections) -> tuple[str, ...]:
    """The disks that an initramfs has to find; none when they are beneath something else (LVM)."""
    sources: dict[str, str] = {}
    for words in (line.split() for line in sections.get("mounts", ())):
        if len(words) >= 4 and words[1] in ("/", "/usr"):
            sources[words[1]] = words[0]
    found, disks = set[str](), _lines(sections, "disks")
    for source in sources.values():
        match = _PARTITION.fullmatch(source)
        # A PV guest may have a disk xvda1, and no xvda.
        names = [source.removeprefix("/dev/"), match[1]] if match else []
        disk = next((name for name in names if name in disks), None)
        if disk is None:
            return ()
        found.add(disk)
    return tuple(sorted(found))


def _is_remounted(place: str, hooks: Iterable[str]) -> bool:
    """Whether apt runs something like "mount -o remount,rw /usr" before dpkg."""
    return any(
        "remount" in line and place in re.split(r"[\s;&|\"']+", line[: 4 * MAX_TEXT])
        for line in hooks
    )


def _conffiles(sections: Sections, changes: Iterable[PackageChange]) -> tuple[Conffile, ...]:
    """The packages' own digests against the files. One that was deleted differs from every new
    version: dpkg and ucf ask about it as about one that was edited."""
    package, shipped = "", _by_ucf(sections.get("ucf", ()), changes)
    for line in sections.get("conffiles", ()):
        if match := _CONFFILE.fullmatch(line):
            shipped[match[1]] = (package, match[2])
        elif not line.startswith(" "):
            package = line[:MAX_TEXT]
    found = []
    for line in sections.get("md5sums", ()):
        if (match := _MD5.fullmatch(line)) and match[2] in shipped:
            package, digest = shipped[match[2]]
            if digest != match[1]:
                found.append(Conffile(path=match[2], package=package))
    for path in (line.removeprefix(".") for line in sections.get("missing", ())):
        if path in shipped:
            found.append(Conffile(path=path, package=shipped[path][0], deleted=True))
    return tuple(sorted(found, key=lambda file: file.path))


def _by_ucf(lines: Iterable[str], changes: Iterable[PackageChange]) -> dict[str, tuple[str, str]]:
    """Path -> package that would be upgraded, digest as that package had it."""
    upgraded = {change.name for change in changes if change.old and change.new}
    digests, owners = dict[str, str](), dict[str, str]()
    for match in (match for line in lines if (match := _BY_UCF.fullmatch(line.rstrip()))):
        known = digests if _DIGEST.fullmatch(match[1]) else owners
        known[match[2]] = match[1]
    return {
        path: (owners[path], digest)
        for path, digest in digests.items()
        if owners.get(path) in upgraded
    }


def _growth(lines: Iterable[str]) -> int:
    for line in lines:
        if match := _GROWTH.match(line):
            amount = int(float(match[1].replace(",", "")) * _UNITS[match[2]])
            return -amount if match[3].endswith("freed") else amount
    return 0


# --- small things ---------------------------------------------------------------------------


def _pairs(pattern: re.Pattern[str], lines: Iterable[str]) -> tuple[tuple[str, str], ...]:
    found = (match for line in lines if (match := pattern.fullmatch(line)))
    return tuple(sorted({(match[1], match[2].replace("-", "_")) for match in found}))


def _lines(sections: Sections, name: str) -> tuple[str, ...]:
    return tuple(line.strip()[:MAX_TEXT] for line in sections.get(name, ()))


def _first(sections: Sections, name: str) -> str:
    return next(iter(_lines(sections, name)), "")


def _properties(lines: Iterable[str]) -> dict[str, str]:
    pairs = (line.partition("=") for line in lines)
    return {key[:MAX_TEXT]: value.strip()[:MAX_TEXT] for key, found, value in pairs if found}


def _number(text: str) -> int:
    return int(text) if _NUMBER.fullmatch(text) else 0


def _monotonic(lines: Iterable[str], key: str) -> float:
    return _number(_properties(lines).get(key, "")) / 1e6
