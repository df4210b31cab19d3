"""Runs a scenario's checks against the clone, in a process of their own.

The checks are code from a scenario's folder. They get a clean environment, limits, a deadline
and this run's SSH connection, nothing else; what they report is believed only as far as it
makes sense. However they end, the session says so: a check that takes its process along, hangs,
or loses the guest is never a check that passed.
"""

from __future__ import annotations

import os
import re
import secrets
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import sandbox
from sandbox.checks import CheckSettings
from sandbox.checks.connection import CheckConnection
from sandbox.checks.job import TEMPORARY, Job, PhaseName
from sandbox.checks.protocol import Garbled, SessionTranscript, clean, one_line
from sandbox.core.deadline import Deadline
from sandbox.core.process import kill_group
from sandbox.core.records import CheckEnd, CheckResult, CheckSession, Observation, Outcome

WORKER = "sandbox.checks.worker"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MARK = "UPGRADE_SANDBOX_CHECKS"  # in the environment of every process that a check starts
RESERVE = 60.0  # seconds, at most, that checks leave of their phase after the upgrade
GRACE_SECONDS = 2.0  # between SIGTERM and SIGKILL
LOG_BYTES = 256 * 1024
CHUNK = 64 * 1024
# pytest's exit statuses that mean the session went to its end; 4: its arguments were refused.
WENT_THROUGH = (0, 1, 5)
USAGE_ERROR = 4
TRACE_PLACE = re.compile(r"(?P<path>\S.*):(?P<line>\d+): in ")


def run_checks(
    *,
    files: Sequence[Path],
    shared: Sequence[Path],
    ssh_config: Path,
    host: str,
    phase: PhaseName,
    baseline: Observation | None,
    current: Observation,
    settings: CheckSettings,
    work_dir: Path,
    deadline: Deadline,
    on_result: Callable[[CheckResult], None],
    only: Sequence[str] = (),
    log: str = "",
) -> CheckSession:
    """Run ``files`` (the scenario's own) and ``shared`` checks against ``host`` of ``ssh_config``.

    ``host`` must have a live master connection (ControlPath): every command goes through it.
    ``baseline`` is the observation before the upgrade, None in the before-phase. ``work_dir`` is
    the run's folder, the same in both phases; it gets ``checks-<phase>.log``, or one of the name
    that ``log`` states. ``on_result`` is called for each result as it comes. ``only``: of these
    checks, by name. How the session ended is in the result; raises
    :class:`~sandbox.core.errors.DeadlineExceeded` only when no time is left to begin with.
    """
    started = time.monotonic()
    if not files and not shared:
        return CheckSession(results=(), message="no checks were given")
    deadline.check("give the checks' phase more time")
    work_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    connection = CheckConnection(ssh_config.resolve(), host)
    master = connection.find_master(deadline)
    if master == 0:
        message = "the SSH connection to the guest was gone before the checks began"
        return CheckSession(results=(), end=CheckEnd.CONNECTION_LOST, message=message)
    own = [path.resolve() for path in files]
    job = Job(
        token=secrets.token_hex(16),
        phase=phase,
        root=str(_common_folder(own or [path.resolve() for path in shared])),
        own=tuple(map(str, own)),
        shared=tuple(str(path.resolve()) for path in shared),
        work_dir=str(work_dir.resolve()),
        ssh_config=str(connection.ssh_config),
        host=host,
        master_pid=master,
        baseline=(baseline or current).model_copy(
            update={"wide": None}
        ),  # checks have no use for it
        current=current,
        settings=settings,
        seconds=deadline.remaining(),
        log=log or f"checks-{phase}",
        only=tuple(only),
    )
    return _Session(job, deadline, on_result).run(started)


def share_of_checks(seconds: float) -> float:
    """How long checks may take of a phase: one that hangs does not take the time in which it is
    found out whether it hangs on the control, too."""
    return seconds - min(RESERVE, seconds / 5)


def ignore_result(_result: CheckResult) -> None:
    """For callers that do not follow single results."""


def _common_folder(paths: Sequence[Path]) -> Path:
    return Path(os.path.commonpath([path.parent for path in paths]))


