"""The circles of tests grow: every file of tests is in one part, and no part runs nothing."""

from __future__ import annotations

from collections import Counter

from tests.parts import CIRCLES, PARTS, Circle
from tests.support.paths import ROOT, TESTS


def files_of(circle: Circle) -> Counter[str]:
    wide = CIRCLES.index(circle)
    parts = [part for part in PARTS if CIRCLES.index(part.circle) <= wide]
    return Counter(file for part in parts for file in part.collected(circle))


def test_every_file_of_tests_is_in_one_part() -> None:
    everything = {str(path.relative_to(ROOT)) for path in TESTS.rglob("test_*.py")}
    counted = files_of("all")
    assert set(counted) == everything
    assert [name for name, times in counted.items() if times > 1] == []


def test_every_circle_is_in_the_next() -> None:
    quick, test, whole = (set(files_of(circle)) for circle in CIRCLES)
    assert quick < test < whole


def test_no_part_runs_nothing() -> None:
    """Without files pytest would collect what its settings name: all."""
    for part in PARTS:
        assert part.commands or part.collected(part.circle), part.name


def test_parts_that_run_side_by_side_have_a_production_each() -> None:
    names = [part.production for part in PARTS if part.production]
    assert len(names) == len(set(names))
