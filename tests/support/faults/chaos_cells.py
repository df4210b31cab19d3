"""What the chaos suite did, cell by cell: how often a fault was tried, what it hit, what broke."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from tests.support.circle import WIDE

LEAST = 20 if WIDE else 4  # tries of a cell, each of which hit something
SEED = int(os.environ.get("CHAOS_SEED") or time.time_ns() % 1_000_000)


def dice(name: str) -> random.Random:
    """Chance that CHAOS_SEED brings back; every cell has its own."""
    return random.Random(f"{SEED} {name}")


class Cells:
    """Filled in from several threads."""

    def __init__(self) -> None:
        self.tries: Counter[str] = Counter()
        self.hits: Counter[str] = Counter()
        self.violations: dict[str, list[str]] = {}
        self.seconds: dict[str, float] = {}
        self._lock = threading.Lock()

    def tried(self, cell: str, hits: int = 1) -> None:
        """A fault was injected, and met so many attempts or runs in the state that it is about;
        one that met none proves nothing and is no try."""
        if not hits:
            return
        with self._lock:
            self.tries[cell] += 1
            self.hits[cell] += hits

    def judged(self, names: Iterable[str], violations: Iterable[str]) -> None:
        """All of a set-up's cells share what was found wrong in the end."""
        found = list(violations)
        with self._lock:
            for name in names:
                self.violations.setdefault(name, []).extend(found)

    def prove(self, names: Iterable[str]) -> None:
        """Fails where something was violated, or where too little was tried."""
        named = list(names)
        wrong = sorted({text for name in named for text in self.violations.get(name, ["unjudged"])})
        assert not wrong, f"seed {SEED}: {len(wrong)} violations:\n" + "\n".join(wrong[:40])
        few = {name: self.tries[name] for name in named if self.tries[name] < LEAST}
        assert not few, f"fewer than {LEAST} tries would prove nothing: {few}"

    def table(self) -> str:
        table = Table(title=f"chaos: seed {SEED} (again: CHAOS_SEED={SEED})", title_justify="left")
        table.add_column("fault, and where it hit")
        for head in ("tries", "hits", "violations"):
            table.add_column(head, justify="right")
        for name in self.tries:
            wrong = self.violations.get(name)
            found = "not judged" if wrong is None else str(len(wrong))
            table.add_row(name, str(self.tries[name]), str(self.hits[name]), found)
        total = sorted({text for texts in self.violations.values() for text in texts})
        table.add_section()
        sums = (sum(self.tries.values()), sum(self.hits.values()), len(total))
        table.add_row("all", *map(str, sums))
        console = Console(width=100, color_system=None)
        with console.capture() as captured:
            console.print(table)
        return captured.get()
