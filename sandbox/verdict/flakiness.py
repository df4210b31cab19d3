"""Whether a check that broke proves anything: what its repetition says, the control, and earlier
runs. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from sandbox.core.records import CheckEnd, CheckSession, Control, Facts, Outcome
from sandbox.verdict.diff import Effect, compare_checks

# A red that luck alone brings about this often proves nothing.
CHANCE = 0.05
NAME_LIMIT = 160  # characters under which a check is remembered


@dataclass(frozen=True)
class Rate:
    """How often a check held of the times that it gave an answer."""

    held: int
    asked: int

    @property
    def mixed(self) -> bool:
        return 0 < self.held < self.asked

    def luck(self, reds: int) -> float:
        """How often it is red so many times in a row, at this rate."""
        return ((self.asked - self.held) / self.asked) ** reds if self.asked else 0.0

    def __add__(self, other: Rate) -> Rate:
        return Rate(self.held + other.held, self.asked + other.asked)

    def __str__(self) -> str:
        return f"{self.held} of {self.asked} times"


def kept_name(name: str) -> str:
    """The name under which a check is remembered: short, and fit for any database."""
    ascii_only = name.encode("ascii", "backslashreplace").decode()
    plain = "".join(one if one.isprintable() else "?" for one in ascii_only)
    if plain == name and len(name) <= NAME_LIMIT:
        return name
    return f"{plain[: NAME_LIMIT - 17]}~{hashlib.sha256(ascii_only.encode()).hexdigest()[:16]}"


def broken(facts: Facts) -> tuple[str, ...]:
    """The checks that held before the upgrade and fail after it."""
    changes = compare_checks(facts.checks_before, facts.checks_after)
    return tuple(change.name for change in changes if change.effect is Effect.BROKE)


def not_held(names: Iterable[str], session: CheckSession) -> tuple[str, ...]:
    """Of these checks, those that did not hold in a session, or gave no answer in it."""
    held = {one.name for one in session.results if one.outcome is Outcome.PASSED}
    return tuple(name for name in names if name not in held)


def rate(name: str, sessions: Iterable[CheckSession | None]) -> Rate:
    """A skipped check gave no answer."""
    outcomes = [
        result.outcome
        for session in sessions
        if session is not None
        for result in session.results
        if result.name == name and result.outcome is not Outcome.SKIPPED
    ]
    return Rate(outcomes.count(Outcome.PASSED), len(outcomes))


def on_clone(facts: Facts, name: str) -> Rate:
    """After the upgrade."""
    return rate(name, (facts.checks_after, *facts.checks_again))


def on_control(facts: Facts, name: str) -> Rate:
    """Before and after the reboot: nothing was upgraded there."""
    control = facts.control
    if control is None:
        return Rate(0, 0)
    return rate(name, (*control.checks_before, *control.checks_after))


def with_the_past(facts: Facts, name: str) -> Rate | None:
    """Where nothing was upgraded, in this run and before; None for one that never failed before.

    What always held says nothing that this run does not say better.
    """
    past = facts.past.get(kept_name(name))
    if past is None or past.held >= past.asked:
        return None
    before = rate(name, (facts.checks_before,))
    return on_control(facts, name) + before + Rate(past.held, past.asked)


def excuse(facts: Facts, name: str) -> str:
    """Why a check that broke is no proof that the upgrade does harm; "" when it is one."""
    here, there = on_clone(facts, name), on_control(facts, name)
    if here.held:
        when = "after another start" if another_start_helps(facts, name) else "asked again"
        return f"{when} it held: {here} after the upgrade"
    if facts.checks_again and here.asked == 1:
        why = facts.checks_again[-1].message
        return "it could not be asked again" + (f": {why}" if why else "")
    control = facts.control
    after = rate(name, control.checks_after) if control else Rate(0, 0)
    if after.asked and not after.held:
        return "it fails on the control, too, which was not upgraded"
    known = with_the_past(facts, name)
    if known and known.mixed and known.luck(here.asked) >= CHANCE:
        return f"it is flaky: where nothing was upgraded it held {known}"
    # The past may excuse a check, too; it takes no excuse away.
    if any(one.mixed and one.luck(here.asked) >= CHANCE for one in (there, after)):
        return f"it is flaky: on the control, which was not upgraded, it held {there}"
    return ""


def another_start_helps(facts: Facts, name: str) -> bool:
    """Whether it was the second start after the upgrade that made a check hold."""
    if facts.second_start is None or not facts.checks_again:
        return False
    *earlier, last = facts.checks_again
    return rate(name, (last,)).held > 0 and rate(name, earlier).held == 0


def flaky(facts: Facts) -> tuple[str, ...]:
    """The checks that now hold and now do not where nothing was upgraded.

    One that a reboot breaks, there as here, is not among them.
    """
    control = facts.control
    sessions = (*control.checks_before, *control.checks_after) if control else ()
    if facts.past and facts.checks_after:
        sessions = (*sessions, facts.checks_after)
    names = dict.fromkeys(result.name for one in sessions for result in one.results)
    return tuple(
        name
        for name in names
        if (control and _is_flaky(facts, control, name)) or _was_flaky(facts, name)
    )


def _is_flaky(facts: Facts, control: Control, name: str) -> bool:
    before, after = rate(name, control.checks_before), rate(name, control.checks_after)
    if before.mixed or after.mixed:
        return True
    return on_control(facts, name).mixed and on_clone(facts, name).held > 0


def _was_flaky(facts: Facts, name: str) -> bool:
    """One bad moment in many does not make a check flaky."""
    known = with_the_past(facts, name)
    often = known is not None and known.mixed and known.luck(1) >= CHANCE
    return often and on_clone(facts, name).held > 0


def how_flaky(facts: Facts, name: str) -> str:
    """The numbers behind it."""
    known = with_the_past(facts, name)
    if known is not None:
        return f"where nothing was upgraded it held {known}"
    return f"on the control it held {on_control(facts, name)}"


def hangs_alike(facts: Facts) -> bool:
    """Whether a check hangs on the control, too."""
    control = facts.control
    sessions = (*control.checks_before, *control.checks_after) if control else ()
    return any(session.end is CheckEnd.TIMEOUT for session in sessions)


def known_start(facts: Facts) -> str:
    """The boot id of the clone's newest start that we asked for; "" when it is not known."""
    if facts.reboot is not None and facts.reboot.happened:
        return facts.reboot.boot_id_after
    return facts.before.boot_id if facts.before is not None else ""


