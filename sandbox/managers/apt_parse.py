"""apt's and dpkg's words as facts. Pure; hostile or odd output gives less, never an exception."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from sandbox.core.errors import RequestError
from sandbox.core.records import PackageChange, UpgradeStatus
from sandbox.managers import Failure

# --- simulation -----------------------------------------------------------------------------

_INST = re.compile(
    r"Inst (?P<name>\S+) (?:\[(?P<old>[^\]]+)\] )?"
    r"\((?P<new>\S+) (?:(?P<origin>[^()]*?) )?\[(?P<arch>[^\]]+)\]\)"
)
_REMOVE = re.compile(r"(?:Remv|Purg) (?P<name>\S+) \[(?P<old>[^\]]+)\]")
_URI = re.compile(r"'[^']+' \S+ (?P<size>\d+)(?: |$)")


def changes_of(lines: Iterable[str]) -> tuple[PackageChange, ...]:
    """The ``Inst`` and ``Remv`` lines of ``apt-get -s``, sorted by name."""
    found: dict[str, PackageChange] = {}
    for line in lines:
        if match := _INST.match(line):
            found[match["name"]] = PackageChange(
                name=match["name"].partition(":")[0],
                old=match["old"],
                new=match["new"],
                architecture=match["arch"],
                origin=match["origin"] or "",
            )
        elif (match := _REMOVE.match(line)) and match["name"] not in found:
            name, _, architecture = match["name"].partition(":")
            found[match["name"]] = PackageChange(
                name=name, old=match["old"], architecture=architecture
            )
    return tuple(found[name] for name in sorted(found))


def kept_back_of(lines: Iterable[str]) -> tuple[str, ...]:
    """The names under "The following packages have been kept back:"."""
    names: list[str] = []
    inside = False
    for line in lines:
        if line.startswith("The following packages have been kept back"):
            inside = True
        elif inside and line.startswith("  "):
            names.extend(line.split())
        else:
            inside = False
    return tuple(sorted(set(names)))


def download_size_of(lines: Iterable[str]) -> int:
    """Bytes to fetch, from ``--print-uris``."""
    return sum(int(match["size"][:15]) for line in lines if (match := _URI.match(line)))


def is_security(change: PackageChange) -> bool:
    """Whether a security archive has this version: Debian-Security, or a suite ``*-security``.

    ``origin`` is apt's list: "Debian:12.5/stable, Debian-Security:12/stable-security".
    """
    for origin in change.origin.split(", "):
        label, _, release = origin.partition(":")
        if label == "Debian-Security" or release.rpartition("/")[2].endswith("-security"):
            return True
    return False


def security_selection(changes: Iterable[PackageChange]) -> tuple[str, ...]:
    """``name=version`` of the installed packages that a security archive upgrades."""
    return tuple(
        f"{change.name}:{change.architecture}={change.new}"
        if change.architecture not in ("all", "")
        else f"{change.name}={change.new}"
        for change in changes
        if change.old and change.new and is_security(change)
    )


# --- sources --------------------------------------------------------------------------------

_DEB_LINE = re.compile(r"deb(?:-src)?\s+(?:\[[^\]\n]*\]\s+)?(?P<uri>[a-z0-9+]+:\S+)\s+\S+[^\n]*")


def repository_uri(line: str) -> str:
    """The base URI of a one-line ``deb`` line; raises :class:`RequestError` for anything else."""
    match = _DEB_LINE.fullmatch(line.strip())
    if not match or not line.isprintable():
        raise RequestError(
            f"not a one-line package source: {line!r}",
            "write it as in sources.list: deb [options] URI suite components",
        )
    return match["uri"]


# --- progress -------------------------------------------------------------------------------

_STATUS = re.compile(
    r"(?P<kind>dlstatus|pmstatus|pmerror|pmconffile):(?P<item>.*?):"
    r"(?P<percent>\d{1,3}(?:\.\d+)?):(?P<text>.*)"
)


@dataclass(frozen=True)
class Status:
    """One line of ``APT::Status-Fd``."""

    kind: str  # dlstatus, pmstatus, pmerror, pmconffile
    item: str  # package or file
    percent: float  # 0..100 of this kind of work
    text: str


def status_of(line: str) -> Status | None:
    """A line of apt's status file descriptor, or None."""
    match = _STATUS.match(line)
    if not match:
        return None
    percent = min(100.0, float(match["percent"]))
    return Status(match["kind"], match["item"], percent, match["text"].strip())


