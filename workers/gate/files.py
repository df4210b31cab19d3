"""What CI keeps of it: JUnit, Markdown, a summary, outputs. There is always something to show."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from rich.console import Console
from rich.text import Text

from sandbox import __version__
from sandbox.cli.listing import STYLES
from sandbox.core.clean_text import one_line
from sandbox.core.errors import RequestError
from sandbox.core.records import Decision, RunRecord, Verdict
from sandbox.report import render
from sandbox.report.markdown import ICONS, plain
from sandbox.scenario.request import Request
from workers.gate.job import Job
from workers.gate.values import Ending

_NOWHERE = Path("/nonexistent")  # where the artifacts of a run are that left none
Say = Callable[[str], None]


def begin(request: Request, junit_file: Path | None, markdown_file: Path | None) -> None:
    """No answer is what CI finds of a gate that is killed, and nothing from the time before.

    Raises :class:`RequestError`: before an hour's rehearsal, not after it.
    """
    said = "the gate was killed before it had an answer"
    ending = replace(Ending.of(Verdict.ERROR, said), ended=time.time())
    for path, made in ((junit_file, junit), (markdown_file, markdown)):
        if path is None:
            continue
        try:
            path.write_text(made(ending, request), encoding="utf-8")
        except OSError as problem:
            raise RequestError(
                f"cannot write {path}: {problem.strerror}", "name a file in a folder that is there"
            ) from problem


def write(
    request: Request,
    job: Job,
    junit_file: Path | None,
    markdown_file: Path | None,
    say: Say,
    ending: Ending,
) -> None:
    """A file that cannot be written costs no verdict."""
    if not ending.ended:
        ending = replace(ending, ended=time.time())
    text = markdown(ending, request)
    if junit_file is not None:
        _put(junit_file, junit(ending, request), say)
    if markdown_file is not None:
        _put(markdown_file, text, say)
    if job.summary is not None:
        _put(job.summary, f"\n{text}", say, mode="a")
    if job.outputs is not None:
        # Words of ours only, each on one line: a guest must not add outputs of its own.
        allowed = str(ending.allowed).lower()
        lines = f"verdict={ending.word}\nallowed={allowed}\nrun={ending.run_id}\n"
        _put(job.outputs, lines, say, mode="a")


def _put(path: Path, text: str, say: Say, mode: str = "w") -> None:
    try:
        with path.open(mode, encoding="utf-8") as file:
            file.write(text)
    except OSError as problem:
        say(f"{path} could not be written: {problem.strerror}")
    else:
        say(f"{'added to' if mode == 'a' else 'written to'} {path}")


def as_json(ending: Ending, request: Request, way: str) -> str:
    said = {
        "allowed": ending.allowed,
        "verdict": ending.word if ending.word in set(Verdict) else None,
        "ending": ending.word,
        "exit_code": ending.code,
        "reason": one_line(ending.reason),
        "hint": one_line(ending.hint),
        "note": one_line(ending.note),
        "run": ending.run_id or None,
        "scenario": request.scenario,
        "guest": ending.guest or request.guest,
        "way": way,
        "report": ending.link or None,
    }
    return json.dumps(said)


def show(ending: Ending, request: Request, console: Console) -> None:
    """The answer, last."""
    style = STYLES.get(ending.word, "bold")
    guest = one_line(ending.guest or request.guest or request.scenario, 80)
    answer = f"may {guest} be upgraded? {'yes' if ending.allowed else 'no'} ({ending.word})"
    console.print(Text(f"{answer}: {one_line(ending.reason)}", style))
    for line in filter(None, (ending.hint, ending.note)):
        console.print(Text(f"  {one_line(line)}"))
    if ending.link:
        console.print(Text(f"  all of it: {ending.link}"))


def junit(ending: Ending, request: Request) -> str:
    """The run's own; an error of one line where it left none."""
    return ending.reports.get("junit") or render(_record(ending, request), _NOWHERE, "junit")


def markdown(ending: Ending, request: Request) -> str:
    """The run's own report beneath the line that a gate is for."""
    body = ending.reports.get("markdown") or render(_record(ending, request), _NOWHERE, "markdown")
    _headline, _, rest = body.partition("\n")
    parts = [headline(ending, request), rest.strip(), _way_on(ending)]
    return "\n\n".join(part for part in parts if part) + "\n"


def headline(ending: Ending, request: Request) -> str:
    guest = plain(ending.guest or request.guest or str(request.image or request.scenario))
    answer = "Yes" if ending.allowed else "No"
    if ending.word not in (Verdict.PASS, Verdict.FAIL):
        answer += f" ({ending.word})"
    icon = ICONS.get(ending.word, "⏹️")
    return f"### {icon} May I upgrade {guest}? {answer}: {plain(ending.reason).rstrip('.')}."


def _way_on(ending: Ending) -> str:
    if not ending.run_id:
        return ""
    if urlsplit(ending.link).scheme in ("http", "https"):
        return f"[The whole report of run {ending.run_id}](<{ending.link}>) (it wants a token)"
    return f"The whole report: `{ending.link}`"


def _record(ending: Ending, request: Request) -> RunRecord:
    """What is known, as a record that the reports are made of."""
    verdict = Verdict(ending.word) if ending.word in set(Verdict) else Verdict.ERROR
    return RunRecord(
        id=ending.run_id or "none",
        tool_version=__version__,
        scenario=request.scenario,
        guest=ending.guest or request.guest or str(request.image or ""),
        started=ending.started or ending.ended,
        finished=ending.ended,
        state="finished",
        decision=Decision(
            verdict=verdict,
            reason=ending.reason,
            hint=ending.hint,
            findings=(ending.note,) if ending.note else (),
        ),
    )
