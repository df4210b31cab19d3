"""The report for CI: JUnit in the subset that all readers share.

The suite ``rehearsal`` holds the verdict as one test case, so that a gate which only counts
failures stays red for ``inconclusive`` and ``error`` too; ``before`` and ``after`` hold the checks.
"""

from __future__ import annotations

from datetime import UTC, datetime

from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite

from sandbox.core.clean_text import one_line
from sandbox.core.records import CheckEnd, CheckResult, CheckSession, Outcome, Verdict
from sandbox.report.view import View


def render_junit(shown: View) -> str:
    """A ``testsuites`` document."""
    document = JUnitXml("upgrade-sandbox")
    document.add_testsuite(_rehearsal(shown))
    facts = shown.record.facts
    for name, session in (("before", facts.checks_before), ("after", facts.checks_after)):
        document.add_testsuite(_suite(name, session))
    document.update_statistics()  # type: ignore[no-untyped-call]
    text: bytes = document.tostring()  # type: ignore[no-untyped-call]
    return text.decode()


def _rehearsal(shown: View) -> TestSuite:
    record = shown.record
    suite = TestSuite("rehearsal")
    suite.timestamp = _timestamp(record.started)
    seconds = round(max(0.0, record.finished - record.started), 3) if record.finished else 0.0
    case = TestCase(f"upgrade {one_line(record.guest)}", "rehearsal", seconds)
    decision = record.decision
    verdict = decision.verdict if decision else Verdict.ERROR
    lines = [shown.headline]
    if decision:
        lines += [decision.hint, *decision.findings]
    text = "\n".join(line for line in lines if line)
    if verdict in (Verdict.FAIL, Verdict.INCONCLUSIVE):
        case.result = [_explained(Failure(shown.headline, verdict.value), text)]
    elif verdict is not Verdict.PASS:
        case.result = [_explained(Error(shown.headline, verdict.value), text)]
    case.system_out = text
    suite.add_testcase(case)
    return suite


def _suite(name: str, session: CheckSession | None) -> TestSuite:
    suite = TestSuite(name)
    if session is None:
        return suite
    for result in session.results:
        suite.add_testcase(_case(result))
    if session.end is not CheckEnd.COMPLETE:
        case = TestCase("the checks ran to their end", name, 0.0)
        case.result = [Error(one_line(session.message or session.end.value), session.end.value)]
        suite.add_testcase(case)
    return suite


def _case(result: CheckResult) -> TestCase:
    file, _, test = result.name.partition("::")
    classname = file.removesuffix(".py").replace("/", ".")
    case = TestCase(one_line(test or file), classname, round(max(0.0, result.seconds), 3))
    message = one_line(result.message)
    if result.outcome is Outcome.FAILED:
        case.result = [_explained(Failure(message, "failed"), result.detail)]
    elif result.outcome is Outcome.ERROR:
        case.result = [_explained(Error(message, "error"), result.detail)]
    elif result.outcome is Outcome.SKIPPED:
        case.result = [Skipped(message)]
    return case


def _explained(result: Failure | Error, detail: str) -> Failure | Error:
    result.text = detail
    return result


def _timestamp(moment: float) -> str:
    try:
        return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return "1970-01-01T00:00:00"