# --- configuration files --------------------------------------------------------------------

_SETTING_UP = re.compile(r"Setting up (?P<name>[^\s:]+)(?::\S+)? \(")
_CONFFILE = re.compile(r"Configuration file '(?P<path>/[^']+)'")
NEW_SUFFIXES = (".dpkg-dist", ".dpkg-new", ".ucf-dist")
OLD_SUFFIXES = (".dpkg-old", ".ucf-old")


@dataclass(frozen=True)
class Prompt:
    """A question that dpkg would have asked, and how it answered itself."""

    path: str
    package: str
    decision: str  # "kept" | "replaced"


def prompts_of(lines: Iterable[str]) -> tuple[Prompt, ...]:
    """dpkg's "Configuration file '…'" paragraphs with their " ==> …" lines."""
    found: list[Prompt] = []
    package = path = ""
    for line in lines:
        if match := _SETTING_UP.match(line):
            package, path = match["name"], ""
        elif match := _CONFFILE.match(line):
            path = match["path"]
        elif path and line.startswith(" ==> "):
            if "old config file" in line or "old file" in line:
                found.append(Prompt(path, package, "kept"))
                path = ""
            elif line.startswith((" ==> Using new", " ==> Installing new")):
                found.append(Prompt(path, package, "replaced"))
                path = ""
        elif not line.startswith(" "):
            path = ""
    return tuple(found)


# --- services ---------------------------------------------------------------------------------

# How Debian's and Ubuntu's maintainer scripts restart a service: at once, or by stopping it before
# the upgrade and starting it after it. A reload is no downtime.
_RESTARTS = re.compile(r"_dh_action|(?<![\w-])(?:try-|force-)?restart\b")
_STOPS = re.compile(r"(?<![\w-])stop\b")
_STARTS = re.compile(r"(?<![\w-])start\b")
_SCRIPT = re.compile(r"[^:]*/([^/:]{1,200})(?::[^./]{1,40})?\.(preinst|prerm|postinst):(.*)")
_CLUSTERS = re.compile(r"\s*(?:stop|configure)_version\b")  # PostgreSQL's own words for it
_WORD = re.compile(r"[A-Za-z0-9@_.:\\*-]{2,200}")
LONGEST = 2000  # characters of a line that count


def restarts_of(scripts: Iterable[str], services: Iterable[str]) -> dict[str, str]:
    """Service -> package: which of the running ``services`` the packages' own scripts restart.

    ``scripts``: lines "/var/lib/dpkg/info/NAME.postinst:text" that call systemd; those of "prerm"
    and "preinst" run before an upgrade.
    """
    at_once, around = _restarts(scripts, frozenset(services))
    return around | at_once


def stops_of(scripts: Iterable[str], services: Iterable[str]) -> frozenset[str]:
    """Those of them that are stopped before their package is unpacked, and started after that."""
    return frozenset(_restarts(scripts, frozenset(services))[1])


