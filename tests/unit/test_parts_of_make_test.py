"""`make test` is all tests: every file of them is in one of its parts, and in one only."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections import Counter
from fnmatch import fnmatchcase

from tests.support.paths import ROOT

# What `make test` leaves to `make bench` and `make test-xen`; the Makefile says why.
APART = (
    "tests/benchmarks/test_api_watchers.py",
    "tests/benchmarks/test_chat_answers.py",
    "tests/benchmarks/test_rehearsal_overhead.py",
    "tests/benchmarks/test_service_fleet.py",
    "tests/benchmarks/test_xen_*.py",
    "tests/xen/test_xen_files.py",
    "tests/xen/test_xen_types.py",
)


def parts() -> list[str]:
    makefile = (ROOT / "Makefile").read_text()
    lanes = re.findall(r"^(?:GUESTS|OTHERS) := (.+)$", makefile, re.MULTILINE)
    assert len(lanes) == 2
    return " ".join(lanes).split()


def files_of(part: str) -> set[str]:
    """What pytest would collect, by its paths and what it ignores."""
    argv = ["make", "--dry-run", "--no-print-directory", f"part-{part}", "FAILED=/dev/null"]
    said = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    told = re.sub(r"\\\n", " ", said)
    lines = [line for line in told.splitlines() if ".venv/bin/pytest" in line]
    line = lines[-1]  # those before are of parts that have to end first
    named, ignored = set(), []
    for word in shlex.split(line.partition(".venv/bin/pytest")[2]):
        key, _, value = word.partition("=")
        if key in ("--ignore", "--ignore-glob"):
            ignored.append(value)
        elif word.startswith("tests/"):
            path = ROOT / word
            named |= set(path.rglob("test_*.py")) if path.is_dir() else set(ROOT.glob(word))
    relative = {str(path.relative_to(ROOT)) for path in named}
    return {name for name in relative if not any(fnmatchcase(name, glob) for glob in ignored)}


def test_every_file_of_tests_is_in_one_part() -> None:
    found = Counter(name for part in parts() for name in files_of(part))
    everything = {str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*.py")}
    apart = {name for name in everything if any(fnmatchcase(name, glob) for glob in APART)}
    assert set(found) == everything - apart
    assert [name for name, times in found.items() if times > 1] == []
