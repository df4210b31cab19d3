"""What the product said, held against what was planted: the table and the goals. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.corpus.corpus_case import TRUTHS

WIDTH = 110
LEAST_NAMED = 0.80
FALSE_FAILS = 1 / 40  # at most
NONE = "none"  # no verdict: the harness broke


@dataclass(frozen=True)
class Result:
    """One case that was rehearsed."""

    case: str
    truth: str
    verdict: str
    cause: str  # the regular expression of what was planted; "" where nothing was
    reason: str
    findings: tuple[str, ...] = ()
    seconds: float = 0.0
    control: bool = False
    left_behind: str = ""

    @property
    def right(self) -> bool:
        return self.verdict == self.truth

    @property
    def false_pass(self) -> bool:
        """Whatever the truth was: somebody would have upgraded production."""
        return self.verdict == "pass" and not self.right

    @property
    def false_fail(self) -> bool:
        return self.verdict == "fail" and not self.right

    @property
    def named(self) -> str:
        """Where the planted cause is named: "reason", "finding" (the first one), "" nowhere."""
        places = (("reason", self.reason), ("finding", (self.findings or ("",))[0]))
        for place, text in places:
            if self.cause and re.search(self.cause, text, re.IGNORECASE):
                return place
        return ""


@dataclass(frozen=True)
class Score:
    """How many of how many."""

    cases: int
    right: int
    false_passes: tuple[str, ...]
    false_fails: tuple[str, ...]
    planted: int
    by_reason: int
    named: int  # by the reason, or by the first finding

    @property
    def share(self) -> float:
        return self.named / self.planted if self.planted else 1.0


def score(results: Sequence[Result]) -> Score:
    planted = [one for one in results if one.cause]
    return Score(
        cases=len(results),
        right=sum(one.right for one in results),
        false_passes=tuple(one.case for one in results if one.false_pass),
        false_fails=tuple(one.case for one in results if one.false_fail),
        planted=len(planted),
        by_reason=sum(one.named == "reason" for one in planted),
        named=sum(bool(one.named) for one in planted),
    )


def missed(results: Sequence[Result]) -> list[str]:
    """The goals that were not reached, a sentence each."""
    total = score(results)
    found = []
    if not results:
        found.append("nothing was rehearsed")
    if total.false_passes:
        found.append(f"{len(total.false_passes)} false passes, the goal is none")
    if len(total.false_fails) > FALSE_FAILS * max(total.cases, 1 / FALSE_FAILS):
        found.append(f"{len(total.false_fails)} false fails in {total.cases}, at most 1 in 40")
    if total.share < LEAST_NAMED:
        found.append(f"{total.share:.0%} of the causes are named, at least {LEAST_NAMED:.0%}")
    found += [f"{one.case}: no verdict: {one.reason}" for one in results if one.verdict == NONE]
    found += [f"{one.case} left behind {one.left_behind}" for one in results if one.left_behind]
    return found


def confusion(results: Iterable[Result]) -> Counter[tuple[str, str]]:
    """(truth, verdict) -> how many."""
    return Counter((one.truth, one.verdict) for one in results)


def as_text(results: Sequence[Result]) -> str:
    """Everything that a person wants to see at the end."""
    console = Console(width=WIDTH, color_system=None)
    with console.capture() as captured:
        console.print(_confusion_table(results))
        if wrong := [one for one in results if not one.right]:
            console.print(_list("Verdicts that are not the truth", wrong))
        if unnamed := [one for one in results if one.cause and not one.named and one.right]:
            console.print(_list("Right, but the planted cause is not named", unnamed))
        console.print("\n".join(_summary(results)), markup=False, highlight=False)
    return captured.get()


def _confusion_table(results: Sequence[Result]) -> Table:
    counts = confusion(results)
    verdicts = [*TRUTHS, *([NONE] if any(one.verdict == NONE for one in results) else [])]
    table = Table(title="truth (down) x verdict (across)")
    table.add_column("truth")
    for verdict in verdicts:
        table.add_column(verdict, justify="right")
    for truth in TRUTHS:
        cells = [str(counts[truth, verdict] or "·") for verdict in verdicts]
        table.add_row(truth, *cells)
    return table


def _list(title: str, results: Sequence[Result]) -> Table:
    table = Table(title=title, width=WIDTH, show_lines=True)
    table.add_column("case", ratio=1)
    table.add_column("truth")
    table.add_column("verdict")
    table.add_column("reason", ratio=2)
    for one in results:
        table.add_row(one.case, one.truth, one.verdict, one.reason)
    return table


def _summary(results: Sequence[Result]) -> list[str]:
    total = score(results)
    passes, fails = total.false_passes, total.false_fails
    lines = [
        f"{total.right} of {total.cases} verdicts are the truth",
        f"false passes: {len(passes)}" + (f" ({', '.join(passes)})" if passes else ""),
        f"false fails: {len(fails)}" + (f" ({', '.join(fails)})" if fails else ""),
        f"the planted cause is named in {total.named} of {total.planted} cases"
        f" ({total.share:.0%}), in {total.by_reason} of them by the reason itself",
    ]
    return [*lines, *(f"MISSED: {goal}" for goal in missed(results))]


def as_data(results: Sequence[Result]) -> dict[str, Any]:
    """The same for programs."""
    total = score(results)
    return {
        "score": asdict(total) | {"share": round(total.share, 3)},
        "missed": missed(results),
        "cases": {
            one.case: {k: v for k, v in asdict(one).items() if k != "case"}
            | {"seconds": round(one.seconds, 1), "named": one.named}
            for one in results
        },
    }


def from_data(data: dict[str, Any]) -> list[Result]:
    """The results that a file holds."""
    return [
        Result(
            case=name,
            **{k: v for k, v in known.items() if k not in ("named", "findings")},
            findings=tuple(known["findings"]),
        )
        for name, known in data["cases"].items()
    ]
