"""The apt upgrader: Debian and its descendants, through four short scripts in the clone.

Under emulation each start of apt costs seconds, so a rehearsal starts it four times: update,
simulate, list of files (one script), then fetch-and-install (one script). Security updates among
others have to be simulated twice. Proxy, proposed
sources and conffile policy are command-line options; no file of the guest changes for our sake.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

from sandbox.core.deadline import Deadline
from sandbox.core.errors import (
    DeadlineExceeded,
    GuestBusy,
    GuestUnreachable,
    NotFetched,
    RequestError,
)
from sandbox.core.guest_shell import Shell, new_mark
from sandbox.core.records import ConffileDecision, Start, UpgradeLog, UpgradeStatus
from sandbox.managers import (
    LONGER,
    WORK,
    Failure,
    OnLine,
    OnProgress,
    Simulation,
    UpgradeRequest,
    ignore_line,
    ignore_progress,
    log_tail,
)
from sandbox.managers import apt_parse as parse
from sandbox.managers.transcript import ManagerTranscript, sections_of
from sandbox.observe.observation_parse import starts_of

OnStatus = Callable[[str, str], None]
MAX_NAMES = 1000  # of packages, in one command line
FETCH_SHARE = 0.2  # of the progress bar, when there is something to fetch
LOCK_PAUSE = 5.0  # seconds between tries while the guest's own apt holds its lock
_NAME = re.compile(r"[a-z0-9][a-z0-9.+-]*(?<!-)(?::[a-z0-9-]+)?(?:=[A-Za-z0-9][A-Za-z0-9.+:~-]*)?")

# Without --no-release-info apt names only what it has fetched before: nothing on a fresh guest.
# A mirror list in the guest (cloud images have one) counts with the mirrors it names.
_SOURCES = r"""
apt-get --no-release-info indextargets --format '$(REPO_URI)' </dev/null | sort -u |
    while IFS= read -r uri; do
        case $uri in
            mirror+file:*)
                list=${uri#mirror+file:}
                sed 's/[#[:space:]].*//' "${list%/}"
                ;;
            *) printf '%s\n' "$uri" ;;
        esac
    done
