"""What dies a while after the upgrade: the first look finds it in order."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox.core.records import Outcome, Verdict
from sandbox.demo.broken import build_deb
from sandbox.report import render
from tests.support.guests.archive import Archive
from tests.support.guests.case_parts import ALL, CONTROL, FEW, MEMORY
from tests.support.guests.guests import Lab

pytestmark = pytest.mark.vm

LATE = 30  # seconds
DIES_LATE = f"#!/bin/sh\n(sleep {LATE}; systemctl kill --signal=KILL nginx) >/dev/null 2>&1 &\n"


def test_a_service_that_dies_late_fails_and_the_control_is_watched_as_long(
    lab: Lab, archive: Archive, tmp_path: Path
) -> None:
    archive.offer([])
    package = build_deb("web01-late", "1.0", out=tmp_path, postinst=DIES_LATE)
    text = ALL + MEMORY + CONTROL + FEW + "watch: 3m\n"
    record = lab.run(lab.scenario(text), upgrade=str(package))
    facts = record.facts
    assert record.decision is not None
    assert record.decision.verdict is Verdict.FAIL, record.decision.reason
    assert "nginx.service" in record.decision.reason
    assert facts.watched is not None
    assert facts.watched.seconds < 120, "it ends with what it waits for"
    assert facts.control is not None
    assert facts.control.missing == ""
    outcomes = {r.outcome for one in facts.control.checks_after for r in one.results}
    assert outcomes == {Outcome.PASSED}
    log = (lab.artifacts(record) / "checks-after.log").read_text()
    assert "failed" not in log, "the first look found it in order"
    assert "watched for" in render(record, lab.artifacts(record), "text")
