"""What is said of a run: pure."""

from __future__ import annotations

from collections.abc import Iterable

from sandbox.core.errors import SandboxError
from sandbox.core.records import Verdict
from workers.chat.values import Line, Lines, Span, Telling
from workers.chat.wording import MEANING, USAGE, Verb
from workers.database.states import ENDED, RunState
from workers.queue.values import RunRow

SIGNS = {
    RunState.QUEUED: "🕒",
    RunState.RUNNING: "⏳",
    RunState.CANCELLING: "⏳",
    RunState.CANCELLED: "🚫",
    Verdict.PASS: "✅",
    Verdict.FAIL: "❌",
    Verdict.INCONCLUSIVE: "⚠️",
    Verdict.REJECTED: "⚠️",
    Verdict.ERROR: "⚠️",
}
# The meaning of each verdict, as in the README: only a pass permits the upgrade.
ADVICE = {
    Verdict.PASS: "the guest may be upgraded",
    Verdict.FAIL: "the guest may not be upgraded",
    Verdict.REJECTED: "the request is wrong; nothing was cloned",
    Verdict.INCONCLUSIVE: "the rehearsal does not show whether the upgrade is safe",
    Verdict.ERROR: "the sandbox itself failed; it says nothing of the upgrade",
}


def of_run(run: RunRow, link: str) -> Telling:
    page = link.replace("{run}", run.id) if link else ""
    word, why = word_of(run), why_of(run)
    advice = f": {ADVICE[run.verdict]}" if run.verdict else ""
    lines: list[Line] = [(*_head(run), Span(advice))]
    if why:
        lines.append((Span(why, "code"),))
    last = (Span("run "), Span(run.id, "code"))
    lines.append((*last, Span(", "), Span("report", "link", page)) if page else last)
    return Telling(
        lines=tuple(lines),
        final=run.state in ENDED,
        word=word,
        why=why,
        guest=run.guest,
        scenario=run.scenario,
        run_id=run.id,
        link=page,
    )


def of_lines(lines: Lines) -> Telling:
    """An answer that does not change any more."""
    return Telling(lines, final=True)


def in_short(runs: Iterable[RunRow]) -> Lines:
    """A line for each."""
    told = []
    for run in runs:
        why = why_of(run)
        more = (Span(": "), Span(why, "code")) if why else ()
        told.append((*_head(run), *more, Span(" ("), Span(run.id, "code"), Span(")")))
    return tuple(told) or ((Span("no runs yet that you may see"),),)


def of_problem(problem: SandboxError) -> Lines:
    """The problem and its hint, as code: a name in them may be text of any user."""
    lines: list[Line] = [(Span("⚠️ "), Span(problem.message, "code"))]
    if problem.hint:
        lines.append((Span(problem.hint, "code"),))
    return tuple(lines)


def help_of(scenario: str, may: Iterable[str]) -> Lines:
    commands = tuple((Span(USAGE[verb], "code"), Span(f": {MEANING[verb]}")) for verb in Verb)
    rights = ", ".join(may) or "nothing"
    meant = (Span("without a scenario: "), Span(scenario, "code"), Span(f"; you may {rights}"))
    return (*commands, meant)


def word_of(run: RunRow) -> str:
    return run.verdict.value if run.verdict else run.state.value


def why_of(run: RunRow) -> str:
    """The verdict's reason, or what it is doing or waiting for."""
    if run.state is RunState.CANCELLED:
        return ""
    if run.verdict is not None:
        return run.reason
    if run.state is RunState.QUEUED:
        return run.waiting or "waits for a worker"
    return run.phase or "begins"


def _head(run: RunRow) -> Line:
    sign = SIGNS[run.verdict or run.state]
    return (
        Span(f"{sign} "),
        Span(word_of(run), "strong"),
        Span(": "),
        Span(run.scenario, "code"),
        Span(" of "),
        Span(run.guest, "code"),
        Span(" on "),
        Span(run.host, "code"),
    )
