"""What every report says, worked out once: the formats only lay it out."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from sandbox.core.clean_text import clean, one_line, tail_lines
from sandbox.core.records import (
    Destination,
    PackageChange,
    RunRecord,
    UpgradeStatus,
    Verdict,
)
from sandbox.core.wording import count, duration, reached
from sandbox.verdict.assessment import assess
from sandbox.verdict.diff import (
    CheckChange,
    Differences,
    Effect,
)
from sandbox.verdict.downtime import REBOOT, Forecast, forecasts
from sandbox.verdict.severity import GradedLine, ranked

TRIED = "What the clone tried to reach"  # a section's title
FORECASTS = "Downtime: what the starts before let expect, and what happened"
CONSOLE_LINES = 200
TRANSCRIPT_LINES = 80
CONSOLE_BYTES = 256 * 1024
# What a verdict answers to "may I upgrade?".
ANSWERS = {
    Verdict.PASS: "YES",
    Verdict.FAIL: "NO",
    Verdict.INCONCLUSIVE: "UNKNOWN",
    Verdict.ERROR: "NO ANSWER",
    Verdict.REJECTED: "NOT REHEARSED",
}
_EFFECT_ORDER = (
    Effect.BROKE,
    Effect.LOST,
    Effect.UNPROVEN,
    Effect.WAS_BROKEN,
    Effect.HOLDS,
    Effect.UNJUDGED,
)
# How an effect is called: of one check, and after a number of them.
_WORDS = {
    Effect.HOLDS: ("holds", "hold"),
    Effect.BROKE: ("broke", "broke"),
    Effect.LOST: ("no answer after", "gave no answer after"),
    Effect.WAS_BROKEN: ("broken before", "broken before"),
    Effect.UNPROVEN: ("fails, not judged before", "fail, not judged before"),
    Effect.UNJUDGED: ("not judged", "not judged"),
}


@dataclass(frozen=True)
class View:
    """A record made fit to be shown; every text in it is sanitised."""

    record: RunRecord
    verdict: str  # a Verdict's value, or "running" / "unknown" when there is none
    answer: str  # the first words: "YES", "NO", ...
    headline: str  # one line: may I upgrade, yes or no and why
    checks: tuple[CheckChange, ...]  # what needs attention first
    differences: Differences | None  # None: there was no second observation
    packages: tuple[PackageChange, ...]
    packages_word: str  # "changed" (seen), "applied" (said to be), "to change" (announced)
    console: tuple[str, ...]  # the console's last lines

    @property
    def counts(self) -> dict[Effect, int]:
        """How many checks had which effect; only those that occur."""
        effects = [change.effect for change in self.checks]
        return {effect: effects.count(effect) for effect in _EFFECT_ORDER if effect in effects}

    @cached_property
    def attention(self) -> list[CheckChange]:
        """The checks that a reader has to look at; where none ran after, only those failing."""
        calm = {Effect.HOLDS, Effect.UNJUDGED} | ({Effect.LOST} if self.ended_early else set())
        return [change for change in self.checks if change.effect not in calm]

    @cached_property
    def others(self) -> list[CheckChange]:
        """The checks without a finding."""
        return [change for change in self.checks if change not in self.attention]

    @property
    def price(self) -> str:
        """What it costs production that the clone was kept."""
        return price_of_keeping(self.record)

    @property
    def count_line(self) -> str:
        """ "2 broke, 10 hold"."""
        return ", ".join(
            f"{number} {self.word(effect, many=True)}" for effect, number in self.counts.items()
        )

    @cached_property
    def changes(self) -> tuple[GradedLine, ...]:
        """What changed in the guest besides its packages, the worst first."""
        return ranked(self.differences) if self.differences else ()

    @property
    def ended_early(self) -> bool:
        """Whether the checks never ran a second time."""
        return self.record.facts.checks_after is None

    def word(self, effect: Effect, *, many: bool = False) -> str:
        """An effect in words; ``many`` after a number."""
        if effect is Effect.LOST and self.ended_early:
            return "not run after"
        return _WORDS[effect][many]

    @property
    def control(self) -> str:
        """How the clone was compared with the control; "" where none was wanted."""
        control = self.record.facts.control
        if control is None:
            return ""
        if control.missing:
            return f"not compared with a control: {control.missing}"
        before, after = len(control.checks_before), len(control.checks_after)
        rounds = f"checks there: {before} times before"
        if after:
            rounds += f", {after} times after {'a reboot' if control.reboot else 'that'}"
        drift = self.differences.drift if self.differences else 0
        left = f"; left out, since it happened there, too: {count(drift, 'difference')}"
        return f"compared with a control that was not upgraded; {rounds}{left if drift else ''}"

    @cached_property
    def tried(self) -> tuple[str, ...]:
        """What the clone tried to reach, one line each, new destinations first; empty where
        nothing listened."""
        ledger = self.record.facts.ledger
        if ledger is None:
            return ()
        lines = [_tried(one) for one in ledger.destinations]
        if not ledger.missing and not lines:
            lines = ["nothing"]
        if ledger.missing:
            lines.insert(0, f"not listened: {ledger.missing}")
        if not ledger.whole:
            lines.append("and more than was kept: what is new may be missing here")
        if not ledger.control_known:
            lines.append("what the control tried is not known: what is new may be a habit of both")
        return tuple(lines)

    @property
    def forecast_lines(self) -> tuple[str, ...]:
        """How long things were to be down, and were."""
        return tuple(map(_forecast_line, forecasts(self.record)))

    @property
    def shows_console(self) -> bool:
        """Whether the console tells why the guest could not be looked at to the end."""
        upgrade = self.record.facts.upgrade
        blameless = (UpgradeStatus.UNAVAILABLE, UpgradeStatus.IMPOSSIBLE, UpgradeStatus.UNFIT)
        return (
            bool(self.console)
            and self.verdict not in (Verdict.PASS, Verdict.REJECTED, "running")
            and self.record.facts.after is None
            and not (upgrade and upgrade.status in blameless)
        )

    @property
    def transcript(self) -> tuple[str, ...]:
        """The last lines that the package manager said, when it failed."""
        upgrade = self.record.facts.upgrade
        if not upgrade or upgrade.status is not UpgradeStatus.FAILED:
            return ()
        return tail_lines(upgrade.log, TRANSCRIPT_LINES)


def view(record: RunRecord, run_dir: Path) -> View:
    """Sanitise ``record`` and work out what its reports have in common."""
    # Compared as they are and cleaned afterwards: two texts may differ only in what is cut.
    shown = clean(record)
    found = assess(record.facts)
    differences = clean(found.differences) if found.differences else None
    checks = [clean(c) for c in found.checks]
    return View(
        record=shown,
        verdict=_verdict(shown),
        answer=_answer(shown),
        headline=headline(shown),
        checks=tuple(sorted(checks, key=lambda change: _EFFECT_ORDER.index(change.effect))),
        differences=differences,
        packages=_packages(shown, differences),
        packages_word=_packages_word(shown, differences),
        console=_console(record, run_dir),
    )


def _tried(one: Destination) -> str:
    if one.is_new:
        return f"NEW since the upgrade: {reached(one)} ({count(one.after, 'time')})"
    times = f"{count(one.before, 'time')} before the upgrade, {one.after} after"
    return f"{reached(one)} ({times}{'; the control, too' if one.control else ''})"


def headline(record: RunRecord) -> str:
    """The one line that answers "may I upgrade?"."""
    if record.decision is None:
        guest, answer, phase = one_line(record.guest, 80), _answer(record), record.phase.value
        if record.state == "running":
            return f"{answer} for {guest}: the rehearsal is running (phase {phase})."
        return f"{answer} for {guest}: the rehearsal ended without a verdict in phase {phase}."
    return sentence(record.decision.verdict, record.guest, record.decision.reason)


def sentence(verdict: Verdict, guest: str, reason: str) -> str:
    """What a verdict says, in one line that begins with the answer."""
    guest, reason, answer = one_line(guest, 80), one_line(reason).rstrip("."), ANSWERS[verdict]
    if verdict is Verdict.PASS:
        return f"{answer}, upgrade {guest}: {reason}."
    if verdict is Verdict.FAIL:
        return f"{answer}, do not upgrade {guest}: {reason}."
    return f"{answer} for {guest} ({verdict.value}): {reason}."


def price_of_keeping(record: RunRecord) -> str:
    """What a kept clone costs production as long as it is there; "" where it costs nothing."""
    if record.state != "kept" or record.source is None:
        return ""
    if record.source.method != "backup export":
        return ""
    return (
        "as long as the clone is kept, each block that the guest overwrites is first copied to the "
        "host's disk (at most as much as its disks hold), and no other backup or rehearsal of it "
        "can begin; when the host's disk is nearly full, the clone is removed"
    )


def _answer(record: RunRecord) -> str:
    if record.decision is None:
        return "NO ANSWER YET" if record.state == "running" else "NO ANSWER"
    return ANSWERS[record.decision.verdict]


def _verdict(record: RunRecord) -> str:
    if record.decision is None:
        return "running" if record.state == "running" else "unknown"
    return record.decision.verdict.value


def _packages(record: RunRecord, differences: Differences | None) -> tuple[PackageChange, ...]:
    """The observed changes with the origins that the simulation knew, else the announced ones."""
    upgrade = record.facts.upgrade
    announced = upgrade.changes if upgrade else ()
    if differences is None:
        return () if upgrade and upgrade.status is UpgradeStatus.NOTHING else announced
    origins = {(c.name, c.new): c.origin for c in announced}
    return tuple(
        change.model_copy(update={"origin": origins.get((change.name, change.new), "")})
        for change in differences.packages
    )


def _packages_word(record: RunRecord, differences: Differences | None) -> str:
    upgrade = record.facts.upgrade
    if differences is not None:
        return "changed"
    return "applied" if upgrade and upgrade.status is UpgradeStatus.APPLIED else "to change"


def _console(record: RunRecord, run_dir: Path) -> tuple[str, ...]:
    for artifact in record.artifacts:
        if Path(artifact.name).name == "console.log":
            data = read_artifact(run_dir, artifact.name, CONSOLE_BYTES, from_end=True)
            return tail_lines((data or b"").decode(errors="replace"), CONSOLE_LINES)
    return ()


def _forecast_line(one: Forecast) -> str:
    """ "nginx.service (nginx): forecast 0.4 s, down for 0.5 s: 25 % longer"."""
    name = f"{one.what} ({one.package})" if one.package else one.what
    forecast = "unknown" if one.forecast is None else duration(one.forecast)
    if one.at_least:
        forecast = f"{forecast} and its package's unpacking"
    if one.happened is not None:
        happened = f"{'took' if one.what == REBOOT else 'down for'} {duration(one.happened)}"
    else:
        happened = "it did not come back" if one.what == REBOOT else "it was not restarted"
    return f"{name}: forecast {forecast}, {happened}" + (f": {one.error}" if one.error else "")


def read_artifact(run_dir: Path, name: str, limit: int, *, from_end: bool = False) -> bytes | None:
    """At most ``limit`` bytes of a regular file inside the run's folder, from its end if asked.

    ``None`` when it is not there, is a link or no regular file, lies outside the folder, or,
    unless ``from_end``, is larger: a record names files, and must not name any file at will.
    """
    try:
        root = run_dir.resolve(strict=True)
        path = (root / name).resolve(strict=True)
        if not path.is_relative_to(root) or path != root / os.path.normpath(name):
            return None
        # Not blocking, so that a named pipe in the folder cannot hold up a report.
        with open(path, "rb", opener=_open_safely) as file:
            facts = os.fstat(file.fileno())
            if not stat.S_ISREG(facts.st_mode) or (facts.st_size > limit and not from_end):
                return None
            if from_end:
                file.seek(max(0, facts.st_size - limit))
            return file.read(limit)
    except (OSError, ValueError):
        return None


def _open_safely(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def instant(moment: float) -> str:
    """A Unix time as UTC: "2026-07-31 10:12 UTC"."""
    if moment <= 0:
        return "unknown"
    try:
        return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (OverflowError, ValueError, OSError):
        return "unknown"
