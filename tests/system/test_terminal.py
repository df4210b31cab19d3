"""What a person sees while a rehearsal runs: live in a terminal, lines in a log."""

from __future__ import annotations

import io
import re
from functools import partial

import pytest
from rich.console import Console

from sandbox.cli.terminal import WORDS, TerminalProgress, seconds
from sandbox.core.records import CheckResult, Outcome, Phase, PhaseTime
from tests.support.waiting import wait_until

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def log_console() -> Console:
    return Console(file=io.StringIO(), width=120, highlight=False, soft_wrap=True)


def terminal_console() -> Console:
    return Console(file=io.StringIO(), width=120, highlight=False, force_terminal=True)


def said(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return ESCAPE.sub("", console.file.getvalue())


def ended(phase: Phase, *, ok: bool = True, note: str = "") -> PhaseTime:
    return PhaseTime(phase=phase, started=0, seconds=72.4, ok=ok, note=note)


def play(console: Console) -> str:
    """A rehearsal in fast motion."""
    with TerminalProgress(console) as progress:
        progress.run_started("20260102-030405-abcdef", "web01", "security")
        progress.phase_started(Phase.UPGRADE, 3600)
        for percent in range(0, 101, 2):
            progress.detail(f"unpacking {percent}", float(percent))
        progress.phase_ended(ended(Phase.UPGRADE, note="21 packages"))
        progress.phase_started(Phase.VERIFY, 300)
        progress.check(CheckResult(name="test_a", outcome=Outcome.PASSED))
        progress.check(CheckResult(name="test_b", outcome=Outcome.FAILED, message="it is down"))
        progress.check(CheckResult(name="test_c", outcome=Outcome.SKIPPED))
        if console.is_terminal:  # its live line is drawn four times a second
            counted = "2 checks hold, 1 do not"
            wait_until(lambda: counted in said(console), "the live line to be drawn")
        progress.phase_ended(ended(Phase.VERIFY, ok=False, note="2 of 3 checks hold"))
    return said(console)


def test_a_log_gets_whole_lines_and_not_too_many() -> None:
    lines = play(log_console()).splitlines()
    assert lines[0] == "Rehearsing security on a clone of web01   run 20260102-030405-abcdef"
    assert "  … upgrade (at most 60 min 00 s)" in lines
    steps = [line for line in lines if "%" in line]
    assert len(steps) == 10
    assert steps[-1].split() == ["100", "%", "unpacking", "100"]
    assert any(re.fullmatch(r"  ✓ upgrade +1 min 12 s   21 packages", line) for line in lines)
    assert any(re.fullmatch(r"  ✗ look and check again .*2 of 3 checks hold", x) for x in lines)
    assert "    ✗ test_b: it is down" in lines
    assert not any("test_a" in line or "test_c" in line for line in lines)


def test_a_terminal_shows_live_what_goes_on() -> None:
    text = play(terminal_console())
    assert "▸ look and check again" in text
    assert "2 checks hold, 1 do not" in text
    assert "✓ upgrade" in text
    assert "at most" not in text, "that is for logs"


def test_a_percentage_that_begins_anew_is_told_again() -> None:
    console = log_console()
    with TerminalProgress(console) as progress:
        progress.phase_started(Phase.UPGRADE, 60)
        for stage in ("fetching", "unpacking"):
            for percent in (0, 50, 100):
                progress.detail(stage, float(percent))
    assert said(console).count("fetching") == 2
    assert said(console).count("unpacking") == 2


def drawn(console: Console) -> bool:
    return "working" in said(console)


def test_an_unknown_percentage_is_no_bar_and_an_absurd_one_no_crash() -> None:
    for percent in (None, -5.0, 0.0, 250.0):
        console = terminal_console()
        with TerminalProgress(console) as progress:
            progress.phase_started(Phase.UPGRADE, 60)
            progress.detail("working", percent)
            wait_until(partial(drawn, console), "the line to be drawn")
        assert ("█" in said(console) or "░" in said(console)) is (percent is not None)


@pytest.mark.parametrize("make", [log_console, terminal_console])
def test_a_guest_cannot_write_to_the_terminal(make: type[Console]) -> None:
    console = make()
    evil = "\x1b]0;title\x07\x1b[2J[bold]x[/bold]\r\n\x9b31m" + "y" * 500
    with TerminalProgress(console) as progress:
        progress.run_started("id", evil, "security")
        progress.phase_started(Phase.VERIFY, 60)
        progress.detail(evil, 50.0)
        progress.check(CheckResult(name=evil, outcome=Outcome.ERROR, message=evil))
        if console.is_terminal:
            wait_until(lambda: "[bold]x[/bold]" in said(console), "the live line to be drawn")
        progress.phase_ended(ended(Phase.VERIFY, note=evil))
    assert isinstance(console.file, io.StringIO)
    raw = console.file.getvalue()
    for bad in ("\x1b]0;", "\x1b[2J[", "\x07", "\x9b", "y" * 200):
        assert bad not in raw
    assert "[bold]x[/bold]" in said(console), "taken for markup of ours"


def test_an_exception_leaves_the_terminal_as_it_was() -> None:
    console = terminal_console()

    def fail() -> None:
        with TerminalProgress(console) as progress:
            progress.phase_started(Phase.BOOT, 60)
            raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        fail()
    assert isinstance(console.file, io.StringIO)
    raw = console.file.getvalue()
    assert raw.count("\x1b[?25l") == raw.count("\x1b[?25h") == 1, "the cursor stays hidden"


def test_every_phase_has_words() -> None:
    assert set(WORDS) == set(Phase)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0.0 s"), (7.14, "7.1 s"), (59.9, "59.9 s"), (72, "1 min 12 s"), (3600, "60 min 00 s")],
)
def test_durations_as_the_reports_say_them(value: float, text: str) -> None:
    assert seconds(value) == text