def restarted(facts: Facts) -> bool:
    """Whether the clone restarted by itself, since its upgrade as far as that had begun."""
    if (facts.watched and facts.watched.restarted) or (facts.trouble and facts.trouble.restarted):
        return True
    known, first, seen = known_start(facts), facts.before, facts.after
    return (
        bool(known)
        and first is not None
        and seen is not None
        and seen.boot_id not in (known, first.boot_id)
    )


def restarts_alike(facts: Facts) -> bool:
    """Whether both the clone and the control restarted by themselves."""
    there = facts.control
    return restarted(facts) and there is not None and there.restarted


def gone_alike(facts: Facts) -> bool:
    """Whether neither the clone nor the control lets us in any more."""
    here, there = facts.trouble, facts.control
    return here is not None and here.gone and there is not None and there.gone


def stuck_alike(facts: Facts) -> bool:
    """Whether neither the clone nor the control came back from the reboot."""
    stuck = facts.reboot is not None and not facts.reboot.happened
    reboot = facts.control.reboot if facts.control else None
    return stuck and reboot is not None and not reboot.happened


def control_came_back(facts: Facts) -> bool:
    """Whether the control is known to have come back from its reboot."""
    reboot = facts.control.reboot if facts.control else None
    return reboot is not None and reboot.happened