"""


@dataclass(frozen=True)
class AptUpgrader:
    """The :class:`~sandbox.managers.Upgrader` of apt."""

    name: str = "apt"
    work: str = WORK

    def sources(self, shell: Shell, request: UpgradeRequest, deadline: Deadline) -> tuple[str, ...]:
        proposed = [parse.repository_uri(line) for line in request.repositories]
        answer = shell.run(_SOURCES, deadline)
        own = [line.strip() for line in answer.stdout.splitlines() if "://" in line]
        return tuple(dict.fromkeys(own + proposed))

    def simulate(
        self,
        shell: Shell,
        request: UpgradeRequest,
        deadline: Deadline,
        on_progress: OnProgress = ignore_progress,
        on_line: OnLine = ignore_line,
    ) -> Simulation:
        arguments = _arguments(request, self._put_files(shell, request, deadline))
        stage = _SimulateStage(self, shell, request, deadline, on_progress, on_line)
        security = request.what == "security"
        first = stage.run(arguments, update=True, uris="if security" if security else "always")
        if not security or first.failure:
            return first
        if first.changes and all(c.new and parse.is_security(c) for c in first.changes):
            everything = tuple(change.name for change in first.changes)
            return replace(first, kept_back=_left_out(first, everything))
        chosen = parse.security_selection(first.changes)
        local = arguments[1:]
        if not chosen and not local:
            return replace(first, changes=(), kept_back=_left_out(first, ()))
        only_upgrade = () if local else ("--only-upgrade",)  # it would ignore new local packages
        second = stage.run(("install", *only_upgrade, *chosen, *local), update=False, uris="always")
        changed = tuple(change.name for change in second.changes)
        return replace(second, kept_back=_left_out(first, changed))

    def apply(
        self,
        shell: Shell,
        request: UpgradeRequest,
        simulation: Simulation,
        deadline: Deadline,
        on_progress: OnProgress = ignore_progress,
        on_line: OnLine = ignore_line,
    ) -> UpgradeLog:
        facts = UpgradeLog(
            manager=self.name,
            status=UpgradeStatus.NOTHING,
            requested=request.describe(),
            changes=simulation.changes,
            held=simulation.held,
            kept_back=simulation.kept_back,
            download_bytes=simulation.download_bytes,
            exit_status=simulation.exit_status,
            log=simulation.log,
        )
        if failure := simulation.failure:
            return facts.model_copy(
                update={
                    "status": failure.status,
                    "error": failure.error,
                    "failed_package": failure.package,
                }
            )
        if not simulation.changes:
            return facts
        started = time.monotonic()
        share = FETCH_SHARE if simulation.download_bytes else 0.0
        two_steps = request.what == "release"

        def show(stage: str, line: str) -> None:
            if status := parse.status_of(line):
                percent, words = _progress(status, share)
                if two_steps:
                    percent = percent / 2 + (50 if stage == "apply" else 0)
                on_progress(percent, words)

        script = _script("apt_apply.sh")
        minimal = "minimal first" if two_steps else ""
        args = (shell.proxy_url(), self.work, minimal, *simulation.arguments)
        exit_status, told = _follow(shell, script, args, deadline, show, on_line)
        names = [change.name for change in simulation.changes if change.old and change.new]
        after = _aftermath(shell, self.work, names, told.lines, deadline)
        update: dict[str, object] = {
            "status": UpgradeStatus.APPLIED,
            "conffiles": after.conffiles,
            "not_configured": after.not_configured,
            "restarts": after.restarts,
            "stops": after.stops,
            "starts": after.starts,
            "exit_status": exit_status,
            "log": log_tail([*told.lines, *after.audit]),
            "seconds": time.monotonic() - started,
        }
        if exit_status != 0:
            # Without the status lines a message that apt itself cut short would be lost.
            failure = parse.explain([*told.lines, *told.statuses], exit_status)
            update |= {"status": failure.status, "error": failure.error}
            update["failed_package"] = failure.package
        return facts.model_copy(update=update)

    def _put_files(
        self, shell: Shell, request: UpgradeRequest, deadline: Deadline
    ) -> tuple[str, ...]:
        """Copy the proposed local packages into the clone; their paths there."""
        remote: list[str] = []
        for index, file in enumerate(request.files):
            if not file.is_file() or file.suffix != ".deb":
                raise RequestError(f"not a .deb file: {file}", "give the path of a local package")
            name = re.sub(r"[^A-Za-z0-9.+_-]", "_", file.name)
            remote.append(f"{self.work}/files/{index:02d}/{name}")
            shell.put(file, remote[-1], deadline)
        return tuple(remote)


@dataclass(frozen=True)
class _SimulateStage:
    """One call of apt_simulate.sh after another, with what they share."""

    upgrader: AptUpgrader
    shell: Shell
    request: UpgradeRequest
    deadline: Deadline
    on_progress: OnProgress
    on_line: OnLine

    def run(self, arguments: tuple[str, ...], *, update: bool, uris: str) -> Simulation:
        """``uris``: "always", or "if security": when nothing else would change."""

        def show(stage: str, line: str) -> None:
            if status := parse.status_of(line):
                self.on_progress(status.percent, f"package lists: {status.text}")

        kernel = self.request.what == "kernel"
        args = (
            self.shell.proxy_url(),
            self.upgrader.work,
            "update" if update else "",
            uris,
            "\n".join(line.strip() for line in self.request.repositories),
            "kernel" if kernel else "",
            self.request.release,
            *arguments,
        )
        script = _script("apt_simulate.sh")
        exit_status, told = _follow(self.shell, script, args, self.deadline, show, self.on_line)
        if kernel:
            arguments = (*arguments, *told.of("kernel"))
        lines = told.of("simulate")
        return Simulation(
            changes=parse.changes_of(lines),
            held=tuple(sorted(told.of("held"))),
            kept_back=parse.kept_back_of(lines),
            download_bytes=parse.download_size_of(told.of("uris")),
            arguments=arguments,
            failure=_simulate_failure(
                told, exit_status, kernel=kernel, release=self.request.release
            ),
            exit_status=exit_status,
            log=log_tail(told.lines),
        )


def _simulate_failure(
    told: ManagerTranscript, exit_status: int, *, kernel: bool, release: str
) -> Failure | None:
    if told.stage == "release" and exit_status != 0:
        runs = (told.of("release") or ["unknown"])[0]
        return Failure(
            UpgradeStatus.IMPOSSIBLE,
            f"no package source of the guest names the release that runs ({runs}), so none can"
            f" be changed to {release}",
        )
    updated = told.of("update")
    if told.stage == "update" and exit_status != 0:
        return parse.explain(updated, exit_status, updating=True)
    # Older versions of apt succeed although a list could not be fetched.
    if trouble := parse.fetch_trouble(updated):
        return parse.explain([trouble], exit_status, updating=True)
    if kernel and not told.of("kernel") and "kernel" in told.stages:
        return Failure(
            UpgradeStatus.IMPOSSIBLE,
            "the guest's kernel was not installed through a metapackage such as"
            " linux-image-amd64, so apt has no newer kernel to offer: name the package",
        )
    if exit_status != 0:
        return parse.explain(told.lines, exit_status)
    return None


def _arguments(request: UpgradeRequest, local: tuple[str, ...]) -> tuple[str, ...]:
    """apt-get's own words for a request."""
    if request.what in ("all", "security", "release"):
        return ("dist-upgrade", *local)
    if request.what == "kernel":
        return ("install", *local) if local else ("install", "--only-upgrade")
    if request.what == "packages":
        for name in request.packages:
            if not _NAME.fullmatch(name):
                raise RequestError(f"not a package name: {name!r}", "write name or name=version")
        if not request.packages and not local:
            raise RequestError("no packages named", "name at least one package or local file")
        # A version that was asked for may be an older one.
        downgrade = any("=" in name for name in request.packages)
        options = ("--allow-downgrades",) if downgrade else ()
        return ("install", *options, *request.packages, *local)
    raise RequestError(
        f"apt cannot do {request.what!r}", "all, security, kernel, release or packages"
    )


