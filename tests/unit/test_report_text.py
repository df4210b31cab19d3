"""The text report: the first line answers, and nothing in it acts on a terminal.

After a wanted change: ``python -m tests.unit.golden.regenerate`` and read the difference.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sandbox.core.errors import RequestError
from sandbox.core.records import Ledger, RunRecord, Verdict
from sandbox.core.wording import duration, size
from sandbox.report import FORMATS, render
from tests.support.fakes.hostile_records import PAYLOADS, hostile, without_after
from tests.support.fakes.sample_records import ALL, broken_nginx, no_boot, passed, write_artifacts
from tests.support.paths import GOLDEN

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]")

FIRST_LINES = {
    "pass": "YES, upgrade web01: 7 packages applied, 12 of 12 checks hold after, "
    "kernel 6.1.0-51-cloud-amd64 runs.",
    "broken_nginx": "NO, do not upgrade web01: 6 checks that held before fail after "
    "nginx 1.22.1-9 -> 1.99; first test_http: connection refused on port 80.",
    "no_boot": "NO, do not upgrade web01: the guest did not come back after the upgrade: "
    "it stopped in the initramfs shell (no answer in 300 s).",
    "mirror_error": "NO ANSWER for web01 (error): the package sources did not answer: "
    "mirror.example answered 503.",
    "rejected": "NOT REHEARSED for wbe01 (rejected): there is no guest 'wbe01' on qemu:///system.",
    "inconclusive": "UNKNOWN for web01 (inconclusive): test_page[/health] failed already before "
    "the upgrade: expected status 200, got 503.",
    "hung": "UNKNOWN for web01 (inconclusive): a check hung before the upgrade: test_slow did not "
    "end within 60 s.",
}


@pytest.mark.parametrize("name", FIRST_LINES)
def test_the_first_line_answers(name: str, tmp_path: Path) -> None:
    assert render(ALL[name](), tmp_path, "text").splitlines()[0] == FIRST_LINES[name]


@pytest.mark.parametrize("name", ["pass", "broken_nginx", "no_boot"])
def test_the_text_is_the_golden_one(name: str, tmp_path: Path) -> None:
    shown = render(ALL[name](), write_artifacts(tmp_path), "text")
    assert shown == (GOLDEN / f"{name}.txt").read_text()
    assert max(map(len, shown.splitlines()[1:])) <= 100


@pytest.mark.parametrize("name", ALL)
def test_no_colour_means_no_escape_and_colour_adds_nothing_else(name: str, tmp_path: Path) -> None:
    plain = render(ALL[name](), tmp_path, "text")
    coloured = render(ALL[name](), tmp_path, "text", colour=True)
    assert "\x1b" not in plain
    assert "\x1b[" in coloured
    assert COLOUR.sub("", coloured).split() == plain.split()


def test_the_environment_does_not_decide_on_colour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = render(passed(), tmp_path, "text")
    for name in ("FORCE_COLOR", "CLICOLOR_FORCE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("COLUMNS", "40")
    assert render(passed(), tmp_path, "text") == before


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
@pytest.mark.parametrize("colour", [False, True])
def test_nothing_acts_on_a_terminal(payload: str, colour: bool, tmp_path: Path) -> None:
    (tmp_path / "console.log").write_bytes(payload.encode(errors="replace"))
    for record in (hostile(payload), without_after(hostile(payload))):
        shown = render(record, tmp_path, "text", colour=colour)
        assert not CONTROL.search(COLOUR.sub("", shown) if colour else shown)


def test_a_guest_that_did_not_come_back_shows_its_console(tmp_path: Path) -> None:
    write_artifacts(tmp_path)
    assert "Gave up waiting for root file system" in render(no_boot(), tmp_path, "text")
    assert "Gave up waiting" not in render(broken_nginx(), tmp_path, "text")


@pytest.mark.parametrize(
    ("ledger", "words"),
    [
        (Ledger(), "- nothing"),
        (Ledger(missing="python3: not found"), "- not listened: python3: not found"),
        (Ledger(whole=False), "- and more than was kept: what is new may be missing here"),
    ],
)
def test_what_was_not_heard_is_said(ledger: Ledger, words: str, tmp_path: Path) -> None:
    record = passed()
    facts = record.facts.model_copy(update={"ledger": ledger})
    shown = render(record.model_copy(update={"facts": facts}), tmp_path, "text")
    assert words in shown.partition("What the clone tried to reach\n")[2]
    assert "tried to reach" not in render(record, tmp_path, "text"), "nobody was to listen"


def test_a_run_without_a_decision(tmp_path: Path) -> None:
    record = passed().model_copy(update={"decision": None, "state": "running", "finished": 0.0})
    first = render(record, tmp_path, "text").splitlines()[0]
    assert first == "NO ANSWER YET for web01: the rehearsal is running (phase cleanup)."
    dead = record.model_copy(update={"state": "finished", "phases": ()})
    assert "NO ANSWER for web01: the rehearsal ended without a verdict" in render(
        dead, tmp_path, "text"
    )


@pytest.mark.parametrize("format", FORMATS)
def test_the_least_a_record_can_hold_is_still_a_report(format: str, tmp_path: Path) -> None:
    record = RunRecord(id="r1", tool_version="0", scenario="s", guest="g", started=0.0)
    assert "g" in render(record, tmp_path / "missing", format)


def test_an_unknown_format_is_the_request_s_fault(tmp_path: Path) -> None:
    with pytest.raises(RequestError) as caught:
        render(passed(), tmp_path, "pdf")
    assert "html" in caught.value.hint


def test_left_over_things_and_a_kept_clone_are_told(tmp_path: Path) -> None:
    record = passed().model_copy(
        update={"left_behind": ("bridge sb1",), "ssh_command": "ssh root@clone"}
    )
    for format in ("text", "html"):
        shown = render(record, tmp_path, format)
        assert "bridge sb1" in shown
        assert "ssh root@clone" in shown


@pytest.mark.parametrize("verdict", Verdict)
def test_each_verdict_has_first_words_of_its_own(verdict: Verdict, tmp_path: Path) -> None:
    record = passed()
    assert record.decision
    decision = record.decision.model_copy(update={"verdict": verdict})
    shown = render(record.model_copy(update={"decision": decision}), tmp_path, "text")
    assert shown.startswith("YES") == (verdict is Verdict.PASS)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(-1, "0.0 s"), (0.34, "0.3 s"), (42.4, "42 s"), (372, "6 min 12 s"), (3720, "1 h 02 min")],
)
def test_durations(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


@pytest.mark.parametrize(
    ("amount", "shown"),
    [(0, "0 B"), (1536, "+1.5 KiB"), (-(3 * 1024**3), "-3.0 GiB"), (1024**5, "+1024.0 TiB")],
)
def test_sizes(amount: int, shown: str) -> None:
    assert size(amount, signed=True) == shown
