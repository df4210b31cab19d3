"""The page: says the right things, asks nothing of the network, and nobody can write to it."""

from __future__ import annotations

import base64
import hashlib
import os
import re
from itertools import pairwise
from pathlib import Path

import pytest
from lxml import html
from lxml.html import HtmlElement

from sandbox.core.records import Artifact, RunRecord, Verdict
from sandbox.report import render
from sandbox.report.html import SCREEN_BYTES
from tests.support.fakes.hostile_records import PAYLOADS, hostile, without_after
from tests.support.fakes.sample_records import (
    ALL,
    broken_nginx,
    no_boot,
    passed,
    screen_png,
    write_artifacts,
)

Shape = list[tuple[str, tuple[str, ...]]]


def page(record: RunRecord, folder: Path) -> HtmlElement:
    return html.document_fromstring(render(record, folder, "html"))


def shape(root: HtmlElement) -> Shape:
    """Every element with the names of its attributes, in order."""
    return [(str(element.tag), tuple(sorted(map(str, element.attrib)))) for element in root.iter()]


def with_screens(record: RunRecord, *names: str) -> RunRecord:
    return record.model_copy(
        update={"artifacts": tuple(Artifact(name=name, title="screen") for name in names)}
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_artifacts(tmp_path)


@pytest.mark.parametrize("name", ALL)
def test_every_kind_of_rehearsal_has_a_page_that_opens_with_the_answer(
    name: str, folder: Path
) -> None:
    record = ALL[name]()
    root = page(record, folder)
    (heading,) = root.xpath("//h1")
    first_line = render(record, folder, "text").splitlines()[0]
    assert " ".join(heading.text_content().split()).endswith(first_line.split(" ", 2)[2])
    assert root.xpath("string(//title)").startswith(first_line.split(",")[0].split(" for ")[0])


@pytest.mark.parametrize("name", ALL)
def test_the_page_needs_nothing_and_asks_for_nothing(name: str, folder: Path) -> None:
    root = page(ALL[name](), folder)
    assert not root.xpath("//script|//link|//iframe|//object|//embed|//form|//a|//base|//input")
    assert not root.xpath("//@style|//@href|//@srcset|//@*[starts-with(name(), 'on')]")
    assert all(str(src).startswith("data:image/png;base64,") for src in root.xpath("//@src"))


def test_the_policy_lets_through_only_our_style(folder: Path) -> None:
    root = page(passed(), folder)
    (policy,) = root.xpath("//meta[@http-equiv='Content-Security-Policy']/@content")
    (style,) = root.xpath("//style")
    digest = base64.b64encode(hashlib.sha256((style.text or "").encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"url\(|@import|expression", style.text or "")


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
@pytest.mark.parametrize("verdict", [Verdict.PASS, Verdict.ERROR])
def test_no_element_or_attribute_is_made_of_guest_output(
    payload: str, verdict: Verdict, tmp_path: Path
) -> None:
    (tmp_path / "console.log").write_bytes(payload.encode(errors="replace") * 2)
    for change in (lambda record: record, without_after):
        attacked = page(change(hostile(payload, verdict)), tmp_path)
        for element in attacked.iter("meta", "title", "style"):
            element.getparent().remove(element)
        calm = page(change(hostile(_same_lines(payload), verdict)), tmp_path)
        for element in calm.iter("meta", "title", "style"):
            element.getparent().remove(element)
        assert shape(attacked) == shape(calm)
        values = [str(v) for e in attacked.iter() for v in e.attrib.values()]
        assert not [v for v in values if "alert" in v or "evil" in v or "49" in v]


def _same_lines(payload: str) -> str:
    """A harmless text with as many lines: a diff's lines are elements of our own making."""
    return "\n".join("x" for _ in re.split(r"\r\n?|[\n\x0b\x0c\x85\u2028\u2029]", payload))


def test_the_page_is_fit_for_a_screen_reader(folder: Path) -> None:
    root = page(no_boot(), folder)
    assert root.get("lang") == "en"
    assert len(root.xpath("//h1")) == 1
    levels = [int(str(h.tag)[1]) for h in root.iter("h1", "h2", "h3")]
    assert all(later - earlier <= 1 for earlier, later in pairwise(levels))
    assert all(table.xpath("caption") for table in root.xpath("//table"))
    assert all(header.get("scope") for header in root.xpath("//th"))
    assert all(image.get("alt") for image in root.xpath("//img"))
    ids = [str(i) for i in root.xpath("//@id")]
    assert len(ids) == len(set(ids))
    named = {name for value in root.xpath("//@aria-labelledby") for name in str(value).split()}
    assert named <= set(ids)


def test_a_page_of_a_failure_shows_what_broke(folder: Path) -> None:
    text = " ".join(page(broken_nginx(), folder).text_content().split())
    for expected in (
        "connection refused on port 80",
        "1.99",
        "high nginx.service failed",
        "port tcp 0.0.0.0:80 (nginx) is closed now",
        "unknown directive",
        "Checks that need attention (6)",
        "filesystem / is 62 % full, before 52 % (+199.3 MiB)",
        "the source's XML did not change",
        "What the clone tried to reach NEW since the upgrade: tcp 203.0.113.7:443 (3 times)",
    ):
        assert expected in text


def test_a_guest_that_did_not_come_back_shows_its_screen_and_console(folder: Path) -> None:
    root = page(no_boot(), folder)
    (image,) = root.xpath("//img")
    assert base64.b64decode(image.get("src", "").partition(",")[2]) == screen_png()
    assert (image.get("width"), image.get("height")) == ("720", "400")
    console = root.xpath("string(//pre[@aria-labelledby='console'])")
    assert "Gave up waiting for root file system device." in console
    assert "\x1b" not in console
    assert "[1;33m" not in console


def test_the_diff_of_a_configuration_file_is_marked(folder: Path) -> None:
    root = page(passed(), folder)
    assert "worker_processes auto" in root.xpath("string(//span[@class='d-add'])")
    assert "worker_processes 2" in root.xpath("string(//span[@class='d-del'])")


def test_only_pictures_inside_the_folder_are_embedded(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "sub").mkdir(parents=True)
    outside = tmp_path / "outside.png"
    outside.write_bytes(screen_png())
    (folder / "good.png").write_bytes(screen_png())
    (folder / "sub" / "deep.png").write_bytes(screen_png())
    (folder / "link.png").symlink_to(outside)
    (folder / "inner-link.png").symlink_to(folder / "good.png")
    (folder / "linked").symlink_to(tmp_path)
    (folder / "lie.png").write_bytes(b"<svg onload=alert(1)>")
    (folder / "big.png").write_bytes(screen_png() + bytes(SCREEN_BYTES))
    (folder / "folder.png").mkdir()
    bad = ("../outside.png", str(outside), "link.png", "inner-link.png", "linked/outside.png",
           "lie.png", "big.png", "folder.png", "missing.png", "nul\x00.png")  # fmt: skip
    for name in bad:
        assert not page(with_screens(no_boot(), name), folder).xpath("//img"), name
    assert (
        len(page(with_screens(no_boot(), "good.png", "sub/deep.png"), folder).xpath("//img")) == 2
    )


def test_a_fifo_as_console_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "console.log")
    assert "(initramfs)" not in render(no_boot(), tmp_path, "html")


def test_a_huge_rehearsal_stays_a_page(folder: Path) -> None:
    record = broken_nginx()
    facts = record.facts
    assert facts.after
    many = {f"p{n}:amd64": p for n in range(8_000) for p in [facts.after.packages["nginx:amd64"]]}
    after = facts.after.model_copy(update={"packages": many})
    huge = record.model_copy(update={"facts": facts.model_copy(update={"after": after})})
    shown = render(huge, folder, "html")
    assert len(shown) < 1_000_000
    assert "more" in shown
