"""The script upgrader: the user's own script is the upgrade; its exit status decides.

What it changed is seen in the observations before and after. It finds the package proxy in the
usual environment variables.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from sandbox.core.deadline import Deadline
from sandbox.core.errors import DeadlineExceeded, GuestUnreachable, RequestError
from sandbox.core.guest_shell import Shell, new_mark
from sandbox.core.records import UpgradeLog, UpgradeStatus
from sandbox.managers import (
    LONGER,
    WORK,
    OnLine,
    OnProgress,
    Simulation,
    UpgradeRequest,
    detect,
    ignore_line,
    ignore_progress,
    log_tail,
)
from sandbox.managers.transcript import ManagerTranscript

MAX_SCRIPT = 1_000_000
_TROUBLE = re.compile(
    r"error|fail|cannot|can't|could not|not found|no such|denied|unable|fatal", re.IGNORECASE
)

# $1 mark, $2 proxy, $3 path, $4 work folder
_RUN = """
main() {
    mark=$1 proxy=$2 file=$3 work=$4
    if [ -n "$proxy" ]; then
        http_proxy=$proxy https_proxy=$proxy HTTP_PROXY=$proxy HTTPS_PROXY=$proxy
        export http_proxy https_proxy HTTP_PROXY HTTPS_PROXY
        unset no_proxy NO_PROXY
    fi
    DEBIAN_FRONTEND=noninteractive LC_ALL=C
    export DEBIAN_FRONTEND LC_ALL
    chmod 700 "$file" || return 126
    printf '%s stage script\\n' "$mark"
    case $(head -c 2 "$file") in
        '#!') "$file" ;;
        *) sh "$file" ;;
    esac
    status=$?
    rm -rf "$work"
    return "$status"
}
main "$@" </dev/null
"""


@dataclass(frozen=True)
class ScriptUpgrader:
    """The :class:`~sandbox.managers.Upgrader` that runs the scenario's script."""

    name: str = "script"
    work: str = WORK

    def sources(self, shell: Shell, request: UpgradeRequest, deadline: Deadline) -> tuple[str, ...]:
        """Those of the guest's package manager, when it has one that we know."""
        try:
            manager = detect(shell, deadline)
        except RequestError:
            return ()
        return manager.sources(shell, request, deadline)

    def simulate(
        self,
        shell: Shell,
        request: UpgradeRequest,
        deadline: Deadline,
        on_progress: OnProgress = ignore_progress,
        on_line: OnLine = ignore_line,
    ) -> Simulation:
        """A script cannot be simulated: this only makes sure that it is there and puts it."""
        script = request.script
        if script is None or not script.is_file():
            raise RequestError(f"no such script: {script}", "give the path of the upgrade script")
        if script.stat().st_size > MAX_SCRIPT:
            raise RequestError(f"{script} is larger than 1 MB", "let a short script fetch the rest")
        shell.put(script, self._remote, deadline)
        return Simulation(arguments=(self._remote,))

    def apply(
        self,
        shell: Shell,
        request: UpgradeRequest,
        simulation: Simulation,
        deadline: Deadline,
        on_progress: OnProgress = ignore_progress,
        on_line: OnLine = ignore_line,
    ) -> UpgradeLog:
        started = time.monotonic()

        def show(line: str) -> None:
            on_progress(None, line)
            on_line(line)

        told = ManagerTranscript(new_mark(), lambda stage, line: None, show)
        args = (told.mark, shell.proxy_url(), *simulation.arguments, self.work)
        try:
            status = shell.follow(_RUN, deadline, told.feed, args=args)
        except GuestUnreachable as problem:
            raise problem.amid(_last_words(told)) from problem
        except DeadlineExceeded as late:
            words = _last_words(told)
            raise DeadlineExceeded(late.phase, late.seconds, LONGER, doing=words) from late
        lines = told.of("script")
        return UpgradeLog(
            manager=self.name,
            status=UpgradeStatus.APPLIED if status == 0 else UpgradeStatus.FAILED,
            requested=request.describe(),
            error=explain(lines, status),
            exit_status=status,
            log=log_tail(told.lines),
            seconds=time.monotonic() - started,
        )

    @property
    def _remote(self) -> str:
        return f"{self.work}/script"


def _last_words(told: ManagerTranscript) -> str:
    return f"the script's last words: {told.last or 'none'}"


def explain(lines: list[str], status: int) -> str:
    """The last line that speaks of trouble, or the last one; "" for success."""
    if status == 0:
        return ""
    trouble = [line for line in lines if _TROUBLE.search(line)]
    words = (trouble or lines or [""])[-1].strip()[:300]
    return f"the script ended with status {status}" + (f": {words}" if words else "")
