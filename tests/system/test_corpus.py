"""The corpus's cases are well made, and what its table counts is right. (tests/corpus runs it.)"""

from __future__ import annotations

from pathlib import Path

from tests.corpus.corpus_machine import OTHERS


def test_a_package_of_a_case_can_be_built(tmp_path: Path) -> None:
    assert OTHERS[0].build(tmp_path).name == "web01-docs_1.1_all.deb"