def _left_out(everything: Simulation, changed: Sequence[str]) -> tuple[str, ...]:
    """What a dist-upgrade would upgrade, and this set does not."""
    upgradable = {change.name for change in everything.changes if change.old and change.new}
    return tuple(sorted((upgradable - set(changed)) | set(everything.kept_back)))


def _progress(status: parse.Status, fetch_share: float) -> tuple[float, str]:
    """Percent of the whole: fetching is the first part of it."""
    if status.kind == "pmconffile":
        return 100 * fetch_share + status.percent * (1 - fetch_share), (
            f"{status.item} was changed in this guest, and by the new version too"
        )
    if status.kind == "dlstatus":
        return status.percent * fetch_share, f"fetching: {status.text}"
    return 100 * fetch_share + status.percent * (1 - fetch_share), status.text


def _script(*names: str) -> str:
    folder = files("sandbox.managers")
    return "".join((folder / name).read_text() for name in ("apt_common.sh", *names))


def _follow(
    shell: Shell,
    script: str,
    args: Sequence[str],
    deadline: Deadline,
    on_status: OnStatus,
    on_line: OnLine,
) -> tuple[int, ManagerTranscript]:
    """Follow a stage; again while the guest's own apt holds the lock, within the deadline.

    When time runs out, it raises :class:`GuestBusy` for a lock that was not released, and
    :class:`NotFetched` where apt still fetched: apt changes nothing before it has everything.
    """
    locked = ""
    while True:
        told = ManagerTranscript(new_mark(), on_status, on_line)
        try:
            exit_status = shell.follow(script, deadline, told.feed, args=(told.mark, *args))
            locked = parse.locked_out(told.lines) if exit_status else ""
            if not locked:
                return exit_status, told
            deadline.sleep(LOCK_PAUSE)
        except GuestUnreachable as problem:
            raise problem.amid(_last_words(told)) from problem
        except DeadlineExceeded as late:
            kind, hint, doing = DeadlineExceeded, LONGER, _last_words(told)
            if locked or parse.waits_for_lock(told.last):
                kind, hint = GuestBusy, "rehearse again when the guest's own upgrade has ended"
                doing = f"another package manager is at work in the guest: {locked or told.last}"
            elif parse.still_fetches(told.statuses):
                kind, doing = NotFetched, f"the packages were not fetched yet; {doing}"
            raise kind(late.phase, late.seconds, hint, doing=doing) from late


def _last_words(told: ManagerTranscript) -> str:
    words, package = told.last or "none", parse.package_at_work(told.statuses)
    return f"apt's last words: {words}" + ("" if package in words else f" (at {package})")


@dataclass(frozen=True)
class _Aftermath:
    audit: tuple[str, ...]
    not_configured: tuple[str, ...]
    conffiles: tuple[ConffileDecision, ...]
    restarts: dict[str, str]
    stops: tuple[str, ...]
    starts: dict[str, Start]


def _aftermath(
    shell: Shell, work: str, names: Sequence[str], lines: Sequence[str], deadline: Deadline
) -> _Aftermath:
    mark = new_mark()
    script = _script("apt_restarts.sh", "apt_aftermath.sh")
    answer = shell.run(script, deadline, args=(mark, work, *names[:MAX_NAMES]))
    sections = sections_of(answer.stdout, mark)
    starts = starts_of(sections.get("starts", ()))
    states = [line.split() for line in sections.get("states", [])]
    return _Aftermath(
        audit=tuple(sections.get("audit", [])),
        not_configured=tuple(sorted(words[0] for words in states if len(words) == 2)),
        conffiles=conffile_decisions(parse.prompts_of(lines), sections),
        restarts=parse.restarts_of(sections.get("services", ()), starts),
        stops=tuple(sorted(parse.stops_of(sections.get("services", ()), starts))),
        starts=starts,
    )


def conffile_decisions(
    prompts: Sequence[parse.Prompt], sections: dict[str, list[str]]
) -> tuple[ConffileDecision, ...]:
    """dpkg's own questions joined with the files that dpkg and ucf left beside them."""
    asked = {prompt.path: prompt for prompt in prompts}
    found = {
        path: ConffileDecision(path=path, package=prompt.package, decision=prompt.decision)
        for path, prompt in asked.items()
    }
    for title, diff in sections.items():
        if not title.startswith("file /"):
            continue
        beside = Path(title.removeprefix("file "))
        path = "/etc/" + str(beside.with_suffix("")).partition("/etc/")[2]
        if beside.suffix == ".dpkg-new" and path not in asked:
            continue  # unpacked, not yet configured: dpkg would not have asked
        prompt = asked.get(path)
        found[path] = ConffileDecision(
            path=path,
            package=prompt.package if prompt else "",
            decision="replaced" if beside.suffix in parse.OLD_SUFFIXES else "kept",
            diff="\n".join(diff),
        )
    return tuple(found[path] for path in sorted(found))
