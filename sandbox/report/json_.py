"""The report for programs: the record, the decision and the differences, with a schema version."""

from __future__ import annotations

import json

from sandbox.report.view import View

SCHEMA_VERSION = 1  # raised when a key changes its meaning or goes; new keys do not raise it


def render_json(shown: View) -> str:
    """One object, ASCII only: no terminal sequence or bidi override survives printing it."""
    checks = [
        {
            "name": change.name,
            "effect": change.effect.value,
            "before": change.before.outcome.value if change.before else None,
            "after": change.after.outcome.value if change.after else None,
        }
        for change in shown.checks
    ]
    decision = shown.record.decision
    document = {
        "schema_version": SCHEMA_VERSION,
        "verdict": shown.verdict,
        "exit_code": decision.verdict.exit_code if decision else None,
        "headline": shown.headline,
        "decision": decision.model_dump(mode="json") if decision else None,
        "checks": checks,
        "differences": shown.differences.model_dump(mode="json") if shown.differences else None,
        "changes": [line.model_dump(mode="json") for line in shown.changes],  # the worst first
        "record": shown.record.model_dump(mode="json"),
    }
    return json.dumps(document, indent=2) + "\n"
