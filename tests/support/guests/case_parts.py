"""What cases are made of."""

from __future__ import annotations

import json
from pathlib import Path

from sandbox.core.records import RunRecord, Verdict
from sandbox.demo.broken import DATA, SITE_CONFIG, SITE_PACKAGE, SITE_PAGE, build_deb
from sandbox.report import render

ALL = "upgrade: {what: all}\n"
MEMORY = "memory: 512MiB\n"
CONTROL = "control: always\n"
FEW = "checks: {shared: [boot, services]}\n"  # where a verdict is not about the checks
LOOK = "def test_nginx_runs(host):\n    assert host.service('nginx').is_running\n"


def verdict(record: RunRecord) -> Verdict:
    assert record.decision is not None
    return record.decision.verdict


def reason(record: RunRecord) -> str:
    assert record.decision is not None
    return record.decision.reason


def site_11(out: Path, config: str | None = None, more: str = "") -> Path:
    """A good new version of web01's site."""
    return build_deb(
        SITE_PACKAGE,
        "1.1",
        out=out,
        files={
            SITE_CONFIG: config or (DATA / "site-1.0.conf").read_text(),
            SITE_PAGE: "<h1>web01, new</h1>\n",
        },
        conffiles=[SITE_CONFIG],
        postinst=(DATA / "site-postinst.sh").read_text() + more,
        depends="nginx",
    )


def changes_of(record: RunRecord, folder: Path) -> list[dict[str, str]]:
    changes: list[dict[str, str]] = json.loads(render(record, folder, "json"))["changes"]
    return changes
