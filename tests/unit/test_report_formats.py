"""JSON, JUnit, Markdown and the timeline: for programs, CI gates and comments on changes."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from junitparser import JUnitXml
from lxml import html
from markdown_it import MarkdownIt

from sandbox.core.records import RunRecord, Verdict
from sandbox.report import render
from sandbox.report.markdown import LIMIT, block, code, plain
from sandbox.report.timeline import timeline_svg
from tests.support.fakes.hostile_records import PAYLOADS, hostile, without_after
from tests.support.fakes.sample_records import (
    ALL,
    broken_nginx,
    hung,
    inconclusive,
    passed,
    write_artifacts,
)
from tests.support.paths import GOLDEN

EXPECTED = {
    "pass": ("pass", 0),
    "broken_nginx": ("fail", 1),
    "no_boot": ("fail", 1),
    "mirror_error": ("error", 4),
    "rejected": ("rejected", 2),
    "inconclusive": ("inconclusive", 3),
    "hung": ("inconclusive", 3),
}


# --- JSON ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXPECTED)
def test_json_holds_verdict_decision_differences_and_the_record(name: str, tmp_path: Path) -> None:
    record = ALL[name]()
    document = json.loads(render(record, tmp_path, "json"))
    assert document["schema_version"] == 1
    assert (document["verdict"], document["exit_code"]) == EXPECTED[name]
    assert RunRecord.model_validate(document["record"]) == record
    assert (document["differences"] is not None) == (record.facts.after is not None)


def test_json_names_what_became_of_each_check(tmp_path: Path) -> None:
    checks = json.loads(render(broken_nginx(), tmp_path, "json"))["checks"]
    assert checks[0] == {
        "name": "test_web.py::test_http",
        "effect": "broke",
        "before": "passed",
        "after": "failed",
    }


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
def test_json_is_plain_ascii_whatever_the_guest_says(payload: str, tmp_path: Path) -> None:
    shown = render(hostile(payload), tmp_path, "json")
    assert shown.isascii()
    assert "\x1b" not in shown
    assert "\\u001b" not in shown
    assert "\\u202e" not in shown


# --- JUnit --------------------------------------------------------------------------------------


def suites(record: RunRecord, folder: Path) -> dict[str, ElementTree.Element]:
    root = ElementTree.fromstring(render(record, folder, "junit"))
    assert root.tag == "testsuites"
    return {suite.get("name", ""): suite for suite in root.iter("testsuite")}


def test_junit_has_the_checks_of_both_sides_and_the_verdict(tmp_path: Path) -> None:
    found = suites(broken_nginx(), tmp_path)
    assert [*found] == ["rehearsal", "before", "after"]
    counts = {n: (s.get("tests"), s.get("failures"), s.get("errors")) for n, s in found.items()}
    assert counts == {
        "rehearsal": ("1", "1", "0"),
        "before": ("12", "0", "0"),
        "after": ("12", "6", "0"),
    }
    first = found["after"].findall("testcase")[0]
    assert (first.get("classname"), first.get("name")) == ("test_web", "test_http")
    failure = first.find("failure")
    assert failure is not None
    assert failure.get("message") == "connection refused on port 80"
    assert "AssertionError" in (failure.text or "")


@pytest.mark.parametrize("name", EXPECTED)
def test_a_gate_that_counts_failures_is_green_for_a_pass_only(name: str, tmp_path: Path) -> None:
    shown = render(ALL[name](), tmp_path, "junit")
    red = sum(s.failures + s.errors for s in JUnitXml.fromstring(shown.encode()))
    assert (red == 0) == (EXPECTED[name][0] == "pass")


def test_junit_tells_that_checks_did_not_run_to_their_end(tmp_path: Path) -> None:
    error = suites(hung(), tmp_path)["before"].find("testcase[last()]/error")
    assert error is not None
    assert error.get("type") == "timeout"


def test_junit_is_red_without_a_decision(tmp_path: Path) -> None:
    record = passed().model_copy(update={"decision": None})
    assert suites(record, tmp_path)["rehearsal"].get("errors") == "1"


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
def test_junit_stays_well_formed(payload: str, tmp_path: Path) -> None:
    found = suites(hostile(payload), tmp_path)
    tags = {element.tag for suite in found.values() for element in suite.iter()}
    assert tags <= {"testsuite", "testcase", "failure", "error", "skipped", "system-out"}


# --- Markdown -----------------------------------------------------------------------------------

ALLOWED = {"html", "body", "h3", "h4", "p", "strong", "em", "ul", "li", "code", "pre", "details",
           "summary", "table", "thead", "tbody", "tr", "th", "td", "div"}  # fmt: skip


def rendered(markdown: str) -> html.HtmlElement:
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    return html.document_fromstring(f"<div>{parser.render(markdown)}</div>")


def test_markdown_is_the_golden_one(tmp_path: Path) -> None:
    shown = render(broken_nginx(), write_artifacts(tmp_path), "markdown")
    assert shown == (GOLDEN / "broken_nginx.md").read_text()


@pytest.mark.parametrize("name", EXPECTED)
def test_markdown_opens_with_the_answer_and_reads_as_intended(name: str, tmp_path: Path) -> None:
    first = render(ALL[name](), tmp_path, "text").splitlines()[0]
    root = rendered(render(ALL[name](), write_artifacts(tmp_path), "markdown"))
    heading = root.xpath("string(//h3)").replace("\u200b", "")
    assert heading.split(" ", 1)[1] == first
    assert {str(e.tag) for e in root.iter()} <= ALLOWED


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
@pytest.mark.parametrize("came_back", [True, False])
def test_markdown_makes_nothing_of_guest_output(
    payload: str, came_back: bool, tmp_path: Path
) -> None:
    (tmp_path / "console.log").write_bytes(payload.encode(errors="replace"))
    record = hostile(payload, Verdict.ERROR)
    shown = render(record if came_back else without_after(record), tmp_path, "markdown")
    root = rendered(shown)
    assert len(shown) <= LIMIT
    assert {str(e.tag) for e in root.iter()} <= ALLOWED
    assert not root.xpath("//@*[name() != 'class']")
    calm = hostile("x", Verdict.ERROR)
    (tmp_path / "console.log").write_bytes(b"x")
    other = rendered(render(calm if came_back else without_after(calm), tmp_path, "markdown"))
    for tag in ("h3", "h4", "ul", "li", "table", "tr", "td", "details", "strong", "pre"):
        assert len(root.xpath(f"//{tag}")) == len(other.xpath(f"//{tag}")), tag


@pytest.mark.parametrize("name", ["@octocat", "#12", "!34", "~label", "GH-8", "$6", "https://x"])
def test_markdown_makes_no_reference_even_after_entities_are_resolved(name: str) -> None:
    text = rendered(plain(f"see {name} now")).text_content()
    assert name not in text
    assert name in text.replace("\u200b", "")
    assert rendered(code(name)).xpath("string(//code)") == name


def test_a_fence_is_longer_than_what_it_holds() -> None:
    shown = block(["````", "<b>bold</b>", "```"])
    root = rendered(shown)
    assert root.xpath("string(//pre)").splitlines() == ["````", "<b>bold</b>", "```"]


def test_markdown_that_does_not_fit_says_so(tmp_path: Path) -> None:
    record = inconclusive()
    upgrade = record.facts.upgrade
    assert upgrade
    files = tuple(
        upgrade.conffiles[0].model_copy(update={"diff": "+" + "y" * 9000}) for _ in range(10)
    )
    facts = record.facts.model_copy(
        update={"upgrade": upgrade.model_copy(update={"conffiles": files})}
    )
    shown = render(record.model_copy(update={"facts": facts}), tmp_path, "markdown")
    assert len(shown) <= LIMIT
    assert shown.rstrip().endswith("`sandbox report` shows all._")
    assert shown.startswith("### ❔ UNKNOWN")


# --- timeline -----------------------------------------------------------------------------------


def test_the_timeline_has_a_bar_a_phase_in_proportion() -> None:
    root = ElementTree.fromstring(timeline_svg(passed()))
    bars = [r for r in root.iter() if r.get("class") == "bar-ok"]
    assert len(bars) == 8
    widths = [float(bar.get("width", "").rstrip("%")) for bar in bars]
    starts = [float(bar.get("x", "").rstrip("%")) for bar in bars]
    assert widths[4] == max(widths)  # the upgrade
    assert widths[4] == pytest.approx(100 * 214.0 / 304.5, abs=0.1)
    assert starts == sorted(starts)
    assert all(s + w <= 100.01 for s, w in zip(starts, widths, strict=True))


def test_the_timeline_marks_the_phase_that_failed() -> None:
    root = ElementTree.fromstring(timeline_svg(broken_nginx()))
    assert len([r for r in root.iter() if r.get("class") == "bar-failed"]) == 1
    assert "verify 6.4 s (failed)" in "".join(root.itertext())


def test_the_timeline_bears_clocks_that_make_no_sense() -> None:
    record = passed()
    backwards = tuple(
        p.model_copy(update={"started": -p.started, "seconds": -5.0}) for p in record.phases
    )
    root = ElementTree.fromstring(timeline_svg(record.model_copy(update={"phases": backwards})))
    for bar in root.iter("rect"):
        assert 0 <= float(bar.get("x", "").rstrip("%")) <= 100
    assert timeline_svg(record.model_copy(update={"phases": ()})) == ""


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
def test_the_timeline_stays_well_formed(payload: str) -> None:
    root = ElementTree.fromstring(timeline_svg(hostile(payload)))
    assert {str(e.tag).rpartition("}")[2] for e in root.iter()} <= {
        "svg", "title", "desc", "text", "rect",
    }  # fmt: skip
