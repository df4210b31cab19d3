"""What an upgrade would meet, judged from what the guest says before anything is cloned.

The question is one round trip and only reads. The judgement is pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from importlib.resources import files

from sandbox.core.guest_shell import new_mark
from sandbox.core.process import Completed
from sandbox.core.wording import count, size, some
from sandbox.managers import UpgradeRequest
from sandbox.managers.apt_parse import explain
from sandbox.preflight.boot import MIB, boot_points, brings_kernel
from sandbox.preflight.parse import GuestSurvey, parse
from sandbox.preflight.points import (
    Preflight,
    PreflightPoint,
    PreflightSeverity,
    ServiceForecast,
    worst_first,
)
from sandbox.verdict.downtime import start_seconds

ARCHIVES = "/var/cache/apt/archives"
SPARE = 100 * MIB  # that an upgrade should leave free
SPARE_INODES = 5000
DAY = 86_400

# Runs a script with arguments on the guest, as root: one round trip.
Ask = Callable[[str, Sequence[str]], Completed]


def look_ahead(
    ask: Ask, guest: str, request: UpgradeRequest, keep: Sequence[str] = ()
) -> Preflight:
    """Ask a guest, and judge. ``keep``: patterns of packages that must not change.

    Raises what ``ask`` does, and :class:`~sandbox.core.errors.GuestUnreachable` when the answer
    is none.
    """
    mark = new_mark()
    folder = files("sandbox")
    parts = ("managers/apt_restarts.sh", "preflight/preflight.sh")
    script = "".join(folder.joinpath(part).read_text() for part in parts)
    answer = ask(script, (mark, request.what, *request.packages))
    return judge(parse(answer.stdout, mark), guest, request, keep)


def judge(
    seen: GuestSurvey, guest: str, request: UpgradeRequest, keep: Sequence[str] = ()
) -> Preflight:
    """Points, the worst first, and forecasts."""
    rooted = request.what == "release" or (request.what == "kernel" and bool(seen.changes))
    reboot = rooted or brings_kernel(seen)
    points = [
        *_package_lists(seen, request),
        *_simulation(seen, request, keep),
        *_dpkg(seen),
        *_space(seen),
        *boot_points(seen),
        *_conffiles(seen),
        *_services(seen, reboot=reboot),
    ]
    services = (
        ServiceForecast(
            service=name,
            package=package,
            seconds=start_seconds(seen.starts.get(name)),
            stops=name in seen.stops,
        )
        for name, package in sorted(seen.restarts.items())
        if any(change.name == package for change in seen.changes)
    )
    return Preflight(
        guest=guest,
        upgrade=request.describe(),
        points=worst_first(points),
        changes=seen.changes,
        services=tuple(services),
        reboot=reboot,
        reboot_seconds=seen.boot_seconds,
    )


# --- packages -------------------------------------------------------------------------------


def _package_lists(seen: GuestSurvey, request: UpgradeRequest) -> Iterator[PreflightPoint]:
    if not seen.apt:
        text = "the guest has no apt: nothing is known of packages"
        yield _warning("packages", text, "only what does not depend on them was looked at")
        return
    if request.what == "script":
        yield _note("packages", "the upgrade is a script: what it changes shows in the rehearsal")
        return
    if request.what == "release":
        text = f"the guest has no package lists of {request.release}: its changes are not known"
        yield _note("packages", text, "a rehearsal fetches them in its clone")
        return
    if request.files or request.repositories:
        text = "package files and proposed repositories of the scenario were left out"
        yield _note("packages", text, "nothing is copied to the guest; the rehearsal has them")
    if not seen.lists:
        text = "the guest has no package lists: what would be upgraded is not known"
        hint = "a preflight changes nothing; run apt-get update there yourself, or just rehearse"
        yield _warning("package lists", text, hint)
        return
    days = (seen.now - seen.lists) // DAY
    if days >= 1:
        text = f"the package lists are {count(days, 'day')} old: what is newer is not seen"
        yield _note("package lists", text, "a rehearsal fetches new ones in its clone")


def _simulation(
    seen: GuestSurvey, request: UpgradeRequest, keep: Sequence[str]
) -> Iterator[PreflightPoint]:
    if not seen.apt or request.what in ("release", "script") or not seen.lists:
        return
    if seen.as_root:
        text = "apt ran as root: the user nobody cannot read its sources, or setpriv is missing"
        yield _note("packages", text, "it only simulated, with its cache in memory")
    if not seen.asked:
        yield _blocker(
            "packages",
            "the guest's kernel was not installed through a metapackage such as "
            "linux-image-amd64, so apt has no newer kernel to offer",
            "name the package: --upgrade linux-image-…",
        )
        return
    if any(line.startswith("E: ") for line in seen.said):
        words = explain(seen.said, 100).error
        yield _blocker("packages", f"apt refuses: {words}", "see apt-get -s on the guest")
        return
    if seen.changes:
        words = (
            f"{count(len(seen.changes), 'package')} would change, {size(seen.download)} to fetch"
        )
        yield _note("packages", words)
    else:
        yield _note("packages", "nothing to upgrade, by the package lists that the guest has")
    changed = [change.name for change in seen.changes]
    kept = [name for name in changed if any(fnmatchcase(name, pattern) for pattern in keep)]
    if kept:
        text = f"the scenario keeps {some(kept)}, and the upgrade would change that"
        yield _blocker("packages", text, "hold it on the guest, or change expect.keep")
    if removed := [change.name for change in seen.changes if change.new is None]:
        text = f"the upgrade removes {count(len(removed), 'package')}: {some(removed)}"
        yield _warning("removed", text, "are they needed? expect.keep makes the rehearsal fail")
    if seen.kept_back:
        yield _note("kept back", f"apt keeps back {some(seen.kept_back)}")
    if seen.held:
        text = f"on hold, and not upgraded: {some(seen.held)}"
        yield _warning("held", text, "apt-mark unhold NAME, if that is not meant any more")


def _dpkg(seen: GuestSurvey) -> Iterator[PreflightPoint]:
    mend = "dpkg --configure -a on the guest, and apt-get -f install"
    if seen.broken:
        text = f"dpkg left {count(len(seen.broken), 'package')} half-way: {some(seen.broken)}"
        yield _blocker("dpkg", text, mend)
    if seen.interrupted:
        yield _blocker("dpkg", "dpkg was interrupted, or is at work just now", mend)


# --- space ----------------------------------------------------------------------------------


def _space(seen: GuestSurvey) -> Iterator[PreflightPoint]:
    for mount in seen.read_only:
        text = f"{mount} is mounted read-only"
        if mount in seen.remounted:
            hint = "does it, when apt runs?"
            yield _warning("space", f"{text}, and a hook of apt is to change that", hint)
        else:
            yield _blocker("space", text, "after an error of its disk? see dmesg")
    if seen.df_error:
        text = f"whether the upgrade has room was not looked at: {seen.df_error}"
        yield _warning("space", text, "is a mount stale? compare df on the guest")
    needs: dict[str, int] = {}
    for path, amount in ((ARCHIVES, seen.download), ("/usr", max(0, seen.growth))):
        space = seen.space.get(path) or seen.space.get("/")
        if space is not None:
            needs[space.mount] = needs.get(space.mount, 0) + amount
    free = {space.mount: space.free for space in seen.space.values()}
    for mount, need in sorted(needs.items()):
        if not need or free[mount] >= need + SPARE:
            continue
        text = f"{mount} has {size(free[mount])} free, and the upgrade needs {size(need)} there"
        hint = "apt-get clean, or more room, before the upgrade"
        severity = PreflightSeverity.BLOCKER if free[mount] < need else PreflightSeverity.WARNING
        yield PreflightPoint(severity=severity, topic="space", text=text, hint=hint)
    root = seen.space.get("/")
    if root is not None and root.inodes is not None and root.inodes < SPARE_INODES:
        text = f"/ has room for only {root.inodes} more files"
        yield _warning("space", text, "dpkg needs one for each file of a package, for a while")


# --- what a person is asked, and what has to be started again --------------------------------


def _conffiles(seen: GuestSurvey) -> Iterator[PreflightPoint]:
    for file in seen.conffiles:
        text = f"an interactive upgrade may ask about {file.path} ({file.package}): it was "
        text += "deleted" if file.deleted else "changed"
        hint = "a rehearsal shows whether it asks, and the difference"
        yield _warning("conffiles", text, hint)


def _services(seen: GuestSurvey, *, reboot: bool) -> Iterator[PreflightPoint]:
    old = [name for name in seen.users if name not in seen.restarts]
    if old and not reboot:
        text = (
            f"{count(len(old), 'service')} would go on with the old program or libraries: "
            f"{some(old)}"
        )
        yield _warning("services", text, "restart them afterwards, or reboot")
    if seen.stale:
        text = f"still with what an earlier upgrade replaced: {some(seen.stale)}"
        yield _warning("services", text, "they change with their next start, upgrade or not")


def _blocker(topic: str, text: str, hint: str = "") -> PreflightPoint:
    return PreflightPoint(severity=PreflightSeverity.BLOCKER, topic=topic, text=text, hint=hint)


def _warning(topic: str, text: str, hint: str = "") -> PreflightPoint:
    return PreflightPoint(severity=PreflightSeverity.WARNING, topic=topic, text=text, hint=hint)


def _note(topic: str, text: str, hint: str = "") -> PreflightPoint:
    return PreflightPoint(severity=PreflightSeverity.NOTE, topic=topic, text=text, hint=hint)
