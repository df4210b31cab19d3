"""The way without a service: a rehearsal here and now."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

from rich.console import Console

from sandbox.cli.foreground import rehearse_shown, show
from sandbox.core.errors import SandboxError
from sandbox.core.settings import Settings
from sandbox.core.wording import duration
from sandbox.report import render
from sandbox.scenario.request import Request
from workers.gate.values import CANCELLED, TIMEOUT, Ending

_ENDED = "the rehearsal was ended; `sandbox reap` removes what may be left of its clone"


class _TimeUp(KeyboardInterrupt):
    """Ends a rehearsal as Ctrl-C does: once its clone is gone."""


def gate(request: Request, settings: Settings, seconds: float, console: Console) -> Ending:
    try:
        with _limited(seconds):
            folder, record = rehearse_shown(request, settings, console)
    except _TimeUp:
        said = f"there was no verdict within {duration(seconds)}"
        return Ending("timeout", TIMEOUT, said, note=_ENDED)
    except KeyboardInterrupt:
        return Ending("cancelled", CANCELLED, "the CI job was cancelled", note=_ENDED)
    except SandboxError as problem:
        return Ending.of_problem(problem)
    show(console, record, folder.artifacts)
    decision = record.decision
    assert decision is not None
    return Ending(
        decision.verdict.value,
        decision.verdict.exit_code,
        decision.reason,
        decision.hint,
        run_id=record.id,
        guest=record.guest,
        started=record.started,
        ended=record.finished,
        link=f"sandbox report {record.id}",
        reports={name: render(record, folder.artifacts, name) for name in ("junit", "markdown")},
    )


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    def ring(_number: int, _frame: FrameType | None) -> None:
        raise _TimeUp

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
