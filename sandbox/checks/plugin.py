"""The pytest side of the checks: fixtures, stable names, and every result sent at once."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import pytest
from testinfra.host import Host

from sandbox.checks import CheckSettings
from sandbox.checks.backend import ConnectionGone, SharedSsh, open_host
from sandbox.checks.compare import listeners, real_filesystems
from sandbox.checks.connection import CheckConnection
from sandbox.checks.facts import CheckMemory
from sandbox.checks.job import Job
from sandbox.checks.protocol import Channel, Event, clean, one_line
from sandbox.core.deadline import Deadline
from sandbox.core.records import CheckResult, Filesystem, Observation, Outcome, Port

NOTHING = "sandbox_nothing_to_check"
SPARE_SECONDS = 10.0  # a check that waits gives up this long before the phase's end


class ChecksPlugin:
    """Registered by the worker; one for each session."""

    def __init__(self, job: Job, channel: Channel) -> None:
        self._job = job
        self._channel = channel
        self._deadline = Deadline(job.seconds, "checks")
        self._host = open_host(job.connection, sudo=job.settings.sudo)
        self._reports: list[tuple[pytest.TestReport, BaseException | None]] = []

    # --- what a check can ask for ----------------------------------------------------------

    @pytest.fixture(scope="session")
    def host(self) -> Host:
        """testinfra's host: the clone, over the run's one SSH connection."""
        return self._host

    @pytest.fixture(scope="session")
    def connection(self) -> CheckConnection:
        """The SSH connection itself, for what testinfra cannot do."""
        return self._job.connection

    @pytest.fixture(scope="session")
    def before(self) -> Observation:
        """The clone as it was before the upgrade; in the before-phase the same as ``now``."""
        return self._job.baseline

    @pytest.fixture(scope="session")
    def now(self) -> Observation:
        """The clone as it was measured at the start of this phase."""
        return self._job.current

    @pytest.fixture(scope="session")
    def phase(self) -> str:
        """ "before" or "after"."""
        return self._job.phase

    @pytest.fixture(scope="session")
    def settings(self) -> CheckSettings:
        """What the scenario says about the shared checks."""
        return self._job.settings

    @pytest.fixture(scope="session")
    def facts(self) -> CheckMemory:
        """Notes that outlive the phase."""
        return CheckMemory(self._job.facts_path)

    @pytest.fixture(scope="session")
    def patience(self) -> Deadline:
        """How long the checks may wait, all together, for something to come up.

        One clock for all of them: what did not come up for the first will not for the next.
        """
        left = max(0.0, self._deadline.remaining() - SPARE_SECONDS)
        return Deadline(min(self._job.settings.settle_seconds, left), "patience")

    # --- one check for each port, filesystem and URL of the guest before -------------------

    def pytest_configure(self, config: pytest.Config) -> None:
        config.addinivalue_line("markers", f"{NOTHING}: there is nothing of this kind to check")

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        baseline, settings = self._job.baseline, self._job.settings
        each: dict[str, dict[str, Port] | dict[str, Filesystem] | dict[str, str]] = {
            "each_port": listeners(baseline.ports, settings.ignore_ports),
            "each_filesystem": real_filesystems(baseline),
            "each_url": {url: url for url in settings.http},
        }
        for argument, items in each.items():
            if argument not in metafunc.fixturenames:
                continue
            values: Sequence[object] = list(items.values())
            if values:
                metafunc.parametrize(argument, values, ids=list(items))
            else:
                nothing = pytest.param(None, marks=getattr(pytest.mark, NOTHING))
                metafunc.parametrize(argument, [nothing])

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        only = self._job.only
        items[:] = [
            item
            for item in items
            if item.get_closest_marker(NOTHING) is None and (not only or self._name(item) in only)
        ]

    # --- collecting ------------------------------------------------------------------------

    def pytest_collectstart(self, collector: pytest.Collector) -> None:
        if isinstance(collector, pytest.Module):
            self._channel.send(Event.COLLECTING, name=self._job.name_of(collector.path))

    def pytest_exception_interact(
        self, call: pytest.CallInfo[Any], report: pytest.CollectReport | pytest.TestReport
    ) -> None:
        if isinstance(report, pytest.CollectReport) and call.excinfo is not None:
            self._channel.send(Event.BROKEN, message=self._place_of(call.excinfo.value))

    def pytest_internalerror(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        self._channel.send(Event.BROKEN, message=f"pytest broke: {self._place_of(excinfo.value)}")

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._channel.send(Event.COLLECTED, names=tuple(map(self._name, session.items)))

    def _name(self, item: pytest.Item) -> str:
        own = item.nodeid.partition("::")[2]
        return one_line(f"{self._job.name_of(item.path)}::{own}")

    def _place_of(self, problem: BaseException) -> str:
        """``test_web.py:3: SyntaxError: invalid syntax``, where it is the scenario's fault."""
        cause = problem
        if isinstance(problem, pytest.Collector.CollectError):
            cause = problem.__cause__ or problem.__context__ or problem
        place = self._line_of(cause)
        said = cause.msg if isinstance(cause, SyntaxError) else one_line(str(cause))
        return f"{place}{type(cause).__name__}: {said}" if said else f"{place}{cause!r}"

    def _line_of(self, problem: BaseException) -> str:
        if isinstance(problem, SyntaxError) and problem.filename:
            return f"{self._job.name_of(Path(problem.filename))}:{problem.lineno}: "
        files = {Path(path) for path in (*self._job.own, *self._job.shared)}
        place, trace = "", problem.__traceback__
        while trace is not None:
            path = Path(trace.tb_frame.f_code.co_filename)
            if path in files or path.is_relative_to(self._job.root):
                place = f"{self._job.name_of(path)}:{trace.tb_lineno}: "
            trace = trace.tb_next
        return place

    # --- running ---------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        self._reports.append((report, call.excinfo.value if call.excinfo else None))
        return report

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        name = self._name(item)
        self._channel.send(Event.BEGIN, name=name)
        self._reports.clear()
        started = time.monotonic()
        done = yield
        result = summarise(name, self._reports, time.monotonic() - started)
        lost = self._lost(result)
        if lost:
            self._channel.send(Event.LOST, name=name, message=lost)
            item.session.shouldstop = lost
            return done
        for message in missing_fixtures(self._reports):
            place = f"{self._job.name_of(item.path)}:{(item.location[1] or 0) + 1}"
            self._channel.send(Event.BROKEN, message=f"{place}: {message}")
        self._channel.send(Event.RESULT, name=name, result=result)
        return done

    def _lost(self, result: CheckResult) -> str:
        """Whether the connection broke under this check, whatever the check made of it."""
        backend: SharedSsh = self._host.backend
        if backend.lost:
            return backend.lost
        if result.outcome in (Outcome.FAILED, Outcome.ERROR):
            return self._job.connection.trouble()
        return ""


