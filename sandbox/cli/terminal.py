"""How a rehearsal looks in a terminal while it runs; plain lines where there is none."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sandbox.core.clean_text import one_line
from sandbox.core.records import CheckResult, Outcome, Phase, PhaseTime

WORDS = {
    Phase.PLAN: "plan",
    Phase.CLONE: "clone",
    Phase.BOOT: "boot the clone",
    Phase.BASELINE: "look and check",
    Phase.UPGRADE: "upgrade",
    Phase.REBOOT: "reboot",
    Phase.VERIFY: "look and check again",
    Phase.CLEANUP: "clean up",
}
_BAR = 24
_STEP = 10.0  # percent between two plain lines


def seconds(value: float) -> str:
    """ "7.1 s", "1 min 12 s": as the reports say it."""
    if value < 60:
        return f"{value:.1f} s"
    return f"{int(value) // 60} min {int(value) % 60:02d} s"


class TerminalProgress:
    """Implements :class:`sandbox.core.progress.Progress`; a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._phase: Phase | None = None
        self._began = 0.0
        self._detail = ""
        self._percent: float | None = None
        self._told = 0.0
        self._passed = self._failed = 0
        # A log has lines for what a terminal shows live; a picture needs neither.
        self._says_steps = not console.is_terminal and not console.record

    def __enter__(self) -> TerminalProgress:
        if self._console.is_terminal:
            self._live = Live(
                get_renderable=self._line,
                console=self._console,
                refresh_per_second=4,
                transient=True,
            )
            self._live.start()
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def run_started(self, run_id: str, guest: str, scenario: str) -> None:
        line = Text.assemble(
            ("Rehearsing ", ""),
            (scenario, "bold"),
            (" on a clone of ", ""),
            (one_line(guest, 60) or "?", "bold"),
            (f"   run {run_id}", "dim"),
        )
        self._console.print(line)

    def phase_started(self, phase: Phase, deadline: float) -> None:
        self._phase, self._began = phase, time.monotonic()
        self._detail, self._percent, self._told = "", None, 0.0
        self._passed = self._failed = 0
        if self._says_steps:
            self._console.print(f"  … {WORDS[phase]} (at most {seconds(deadline)})")

    def detail(self, text: str, percent: float | None = None) -> None:
        self._detail, self._percent = one_line(text, 60), percent
        if percent is not None and percent < self._told:
            self._told = 0.0  # another stage of the phase
        if self._says_steps and percent is not None and percent >= self._told + _STEP:
            self._told = percent
            self._console.print(f"    {percent:3.0f} %  {self._detail}", markup=False)

    def check(self, result: CheckResult) -> None:
        good = result.outcome in (Outcome.PASSED, Outcome.SKIPPED)
        self._passed, self._failed = self._passed + good, self._failed + (not good)
        self._detail = f"{self._passed} checks hold"
        if self._failed:
            self._detail += f", {self._failed} do not"
        if not good:
            name, said = one_line(result.name, 60), one_line(result.message, 90)
            self._console.print(Text(f"    ✗ {name}: {said}", style="red"))

    def phase_ended(self, done: PhaseTime) -> None:
        self._phase = None
        mark = ("✓", "green") if done.ok else ("✗", "red")
        self._console.print(
            Text.assemble(
                ("  ", ""),
                mark,
                (f" {WORDS[done.phase]:<21}", ""),
                (f"{seconds(done.seconds):>13}", "cyan"),
                (f"   {one_line(done.note, 80)}", "dim"),
            )
        )

    def _line(self) -> Table:
        """The live line: what is going on, for how long, how far."""
        row = Table.grid(padding=(0, 1))
        if self._phase is None:
            return row
        elapsed = seconds(time.monotonic() - self._began)
        bar = ""
        if self._percent is not None:
            full = int(_BAR * min(100.0, self._percent) / 100)
            bar = "█" * full + "░" * (_BAR - full) + f" {self._percent:3.0f} %"
        row.add_row(
            Text("  ▸", style="yellow"),
            Text(f"{WORDS[self._phase]:<21}"),
            Text(f"{elapsed:>12}", style="cyan"),
            Text(bar, style="yellow"),
            Text(self._detail, style="dim"),
        )
        return row