class _Session:
    """One child process from its start to the judgement of how it ended."""

    def __init__(
        self, job: Job, deadline: Deadline, on_result: Callable[[CheckResult], None]
    ) -> None:
        self._job = job
        self._deadline = deadline
        self._on_result = on_result
        self._folder = Path(job.work_dir)
        self._log = self._folder / f"{job.log}.log"
        self._transcript = SessionTranscript(job.token, on_result)
        self._garbled = ""
        self._timed_out = False

    def run(self, started: float) -> CheckSession:
        mark = secrets.token_hex(16)
        try:
            with self._child(mark) as (child, events):
                self._listen(child, events)
                status = self._end(child)
        finally:
            end_strays(mark)
            shutil.rmtree(self._folder / TEMPORARY, ignore_errors=True)
        end, message = self._judge(status)
        culprit = self._culprit(end, message)
        if culprit is not None:
            self._on_result(culprit)
            self._transcript.results.append(culprit)
        return CheckSession(
            results=tuple(self._transcript.results),
            end=end,
            message=one_line(message),
            seconds=time.monotonic() - started,
        )

    @contextmanager
    def _child(self, mark: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
        """Start the checks' process; whatever happens, its process group does not outlive us."""
        job_file = self._folder / f"{self._job.log}.json"
        write_private(job_file, self._job.model_dump_json().encode())
        write_private(self._log, b"")
        (self._folder / TEMPORARY).mkdir(mode=0o700, exist_ok=True)
        reading, writing = os.pipe()
        try:
            with self._log.open("ab") as log:
                child = subprocess.Popen(
                    [sys.executable, "-m", WORKER, job_file, str(writing), str(os.getpid())],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=self._environment(mark),
                    cwd=self._folder,
                    pass_fds=[writing],
                    start_new_session=True,
                )
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        os.set_blocking(reading, False)
        try:
            yield child, reading
        finally:
            os.close(reading)
            if child.returncode is None:
                kill_group(child.pid)
                child.wait()
            job_file.unlink(missing_ok=True)

    def _environment(self, mark: str) -> dict[str, str]:
        """Everything the checks see of our environment: no credentials, no agent, no options."""
        return {
            "PATH": PATH,
            "HOME": self._job.work_dir,
            "TMPDIR": str(self._folder / TEMPORARY),
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(Path(sandbox.__file__).resolve().parent.parent),
            "PYTHONSAFEPATH": "1",  # no imports from the folder that it happens to start in
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONNOUSERSITE": "1",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # testinfra's own plugin among them
            MARK: mark,
        }

    def _listen(self, child: subprocess.Popen[bytes], events: int) -> None:
        """Follow the session until the child ends, talks nonsense or runs out of time."""
        ended = os.pidfd_open(child.pid)
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(events, selectors.EVENT_READ)
                selector.register(ended, selectors.EVENT_READ)
                while True:
                    ready = {key.fd for key, _ in selector.select(self._deadline.remaining())}
                    if events in ready and not self._read(events):
                        selector.unregister(events)
                    if ended in ready:
                        self._drain(events)
                        return
                    if self._garbled:
                        return
                    if self._deadline.expired():
                        self._timed_out = True
                        return
        finally:
            os.close(ended)

    def _read(self, events: int) -> bool:
        """Take in what is there; false when no more can come."""
        try:
            data = os.read(events, CHUNK)
        except BlockingIOError:
            return True
        try:
            self._transcript.feed(data)
        except Garbled as problem:
            self._garbled = str(problem)
            return False
        return bool(data)

    def _drain(self, events: int) -> None:
        """Results written just before the end still count."""
        waiting = selectors.DefaultSelector()
        with waiting:
            waiting.register(events, selectors.EVENT_READ)
            while not self._garbled and waiting.select(0):
                if not self._read(events):
                    return

    def _end(self, child: subprocess.Popen[bytes]) -> int:
        """End the whole process group, with a moment to say where it hangs; the child's status."""
        if self._timed_out:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                # Not reaped by wait(): until then the group's number cannot be given away.
                _wait_unreaped(child.pid, GRACE_SECONDS)
        kill_group(child.pid)
        return child.wait()

    def _judge(self, status: int) -> tuple[CheckEnd, str]:
        seen = self._transcript
        if self._garbled:
            doubt = f"the checks' results cannot be trusted: {self._garbled}"
            return CheckEnd.BROKEN, doubt + _during(seen.running)
        if seen.lost:
            return CheckEnd.CONNECTION_LOST, f"{seen.lost}{_during(seen.running)}"
        if self._timed_out:
            return self._judge_timeout()
        if seen.status is None:
            return self._judge_early_end(status)
        if status != seen.status:
            return CheckEnd.DIED, f"the checks' process ended badly ({describe_status(status)})"
        if seen.broken:
            more = f" (and {len(seen.broken) - 1} more)" if len(seen.broken) > 1 else ""
            return CheckEnd.BROKEN, seen.broken[0] + more
        if status == USAGE_ERROR and not seen.names:
            return CheckEnd.BROKEN, self._usage_error()
        if status not in WENT_THROUGH or seen.names is None or seen.missing:
            culprit = seen.running or (seen.missing or ("a check",))[0]
            return CheckEnd.DIED, f"the session was stopped at {culprit} (pytest status {status})"
        return CheckEnd.COMPLETE, ""

    def _judge_timeout(self) -> tuple[CheckEnd, str]:
        seen, seconds = self._transcript, self._job.seconds
        lost = self._job.connection.trouble()
        if lost:
            return CheckEnd.CONNECTION_LOST, f"{lost}{_during(seen.running)}"
        if seen.running:
            what = f"test {seen.running} did not end"
        elif seen.collecting:
            what = f"loading {seen.collecting} did not end"
        else:
            what = "the checks did not end"
        return CheckEnd.TIMEOUT, f"{what} within the {seconds:.0f} s of the phase"

    def _judge_early_end(self, status: int) -> tuple[CheckEnd, str]:
        seen = self._transcript
        how = describe_status(status)
        if seen.running:
            middle = "in the middle of the session"
            return CheckEnd.DIED, f"test {seen.running} ended the checks' process ({how} {middle})"
        if seen.names is None and seen.broken:
            return CheckEnd.BROKEN, seen.broken[0]
        if seen.names is None and seen.collecting:
            return CheckEnd.DIED, f"loading {seen.collecting} ended the checks' process ({how})"
        return CheckEnd.DIED, f"the checks' process ended between two checks ({how})"

    def _usage_error(self) -> str:
        """Why pytest refused to begin: mostly a conftest.py that cannot be loaded."""
        lines = [line.strip() for line in self._log_tail().splitlines() if line.strip()]
        errors = [line[1:].strip() for line in lines if line.startswith("E ")]
        places = [match for line in lines if (match := TRACE_PLACE.match(line))]
        if errors and places:
            path = (self._folder / places[-1]["path"]).resolve()
            return f"{self._job.name_of(path)}:{places[-1]['line']}: {errors[-1]}"
        refusals = [line for line in lines if line.startswith("ERROR: ")]
        return refusals[-1].removeprefix("ERROR: ") if refusals else "pytest refused to begin"

    def _culprit(self, end: CheckEnd, message: str) -> CheckResult | None:
        """The check that ended the session has a result too: it broke, with the log's tail."""
        if end not in (CheckEnd.DIED, CheckEnd.TIMEOUT) or not self._transcript.running:
            return None
        return CheckResult(
            name=self._transcript.running,
            outcome=Outcome.ERROR,
            message=one_line(message),
            detail=clean(self._log_tail()),
        )

    def _log_tail(self) -> str:
        with self._log.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(0, size - LOG_BYTES))
            return log.read().decode(errors="replace")


def _during(name: str) -> str:
    return f" (during {name})" if name else ""


def _wait_unreaped(pid: int, seconds: float) -> None:
    """Wait for a child's end and leave it a zombie."""
    descriptor = os.pidfd_open(pid)
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            selector.select(seconds)
    finally:
        os.close(descriptor)


def describe_status(status: int) -> str:
    """``exit status 3`` or ``killed by SIGSEGV``."""
    if status >= 0:
        return f"exit status {status}"
    with suppress(ValueError):
        return f"killed by {signal.Signals(-status).name}"
    return f"killed by signal {-status}"


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def end_strays(mark: str) -> None:
    """Kill what a check started and moved out of its process group: it carries our mark."""
    wanted = f"{MARK}={mark}".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                os.kill(int(entry.name), signal.SIGKILL)
        except OSError:
            continue  # it ended meanwhile, or is not ours to look at
