"""The README says what the code does: its commands parse, its tables are the code's."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.support.paths import ROOT
from tests.unit.test_readme import README


@pytest.mark.parametrize(
    "name",
    [
        *("demo", "test", "quick", "test-all", "clean-demo", "xen-lab", "test-xen", "bench"),
        *("up", "secrets", "image"),
    ],
)
def test_a_make_target_of_the_readme_exists(name: str) -> None:
    assert re.search(rf"make {name}\b", README)
    made = subprocess.run(
        ["make", "-n", name], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr
