"""The runner of the parts: what fails is shown at once, and an interrupt cleans up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.waiting import wait_until

# The real runner, on parts and folders of a test's own.
RUNNER = """
import sys
from pathlib import Path
import tests.run as runner
from tests.parts import Part
place = Path({place!r})
runner.FOLDER, runner.SESSION = place / "out", place / "times.json"
runner.PARTS = (
    Part("good", "two that pass", (f"{{place}}/good",), circle="quick", cores=2),
    Part("bad", "one that fails", (f"{{place}}/bad",), cores=1),
)
# As beneath tests/, whose conftest keeps what explains a failure.
runner.Part.argvs = lambda self, *_: (("pytest", "-p", "tests.conftest", self.files[0]),)
sys.exit(runner.main({arguments!r}))
"""
GOOD = "def test_one(): pass\ndef test_two(): pass\n"
BAD = """
import pytest

@pytest.fixture
def state(tmp_path):
    (tmp_path / "console.log").write_text("Kernel panic")
    (tmp_path / "disk.qcow2").write_text("no log")
    yield tmp_path
    (tmp_path / "console.log").unlink()

def test_fails(state):
    assert "the guest" == "is up"
"""
CLEANS_UP = """
import pathlib, pytest, time

@pytest.fixture
def guest():
    pathlib.Path({place!r}, "began").touch()
    yield
    pathlib.Path({place!r}, "removed").touch()

def test_waits(guest):
    time.sleep(600)
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name, text in (("good", GOOD), ("bad", BAD)):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"test_{name}.py").write_text(text)
    return tmp_path


def start(place: Path, *arguments: str) -> subprocess.Popen[str]:
    program = textwrap.dedent(RUNNER.format(place=str(place), arguments=list(arguments)))
    return subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(place: Path, *arguments: str) -> tuple[int, str]:
    process = start(place, *arguments)
    said, _ = process.communicate(timeout=300)
    return process.returncode, said


def test_a_failure_is_shown_at_once_with_what_explains_it(place: Path) -> None:
    status, said = finish(place, "test")
    assert status == 1
    shown, _, after = said.partition("bad: FAILED")
    assert "test_fails failed" in shown, "it is shown before its part has ended"
    assert 'assert "the guest" == "is up"' in shown
    (folder,) = [
        Path(line.partition(": ")[2])
        for line in shown.splitlines()
        if line.startswith("what explains it: ")
    ]
    kept = {path.name: path for path in folder.rglob("*") if path.is_file()}
    assert kept["console.log"].read_text() == "Kernel panic"
    assert "disk.qcow2" not in kept, "disks are no explanation"
    assert folder.is_relative_to(place / "out" / "bad")
    assert f"logs, and what explains each failure: {place / 'out'}" in after
    *_, named, failure, counted = said.rstrip().splitlines()
    assert (named, counted) == ("failed: bad", "2 passed, 1 failed")
    assert "test_fails: AssertionError: assert 'the guest' == 'is up'" in failure


def test_what_passes_is_counted_and_its_minutes_are_kept(place: Path) -> None:
    status, said = finish(place, "quick")
    assert status == 0, said
    assert "good: passed in" in said
    assert said.rstrip().endswith("\n2 passed, 0 failed")
    record = json.loads((place / "times.json").read_text())
    assert record["circle"] == "quick"
    assert record["parts"]["good"]["tests"] == 2


def test_a_session_without_a_test_has_failed(place: Path) -> None:
    (place / "good" / "test_good.py").write_text("")
    status, said = finish(place, "good")
    assert status == 1
    assert "no tests ran" in said
    assert said.rstrip().endswith("failed: good\n0 passed, 1 failed")


def test_an_unknown_part_is_told_with_those_that_there_are(place: Path) -> None:
    status, said = finish(place, "nonesuch")
    assert status == 1
    assert said == (
        "tests: no part 'nonesuch'\nwhat to do: name one of quick, test, all, good, bad\n"
    )


def test_ctrl_c_lets_the_parts_clean_up(place: Path) -> None:
    (place / "good" / "test_good.py").write_text(CLEANS_UP.format(place=str(place)))
    process = start(place, "test")
    wait_until((place / "began").exists, "the part to begin", seconds=120)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=300)
    assert time.monotonic() - began < 300
    assert process.returncode == 1
    assert (place / "removed").exists(), said
    assert "interrupted" in said
