"""Why units stopped running after an upgrade, and which package is the likely cause. Pure.

A cause is a unit, the first error in its log, and a package of this upgrade that has to do with
it: the one whose file stands in the error, whose unit or program it is, whose library it loads.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from sandbox.core.noise import comes_and_goes
from sandbox.core.records import (
    STARTING,
    Autopsy,
    Cause,
    Facts,
    Observation,
    PackageChange,
    UnitTrace,
)
from sandbox.core.wording import line, mentions, say

MOST = 3
_ERROR_LIMIT = 160
# What a boot needs, the likeliest to break it first.
_BOOTS = (
    ("linux-image-[0-9]*", "it brings the kernel that was to boot"),
    ("initramfs-tools*", "it makes the initramfs"),
    ("dracut*", "it makes the initramfs"),
    ("grub*", "it is the boot loader"),
    *(
        (name, "the initramfs is made with it")
        for name in ("cryptsetup*", "lvm2", "mdadm", "multipath-tools*", "udev", "busybox*")
    ),
    ("systemd", "it starts everything else"),
)
# One that is started again and again ("activating/auto-restart") does not run.
_COMING = "activating/start"
_UP = ("active/running", "active/exited", _COMING, "reloading/reload")
_PATH = re.compile(r"/[A-Za-z0-9_.+@-][A-Za-z0-9_./+@-]*")
# What systemd itself says of every unit that fails explains nothing.
_SYSTEMD = re.compile(
    r"(Starting|Started|Stopping|Stopped|Failed to start|Scheduled restart|Start request)\b"
    r"|[\w@.\\-]+\.(service|socket|mount|timer|path): "
)
# PermissionError, too.
_STRONG = re.compile(r"\b(emerg|alert|crit|critical|fatal|panic)\b|(error|exception)\b", re.I)
_WEAK = re.compile(
    r"fail|\bbad\b|cannot|can't|could not|unable|unknown|invalid|denied|not found|no such|missing"
    r"|undefined|unrecognized|unsupported|deprecated|refused|abort|segfault|exception",
    re.I,
)
# But for what kept it from starting the program at all.
_NOT_BEGUN = re.compile(
    r"[\w@.\\-]+\.(service|socket|mount|timer|path): "
    r"(?P<why>(Failed to (?!kill|parse|reset)|Unable to|Unit configuration|Cannot) ?.*)"
)
# systemctl(1) of one that it was to start. Nothing of use comes after it.
_JOB = re.compile(r"(?:Job|A dependency job) for (?P<unit>[\w@.\\-]+) failed\b.*", re.S)
_TRACEBACK = re.compile(r"Traceback \(most recent call last\):")
# Python's last line of one: json.decoder.JSONDecodeError: Expecting value
_RAISED = re.compile(r"(?:\w+\.)*[A-Z]\w*(?:: .*)?")
_STATES = {
    "masked": "it is masked",
    "not-found": "its unit is gone",
    "disabled": "it is disabled, so that no start of the guest starts it",
    STARTING: "it is still starting",
}


@dataclass(frozen=True)
class _Link:
    """What ties a package to a unit; the larger the weight, the likelier the guilt."""

    weight: int
    words: str


@dataclass(frozen=True)
class _Files:
    """Configuration files of packages."""

    fresh: frozenset[str]  # new, or of other content than before
    steady: frozenset[str]


def _files(before: Observation, after: Observation) -> _Files:
    now = after.conffiles.items()
    steady = frozenset(path for path, md5 in now if before.conffiles.get(path) == md5)
    return _Files(frozenset(after.conffiles) - steady, steady)


def suspects(
    before: Observation, after: Observation, control: Observation | None
) -> tuple[str, ...]:
    """Units that ran before and do not now: those that failed first, those that are still coming
    up last. Not those of which it is so on the control, too."""
    failed = [unit for unit in after.failed_units if unit not in before.failed_units]
    ran = [unit for unit, state in before.units.items() if state == "active/running"]
    stopped = [u for u in ran if after.units.get(u, "") not in _UP and not comes_and_goes(u)]
    coming = [unit for unit in ran if after.units.get(unit, "") == _COMING]
    wanted = dict.fromkeys([*failed, *stopped, *coming])
    there = {unit for unit in wanted if control and not _is_up_on(control, unit, unit in stopped)}
    there |= {unit for unit in coming if control and control.units.get(unit) == _COMING}
    return tuple(unit for unit in wanted if unit not in there)


def _is_up_on(control: Observation, unit: str, ran: bool) -> bool:
    """What ran when the control was made has to run there still."""
    if unit in control.failed_units:
        return False
    return not (ran and control.units) or control.units.get(unit, "") in _UP


def causes(facts: Facts, changes: Sequence[PackageChange]) -> tuple[Cause, ...]:
    """Which of these ``changes`` broke the units that stopped: the likeliest first, at most three.
    () where no unit stopped, or nothing is known of it."""
    if facts.reboot is not None and not facts.reboot.happened:
        by_package: dict[str, Cause] = {}
        for cause in _boot_causes(facts):
            by_package.setdefault(cause.package, cause)
        return tuple(by_package.values())[:MOST]
    autopsy = facts.autopsy
    if autopsy is None or facts.before is None or facts.after is None:
        return ()
    files = _files(facts.before, facts.after)
    found: list[tuple[int, Cause]] = []
    for trace in autopsy.units:
        state = facts.after.units.get(trace.unit, "")
        up = state in _UP
        if state == _COMING and not facts.after.restarts.get(trace.unit):
            if trace.state != STARTING:
                continue  # it has come up meanwhile
            up = False
        error = first_error(_without_last_start(trace.log) if up else trace.log)
        links = [
            (link, change)
            for change in changes
            if (link := _tie(trace, change, autopsy, error, files))
        ]
        links.sort(key=lambda pair: -pair[0].weight)
        if not links and len(changes) == 1:
            links = [(_Link(1, "nothing else was upgraded"), changes[0])]
        for link, change in links[:MOST]:
            found.append((link.weight, _cause(trace, change, error, link.words, up=up)))
        if not links and (error or trace.state):
            told = f"systemd says of it: {trace.result}" if trace.result else "its log says so"
            found.append((0, _cause(trace, None, error, told, up=up)))
    found.sort(key=lambda pair: -pair[0])
    return tuple(cause for _weight, cause in found[:MOST])


def _boot_causes(facts: Facts) -> Iterator[Cause]:
    """The guest cannot be entered: what was upgraded of the things that a boot needs."""
    changes = facts.upgrade.changes if facts.upgrade else ()
    why = f": {facts.reboot.message}" if facts.reboot and facts.reboot.message else ""
    ties = [
        (change, words)
        for pattern, words in _BOOTS
        for change in changes
        if change.new is not None and fnmatchcase(change.name, pattern)
    ]
    if len(changes) == 1:
        ties.append((changes[0], "nothing else was upgraded"))
    for change, words in ties:
        text = line(f"the guest does not boot since {say(change)}{why}")
        yield Cause(text=text, package=change.name, evidence=(words,))


def first_error(log: Sequence[str]) -> str:
    """The line of a unit's log that explains its end best: the first clear error of its last
    start, else the first that sounds like one, else the last thing it said."""
    last = _last_start(log)
    own = _without_tracebacks([text for text in last if text and not _SYSTEMD.match(text)])
    for pattern in (_STRONG, _WEAK):
        for text in own:
            if pattern.search(text):
                return _plain(text)
    for text in last:
        if match := _NOT_BEGUN.fullmatch(text):
            return _plain(match["why"])
    return _plain(own[-1]) if own else ""


def told_by_its_unit(error: str, autopsy: Autopsy | None) -> str:
    """What a package manager heard of a unit that does not start says nothing: what the unit
    itself said of that, where it is known, is put in its place."""
    job = _JOB.search(error)
    if job is None or autopsy is None:
        return error
    said = next((first_error(one.log) for one in autopsy.units if one.unit == job["unit"]), "")
    return f"{error[: job.start()]}{job['unit']} does not start: {said}" if said else error


def _last_start(log: Sequence[str]) -> Sequence[str]:
    starts = _lines_with("Starting ", log)
    return log[starts[-1] :] if starts else log


def _without_last_start(log: Sequence[str]) -> Sequence[str]:
    """Of a unit that runs again: what it said before it had to be started again."""
    starts = _lines_with("Starting ", log) or _lines_with("Started ", log)
    return log[: starts[-1]] if starts else log


def _lines_with(words: str, log: Sequence[str]) -> list[int]:
    return [number for number, text in enumerate(log) if text.startswith(words)]


def _without_tracebacks(lines: Sequence[str]) -> list[str]:
    """Of each only its last line: what was raised, not where."""
    kept, inside = [], False
    for text in lines:
        inside = bool(_TRACEBACK.match(text)) or (inside and not _RAISED.fullmatch(text))
        if not inside:
            kept.append(text)
    return kept


def _plain(text: str) -> str:
    """Without the time and process that programs write before their messages."""
    text = re.sub(
        r"^(\d{4}[-/]\d\d[-/]\d\d[T ])?\d\d:\d\d:\d\d([.,]\d+)?(Z|[+-]\d\d:?\d\d)?\s+", "", text
    )
    text = re.sub(r"\b\d+#\d+: ", "", text)
    return line(text, _ERROR_LIMIT)


def _tie(
    trace: UnitTrace, change: PackageChange, autopsy: Autopsy, error: str, files: _Files
) -> _Link | None:
    def owned(paths: Sequence[str]) -> Iterator[str]:
        return (path for path in paths if _owner(path, autopsy) == change.name)

    named = _paths([error])
    folders = {path.rpartition("/")[0] for path in named}
    beside = sorted(path for path in files.fresh if path.rpartition("/")[0] in folders)
    # A file that did not change is seldom to blame, whatever complains about it.
    ties = (
        (100, [p for p in named if p not in files.steady], "{} in the error is its file"),
        (80, [p for p in _paths(trace.log) if p not in files.steady], "{} in the log is its file"),
        (70, beside, "its new {} is beside the file in the error"),
        (60, trace.files, "the unit's file {} is its own"),
        (50, trace.programs, "the program {} is its own"),
        (30, trace.libraries, "it brings the library {}"),
        (20, named, "{} in the error is its file"),
        (15, _paths(trace.log), "{} in the log is its file"),
    )
    for weight, paths, words in ties:
        path = next(owned(paths), "")
        if path:
            return _Link(weight, words.format(path))
    if change.new is None and mentions(trace.unit, change.name):
        return _Link(90, "it was removed")
    if mentions(error, change.name):
        return _Link(40, "the error names it")
    return None


def _paths(texts: Sequence[str]) -> list[str]:
    return [path.rstrip(".:") for text in texts for path in _PATH.findall(text)]


def _owner(path: str, autopsy: Autopsy) -> str:
    other = path.removeprefix("/usr") if path.startswith("/usr/") else f"/usr{path}"
    return autopsy.owners.get(path) or autopsy.owners.get(other, "")


def _cause(
    trace: UnitTrace, change: PackageChange | None, error: str, evidence: str, *, up: bool
) -> Cause:
    since = f" since {say(change)}" if change else " any more"
    does = "does not stay up" if up else "does not run"
    why = _why(trace, error, up=up)
    return Cause(
        text=line(f"{trace.unit} {does}{since}" + (f": {why}" if why else "")),
        unit=trace.unit,
        package=change.name if change else "",
        evidence=(evidence,),
    )


def _why(trace: UnitTrace, error: str, *, up: bool) -> str:
    if up:
        return error or "it ends and is started again"
    if trace.state in ("masked", "not-found"):  # whatever it said while it still ran
        return _STATES[trace.state]
    if error or trace.status:
        return error or f"it ended with status {trace.status}"
    return _STATES.get(trace.state, trace.result)
