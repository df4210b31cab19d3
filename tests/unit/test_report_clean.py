"""Guest output must not act on a terminal, hide from a reader or grow without bound."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.core.clean_text import clean, one_line, sanitise, tail_lines
from sandbox.core.records import RunRecord, Verdict
from tests.support.fakes.hostile_records import PAYLOADS, hostile, texts
from tests.support.fakes.sample_records import passed

FORBIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufffe\uffff"
    "\ud800-\udfff\U000e0000-\U000e0fff]"
)


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain text\n\tindented", "plain text\n\tindented"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]8;;https://evil.example\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bPpayload\x1b\\after", "after"),
        ("\x9b31mred\x9d0;t\x9cafter", "redafter"),
        ("\x1bcreset\x1b7", "reset"),
        ("10%\r20%\r\ndone\x85next\u2028last", "10%\n20%\ndone\nnext\nlast"),
        ("user\u202egnp.exe", "usergnp.exe"),
        ("zero\u200bwidth\ufeff", "zerowidth"),
        ("umlauts äöü and 漢字 and ✓ stay", "umlauts äöü and 漢字 and ✓ stay"),
        ("z" + "\u0301" * 50, "z" + "\u0301" * 3),
    ],
)
def test_what_is_taken_out_and_what_stays(raw: str, shown: str) -> None:
    assert sanitise(raw) == shown


def test_an_unfinished_sequence_does_not_swallow_the_log() -> None:
    assert "the evidence" in sanitise("\x1b]0;never ends\nthe evidence")
    assert "the evidence" in sanitise("\x1b[999\nthe evidence")


def test_cuts_are_told() -> None:
    shown = sanitise("x" * 5000, 100)
    assert shown.startswith("x" * 100)
    assert "5000 characters in all" in shown
    assert len(shown) < 200


@given(st.text(st.characters(), max_size=200))
def test_any_text_comes_out_harmless_and_cleaning_twice_changes_nothing(text: str) -> None:
    shown = sanitise(text)
    assert not FORBIDDEN.search(shown)
    assert sanitise(shown) == shown


@given(st.lists(st.sampled_from(["\x1b", "[", "]", "0", ";", "m", "\x07", "\\", "P", "\x9b", "a"])))
def test_no_arrangement_of_sequences_leaves_an_escape(parts: list[str]) -> None:
    assert not FORBIDDEN.search(sanitise("".join(parts)))


@given(st.text(max_size=300), st.integers(1, 50))
def test_one_line_is_one_line_within_its_limit(text: str, limit: int) -> None:
    line = one_line(text, limit)
    assert "\n" not in line
    assert len(line) <= limit


def test_the_tail_keeps_indentation_and_drops_empty_lines() -> None:
    assert tail_lines("a\n\n  b\r\n\x1b[0m\nc\n", 2) == ("  b", "c")


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
def test_no_field_of_a_record_is_forgotten(payload: str) -> None:
    shown = clean(hostile(payload, Verdict.PASS))
    found = texts(shown.model_dump(mode="python"))
    assert len(found) > 80
    assert not [text for text in found if FORBIDDEN.search(text) or len(text) > 21_000]


def test_a_clean_stays_as_it_is() -> None:
    assert clean(passed()) == passed()
    assert isinstance(clean(passed()), RunRecord)