def _restarts(
    scripts: Iterable[str], running: frozenset[str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Service -> package: what is restarted at once; what is stopped, and started later."""
    words = _words_of(running)
    at_once: dict[str, str] = {}
    stopped, started = set[tuple[str, str]](), set[tuple[str, str]]()
    for line in scripts:
        if not (match := _SCRIPT.match(line[: 2 * LONGEST])):
            continue
        package, script, text = match[1], match[2], match[3][:LONGEST]
        after = script == "postinst"
        if clusters := _CLUSTERS.match(text):
            named = _matching(f"postgresql@{package.rpartition('-')[2]}-*", running)
        else:
            named = {
                name
                for word in _WORD.findall(text)
                for name in (_matching(word, running) if "*" in word else words.get(word, ()))
            }
        if after and _RESTARTS.search(text):
            for name in sorted(named):
                at_once.setdefault(name, package)
        if clusters or (_STARTS if after else _STOPS).search(text):
            (started if after else stopped).update((name, package) for name in named)
    return at_once, dict(sorted(stopped & started))


def _words_of(running: frozenset[str]) -> dict[str, set[str]]:
    """How scripts name services: with or without ".service"; an instance by its template, or by
    the name before the "@" where no service of that name runs: as postgresql.service, whose
    instances are parts of it, and go with it. An instance for each connection (ssh@) does not.
    """
    words: dict[str, set[str]] = {}
    for name in running:
        stem = name.removesuffix(".service")
        base, at, instance = stem.partition("@")
        names = [stem]
        if at:
            names.append(f"{base}@")
            if ":" not in instance and f"{base}.service" not in running:
                names.append(base)
        for one in names:
            for word in (one, f"{one}.service"):
                words.setdefault(word, set()).add(name)
    return words


def _matching(pattern: str, running: frozenset[str]) -> set[str]:
    whole = pattern if pattern.endswith((".service", "*")) else f"{pattern}.service"
    return {name for name in running if fnmatchcase(name, whole)}


# --- failures -------------------------------------------------------------------------------

_DISK_FULL = re.compile(r"No space left on device|You don't have enough free space in|ENOSPC")
_FETCH = re.compile(
    r"[EW]: (?:Failed to fetch|Unable to fetch some archives|Some index files failed to download"
    r"|GPG error|An error occurred during the signature verification"
    r"|The repository '.*' (?:is not signed|is no longer signed|does(?: no longer)? ?(?:not )?have)"
    r"|Release file for .* (?:is expired|is not valid yet)|.*Hash Sum mismatch"
    r"|.*Could not (?:connect|resolve)|.*Temporary failure resolving)"
)
_DETAILED_FETCH = re.compile(r"[EW]: (?:Failed to fetch|GPG error|The repository|Release file)")
_IMPOSSIBLE = re.compile(
    r"E: (?:Unable to locate package|Version '.*' for '.*' was not found"
    r"|Package '.*' has no installation candidate|Couldn't find any package by"
    r"|Unable to correct problems|Held packages were changed|Essential packages were removed"
    r"|Packages were downgraded|Unsupported file|Package .* is a virtual package"
    r"|.*Unmet dependencies|Error, pkgProblemResolver)"
)
_UNMET = re.compile(r" \S+ : (?:Pre)?(?:Depends|Breaks|Conflicts|-Depends):? ?.*")
_DPKG_ERROR = re.compile(
    r"dpkg: error processing (?:package (?P<name>[^\s:]+)(?::\S+)?"
    r"|archive (?P<file>\S+)) \(--(?P<action>\w+)\)"
)
_INTERRUPTED = re.compile(r"E: dpkg was interrupted, you must manually run")
_DPKG_FAILED = re.compile(r"E: Sub-process .*dpkg.* (?:returned|exited|received)")
_TROUBLE = re.compile(
    r"error|fail|cannot|can't|could not|not found|no such|invalid|denied|unable|emerg|fatal"
    r"|unknown|missing|refused|syntax|you must|\bE:",
    re.IGNORECASE,
)
_LOCKED = re.compile(r"E: (?:Could not get lock|Unable to (?:acquire|lock))")
_WAITS = re.compile(r"Waiting for .{0,40}lock\b")


def locked_out(lines: Sequence[str]) -> str:
    """apt's words where it gave up because another package manager runs (the guest's own
    apt-daily), or ""; a maintainer script that wanted the lock, which apt has, failed by itself."""
    failed = any(_DPKG_ERROR.search(line) for line in lines)
    return "" if failed else _without_letter(_first(_LOCKED, lines))


def waits_for_lock(line: str) -> bool:
    """Whether these last words are of an apt that waits for another package manager."""
    return bool(_WAITS.match(line))


def still_fetches(statuses: Iterable[str]) -> bool:
    """Whether apt has fetched a part of what it needs, and installed nothing yet. Its output does
    not say so: it writes that to a pipe, and late."""
    told = [status for line in statuses if (status := status_of(line))]
    fetching = bool(told) and told[-1].percent < 100
    return fetching and {status.kind for status in told} == {"dlstatus"}


def package_at_work(statuses: Iterable[str]) -> str:
    """The package that dpkg was at when it was last heard of; "" for none."""
    told = [status for line in statuses if (status := status_of(line))]
    packages = [one.item for one in told if one.kind == "pmstatus" and one.item != "dpkg-exec"]
    return packages[-1].partition(":")[0] if packages else ""


def fetch_trouble(lines: Sequence[str]) -> str:
    """The first line that says what could not be fetched or verified, or ""."""
    detailed = _first(_DETAILED_FETCH, lines)
    return detailed if detailed and _FETCH.match(detailed) else _first(_FETCH, lines)


def explain(lines: Sequence[str], exit_status: int, *, updating: bool = False) -> Failure:
    """Why apt ended with ``exit_status``; ``lines`` is its output.

    ``updating``: only lists were refreshed, so anything unknown is the mirror's fault. What a
    maintainer script says about *its* downloads is a failed package, not a failed mirror: dpkg's
    own words come first.
    """
    if full := _first(_DISK_FULL, lines, search=True):
        package = _package_of(lines)
        words = f"the guest's disk is full: {_without_letter(full.strip())}"
        return Failure(UpgradeStatus.FAILED, words, package)
    if failure := _dpkg_failure(lines):
        return failure
    if interrupted := _first(_INTERRUPTED, lines):
        return Failure(UpgradeStatus.UNFIT, _without_letter(interrupted))
    if fetch := fetch_trouble(lines):
        return Failure(UpgradeStatus.UNAVAILABLE, _without_letter(fetch))
    if impossible := _first(_IMPOSSIBLE, lines):
        unmet = _first(_UNMET, lines).strip()
        words = _without_letter(impossible)
        return Failure(UpgradeStatus.IMPOSSIBLE, f"{unmet} ({words})" if unmet else words)
    error = _without_letter(_first(re.compile("E: "), lines)) or f"apt-get exited {exit_status}"
    if updating:
        return Failure(UpgradeStatus.UNAVAILABLE, error)
    return Failure(UpgradeStatus.FAILED, error)


def _dpkg_failure(lines: Sequence[str]) -> Failure | None:
    """The first package that dpkg could not process for a reason of its own."""
    for index, line in enumerate(lines):
        match = _DPKG_ERROR.search(line)
        if not match:
            continue
        reason = lines[index + 1].strip() if index + 1 < len(lines) else ""
        if reason.startswith("dependency problems"):
            continue  # it suffers from another package's failure
        package = match["name"] or _name_of_archive(match["file"])
        said = _script_words(lines[:index]) if "script" in reason else ""
        words = f"{package}: {reason}" if reason else f"{package}: dpkg --{match['action']} failed"
        return Failure(UpgradeStatus.FAILED, f"{words}: {said}" if said else words, package)
    for line in lines:
        status = status_of(line)
        if status and status.kind == "pmerror":
            return Failure(UpgradeStatus.FAILED, f"{status.item}: {status.text}", status.item)
    if failed := _first(_DPKG_FAILED, lines):
        return Failure(UpgradeStatus.FAILED, _without_letter(failed))
    return None


def _script_words(before: Sequence[str]) -> str:
    """What a maintainer script said before it failed: its first line that speaks of trouble."""
    said: list[str] = []
    for line in reversed(before):
        if re.match(
            r"(?:Setting up|Unpacking|Preparing to unpack|Removing|Processing triggers)", line
        ):
            break
        if line.strip() and not status_of(line):
            said.append(line.strip())
    said.reverse()
    return next((line for line in said if _TROUBLE.search(line)), said[-1] if said else "")[:300]


def _package_of(lines: Sequence[str]) -> str:
    match = next((m for line in lines if (m := _DPKG_ERROR.search(line))), None)
    return (match["name"] or _name_of_archive(match["file"])) if match else ""


def _name_of_archive(path: str) -> str:
    return path.rpartition("/")[2].partition("_")[0]


def _first(pattern: re.Pattern[str], lines: Iterable[str], *, search: bool = False) -> str:
    find = pattern.search if search else pattern.match
    return next((line for line in lines if find(line)), "")


def _without_letter(line: str) -> str:
    """apt's line without its "E: " or "W: "."""
    return line[3:].strip() if line[:3] in ("E: ", "W: ") else line.strip()
