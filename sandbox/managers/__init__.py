"""Package managers: what one must be able to do inside a clone, and the registry of them.

A new distribution is one file in this folder and one line in :data:`MANAGERS`. Every upgrader
takes only the :class:`~sandbox.core.guest_shell.Shell` protocol, reaches packages through
``shell.proxy_url()`` by command-line options (so that no file of the guest changes for our
sake), and reports facts; the verdict is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from sandbox.core.deadline import Deadline
from sandbox.core.errors import ConnectionLost, RequestError
from sandbox.core.guest_shell import Shell
from sandbox.core.records import PackageChange, UpgradeLog, UpgradeStatus

What = Literal["all", "security", "kernel", "packages", "release", "script"]
OnProgress = Callable[[float | None, str], None]  # percent of the whole or None, words
OnLine = Callable[[str], None]  # every line of the transcript, for the artifact

WORK = "/var/tmp/upgrade-sandbox"  # noqa: S108 - in the clone, removed when the upgrade ends
LOG_LIMIT = 20_000
LONGER = "give it longer by deadlines.upgrade in the scenario, unless it waits for input"


@dataclass(frozen=True)
class UpgradeRequest:
    """What to rehearse. Paths are on the host; repositories are one-line ``deb`` lines."""

    what: What
    packages: tuple[str, ...] = ()  # "nginx" or "nginx=1.22.1-9"
    repositories: tuple[str, ...] = ()  # proposed for this rehearsal only
    files: tuple[Path, ...] = ()  # local packages proposed for this rehearsal
    script: Path | None = None
    release: str = ""  # the code name of the next one: "trixie"

    def describe(self) -> str:
        """The request in words, for the report."""
        words = {
            "all": "all updates",
            "security": "security updates",
            "kernel": "the kernel",
            "packages": ", ".join(self.packages) or "local packages",
            "release": f"the release {self.release}",
            "script": f"script {self.script.name}" if self.script else "script",
        }[self.what]
        if self.files:
            words += " with " + ", ".join(file.name for file in self.files)
        if self.repositories:
            count = len(self.repositories)
            words += f" with {count} proposed {'repository' if count == 1 else 'repositories'}"
        return words


@dataclass(frozen=True)
class Failure:
    """Why a package manager stopped: whose fault, the first line that explains it."""

    status: UpgradeStatus
    error: str
    package: str = ""


@dataclass(frozen=True)
class Simulation:
    """What an upgrade would change. ``failure`` is set when not even that could be found out."""

    changes: tuple[PackageChange, ...] = ()
    held: tuple[str, ...] = ()
    kept_back: tuple[str, ...] = ()
    download_bytes: int = 0
    arguments: tuple[str, ...] = ()  # what apply does, in the package manager's own words
    failure: Failure | None = None
    exit_status: int = 0
    log: str = ""


def ignore_progress(percent: float | None, text: str) -> None:
    """For callers that do not show progress."""


def ignore_line(line: str) -> None:
    """For callers that do not keep the transcript."""


class Upgrader(Protocol):
    """One package manager. Every verb raises only ConnectionLost, DeadlineExceeded,
    GuestUnreachable, RequestError.

    What goes wrong with the upgrade itself is a fact in the Simulation or the UpgradeLog.
    """

    @property
    def name(self) -> str:
        """As the report says it: "apt"."""

    def sources(self, shell: Shell, request: UpgradeRequest, deadline: Deadline) -> tuple[str, ...]:
        """Base URIs of the guest's package sources and the proposed ones: the proxy's allow-list.

        To be read before anything else runs in the clone.
        """

    def simulate(
        self,
        shell: Shell,
        request: UpgradeRequest,
        deadline: Deadline,
        on_progress: OnProgress = ignore_progress,
        on_line: OnLine = ignore_line,
    ) -> Simulation:
        """Refresh the package lists and say what the upgrade would change; changes nothing."""

    def apply(
        self,
        shell: Shell,
        request: UpgradeRequest,
        simulation: Simulation,
        deadline: Deadline,
        on_progress: OnProgress = ignore_progress,
        on_line: OnLine = ignore_line,
    ) -> UpgradeLog:
        """Do what was simulated. A failed or empty simulation becomes its log, nothing is run."""


def _apt() -> Upgrader:
    from sandbox.managers.apt import AptUpgrader

    return AptUpgrader()


def _script() -> Upgrader:
    from sandbox.managers.script import ScriptUpgrader

    return ScriptUpgrader()


# The guest's command -> our upgrader for it. Imported late: `sandbox --help` needs none of them.
MANAGERS: dict[str, Callable[[], Upgrader]] = {"apt-get": _apt}
KNOWN_MANAGERS = ("apt-get", "dnf", "yum", "zypper", "apk", "pacman")

_DETECT = """
for name in "$@"; do
    if command -v "$name" >/dev/null 2>&1; then echo "$name"; fi
done
"""


def detect(shell: Shell, deadline: Deadline) -> Upgrader:
    """The upgrader of the guest's own package manager.

    Raises :class:`RequestError` naming what the guest has and what is supported.
    """
    answer = shell.run(_DETECT, deadline, args=KNOWN_MANAGERS)
    found = [name for name in answer.stdout.split() if name in KNOWN_MANAGERS]
    for name in found:
        if name in MANAGERS:
            return MANAGERS[name]()
    if not found and not answer.ok and not answer.stdout:
        raise ConnectionLost(
            "the clone's shell gave no answer when asked for its package manager",
            f"status {answer.status}: {answer.stderr.strip()[-200:]}",
        )
    has = ", ".join(found) or "none that we know"
    raise RequestError(
        f"the guest's package manager is not supported (it has: {has})",
        f"supported: {', '.join(MANAGERS)}; or state the upgrade as a script",
    )


def choose(shell: Shell, request: UpgradeRequest, deadline: Deadline) -> Upgrader:
    """The upgrader for a request: its script, or the guest's package manager."""
    return _script() if request.what == "script" else detect(shell, deadline)


def log_tail(lines: list[str]) -> str:
    """The transcript's end, at most LOG_LIMIT bytes, cut at a line."""
    text = "\n".join(lines)
    if len(text.encode()) <= LOG_LIMIT:
        return text
    return text.encode()[-LOG_LIMIT:].decode(errors="ignore").partition("\n")[2]