def summarise(
    name: str, reports: Sequence[tuple[pytest.TestReport, BaseException | None]], seconds: float
) -> CheckResult:
    """One result from the reports of set-up, call and tear-down: the first trouble counts."""
    last = reports[-1][0]
    output = "\n".join(
        f"--- {title} ---\n{text.rstrip()}" for title, text in last.sections if text.strip()
    )
    for report, problem in reports:
        if report.failed:
            detail = "\n".join(part for part in (report.longreprtext, output) if part)
            broken = report.when != "call"
            return CheckResult(
                name=name,
                outcome=Outcome.ERROR if broken else Outcome.FAILED,
                seconds=seconds,
                message=explain(problem, report.when or "call"),
                detail=clean(detail),
            )
    for report, _ in reports:
        if report.skipped:
            return CheckResult(
                name=name,
                outcome=Outcome.SKIPPED,
                seconds=seconds,
                message=reason_of_skip(report),
                detail=clean(output),
            )
    return CheckResult(name=name, outcome=Outcome.PASSED, seconds=seconds, detail=clean(output))


def explain(problem: BaseException | None, when: str) -> str:
    """The first line a check says about its failure; other exceptions with their type."""
    if isinstance(problem, AssertionError | pytest.fail.Exception):
        said = one_line(str(problem)) or "the assertion failed"
    elif isinstance(problem, pytest.FixtureLookupError):
        said = f"fixture “{problem.argname}” not found"
    elif isinstance(problem, ConnectionGone):
        said = str(problem)
    else:
        said = f"{type(problem).__name__}: {one_line(str(problem))}" if problem else "failed"
    prefix = {"setup": "set-up failed: ", "teardown": "tear-down failed: "}.get(when, "")
    return one_line(prefix + said)


def reason_of_skip(report: pytest.TestReport) -> str:
    """Why a check was skipped, or that it was expected to fail."""
    expected: str | None = getattr(report, "wasxfail", None)
    if expected is not None:
        return one_line(f"expected to fail: {expected}" if expected else "expected to fail")
    if isinstance(report.longrepr, tuple):
        return one_line(str(report.longrepr[2]).removeprefix("Skipped: "))
    return one_line(report.longreprtext)


def missing_fixtures(
    reports: Sequence[tuple[pytest.TestReport, BaseException | None]],
) -> list[str]:
    """Fixtures that a check needs and no plugin provides: the check can never run."""
    return [
        f"fixture “{problem.argname}” not found"
        for _, problem in reports
        if isinstance(problem, pytest.FixtureLookupError)
    ]
