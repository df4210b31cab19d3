"""What changed in the guest, in every report: ten lines, the worst first, and the rest folded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from lxml import html

from sandbox.core.records import Certificate, Port, RunRecord, Wide
from sandbox.report import render
from sandbox.report.text import render_text
from sandbox.report.view import view
from sandbox.verdict.severity import SHOWN
from tests.support.fakes.sample_records import passed

PATHS = tuple(f"/etc/ssl/certs/{number}.pem" for number in range(37))
WORST = "user deploy is new and can log in (/bin/bash)"
FIRST = (
    "port tcp 0.0.0.0:8080 (java) is open now, on all addresses",
    WORST,
    "/etc/shadow is 644 root shadow, before 640 root shadow",
    "certificate /etc/ssl/web01.pem was replaced (CN=web01.example, valid until 2027-01-15)",
)
MANY = "37 files beneath /etc/ssl/certs have another mode"


def changed() -> RunRecord:
    """web01, whose upgrade did more than one was told."""
    record = passed()
    before, after = record.facts.before, record.facts.after
    assert before is not None
    assert after is not None
    calm = Wide(
        memory_used=180 << 20,
        modes={"/etc/shadow": "640 root shadow", **dict.fromkeys(PATHS, "644 root root")},
        users={"root": "0:0:/bin/bash"},
        groups={"sudo": "27:"},
        modules=("virtio_net", "pcspkr"),
        settings={"net.ipv4.ip_forward": "0", "kernel.dmesg_restrict": "1"},
        certificates={
            "/etc/ssl/web01.pem": Certificate(
                fingerprint="aa", subject="CN=web01.example", expires=1_767_225_600.0
            )
        },
    )
    odd = Wide(
        memory_used=312 << 20,
        modes={"/etc/shadow": "644 root shadow", **dict.fromkeys(PATHS, "600 root root")},
        users={"root": "0:0:/bin/bash", "deploy": "1000:1000:/bin/bash"},
        groups={"sudo": "27:", "deploy": "1000:"},
        modules=("virtio_net", "nf_tables"),
        settings={"net.ipv4.ip_forward": "1", "kernel.dmesg_restrict": "0"},
        certificates={
            "/etc/ssl/web01.pem": Certificate(
                fingerprint="bb", subject="CN=web01.example", expires=1_800_000_000.0
            )
        },
    )
    java = Port(protocol="tcp", address="0.0.0.0", port=8080, process="java")
    facts = record.facts.model_copy(
        update={
            "before": before.model_copy(update={"wide": calm}),
            "after": after.model_copy(update={"wide": odd, "ports": (*after.ports, java)}),
        }
    )
    return record.model_copy(update={"facts": facts})


def flat(text: str) -> str:
    return " ".join(text.split())


def test_the_json_has_all_of_them_the_worst_first(tmp_path: Path) -> None:
    document = json.loads(render(changed(), tmp_path, "json"))
    changes = document["changes"]
    assert [line["text"] for line in changes if line["severity"] == "high"] == [*FIRST]
    (many,) = [line for line in changes if line["text"] == MANY]
    assert sorted(many["items"]) == sorted(PATHS)
    assert len(document["differences"]["modes"]) == 38
    assert len(changes) > SHOWN


def test_the_text_shows_ten_and_says_where_the_others_are(tmp_path: Path) -> None:
    shown = render(changed(), tmp_path, "text")
    section = shown.partition("What else changed")[2].partition("\n\n")[0]
    lines = [line for line in section.splitlines() if line.startswith("  - ")]
    assert len(lines) == SHOWN
    assert all(text in flat(section) for text in FIRST)
    total = len(json.loads(render(changed(), tmp_path, "json"))["changes"])
    assert f"… and {total - SHOWN} more; `--format json` has them all" in section
    assert PATHS[0] not in shown


def test_the_page_shows_ten_and_folds_the_others(tmp_path: Path) -> None:
    root = html.document_fromstring(render(changed(), tmp_path, "html"))
    (section,) = root.xpath("//section[@aria-labelledby='differences']")
    shown = section.xpath("./div/ul/li")
    folded = section.xpath("./div/details/ul/li")
    assert len(shown) == SHOWN
    total = len(json.loads(render(changed(), tmp_path, "json"))["changes"])
    assert len(shown) + len(folded) == total
    assert [flat(li.text_content()) for li in shown[:4]] == [f"high {text}" for text in FIRST]
    (many,) = [li for li in (*shown, *folded) if MANY in flat(li.text_content())]
    assert len(many.xpath(".//details//li")) == len(PATHS)
    assert not section.xpath(".//details[@open]")


def test_the_comment_shows_ten_and_folds_the_others(tmp_path: Path) -> None:
    shown = render(changed(), tmp_path, "markdown")
    section = shown.partition("#### What else changed")[2]
    head, _, rest = section.partition("<details>")
    assert head.count("\n- **") == SHOWN
    assert WORST.split("(")[0] in head.replace("&#47;", "/")
    assert "\n- **low**" in rest


@pytest.mark.parametrize("format", ["text", "html", "markdown"])
def test_nothing_is_told_twice(format: str, tmp_path: Path) -> None:
    shown = render(changed(), tmp_path, format)
    assert shown.count("user deploy is new") == 1


@pytest.mark.parametrize("format", ["text", "html", "markdown"])
def test_what_nobody_looked_at_is_not_said_to_be_as_before(format: str, tmp_path: Path) -> None:
    record = passed()
    before = record.facts.before
    assert before is not None
    blind = before.model_copy(update={"wide": None})
    facts = record.facts.model_copy(update={"before": blind, "after": blind})
    shown = flat(render(record.model_copy(update={"facts": facts}), tmp_path, format))
    assert "the guest did not tell them at all" in shown
    assert "as before" not in shown
    assert "nothing besides the packages" not in shown


def test_the_brief_report_names_the_worst(tmp_path: Path) -> None:
    shown = flat(render_text(view(changed(), tmp_path), brief=True))
    assert all(f"high: {text}" in shown for text in FIRST)
    assert "more differences" in shown
