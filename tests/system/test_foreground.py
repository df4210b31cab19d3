"""`sandbox run` behind the command line: what is printed where, and what is left on disk.

The hypervisor is the one in memory, so rehearsals end before a guest is entered.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from sandbox.cli import foreground
from sandbox.core.errors import HostError, RequestError
from sandbox.core.records import RunRecord, Verdict
from sandbox.core.store import Store
from sandbox.rehearsal.recovery import PAGE, write_page
from sandbox.scenario.request import Request
from tests.support.fakes.sample_records import broken_nginx, passed
from tests.support.fakes.stage import GUEST, Stage


@pytest.fixture(autouse=True)
def in_memory(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox.hosts.drivers.driver_for", lambda *_: stage.hypervisor)
    monkeypatch.setattr(foreground, "acceleration", lambda: "tcg")


def start(
    stage: Stage,
    guest: str = GUEST,
    *,
    keep: bool = False,
    as_json: bool = False,
    picture: Path | None = None,
) -> Verdict:
    scenario = stage.scenario("")
    request = Request(str(scenario.path), guest=guest)
    try:
        return foreground.rehearse_in_terminal(
            request, stage.settings, keep=keep, as_json=as_json, picture=picture
        )
    finally:
        store = Store(stage.settings)
        stage.folders += [store.folder(run_id) for run_id in store.ids()]


def test_a_person_gets_verdict_reason_and_the_way_on(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(stage) is Verdict.INCONCLUSIVE
    out, err = capsys.readouterr()
    run_id = stage.folders[-1].id
    assert out.startswith("Rehearsing ")
    assert "no SSH within 1 s" in out
    assert f"sandbox report {run_id}" in out
    page = stage.folders[-1].artifacts / PAGE
    assert f"as a page:  {page}" in out
    assert "<html" in page.read_text()
    assert page.stat().st_mode & 0o777 == 0o600
    assert err == ""
    assert stage.hypervisor.closed
    assert stage.left() == []


def test_a_program_gets_json_and_nothing_else(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(stage, "web10", as_json=True) is Verdict.REJECTED
    out, err = capsys.readouterr()
    assert json.loads(out)["decision"]["verdict"] == "rejected"
    assert "Rehearsing" in err


def test_a_kept_clone_is_entered_and_removed_with_these_words(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    start(stage, keep=True)
    out, _ = capsys.readouterr()
    folder = stage.folders[-1]
    assert "the clone is up; enter it with" in out
    assert "takes space where\nproduction's disks are" in out
    assert f"ssh -F {folder.clone}/ssh_config clone" in out
    assert f"sandbox rm {folder.id}" in out


def test_what_was_not_removed_is_said(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    stage.hypervisor.fail("destroy", HostError("the daemon restarts"))
    start(stage)
    out, _ = capsys.readouterr()
    assert "not removed: the daemon restarts" in out
    assert "sandbox reap" in out


@pytest.mark.parametrize(
    ("also", "words"),
    [(None, "are removed"), (HostError("busy"), "not everything could be removed: busy")],
)
def test_ctrl_c_says_what_became_of_the_clone(
    stage: Stage, capsys: pytest.CaptureFixture[str], also: HostError | None, words: str
) -> None:
    stage.hypervisor.fail("screenshot", KeyboardInterrupt())
    if also is not None:
        stage.hypervisor.fail("destroy", also)
    with pytest.raises(KeyboardInterrupt):
        start(stage)
    _, err = capsys.readouterr()
    assert "interrupted: " in err
    assert words in err
    assert stage.hypervisor.closed


def test_a_wrong_request_makes_no_run(stage: Stage) -> None:
    with pytest.raises(RequestError):
        start(stage, "a/b")
    assert Store(stage.settings).clone_ids() == ()


def test_a_picture_loads_nothing_from_elsewhere(stage: Stage, tmp_path: Path) -> None:
    picture = tmp_path / "run.svg"
    start(stage, picture=picture)
    text = picture.read_text()
    assert "<svg" in text
    assert "Rehearsing" in text.replace("&#160;", " ")
    assert "url(http" not in text
    assert "@font-face" not in text


def test_a_picture_that_cannot_be_written_says_so(stage: Stage, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="cannot write the picture"):
        start(stage, picture=tmp_path / "no" / "run.svg")


# -- the end of a run, of any kind --------------------------------------------------------------


def shown(record: RunRecord, folder: Path) -> str:
    console = Console(file=io.StringIO(), width=100, highlight=False)
    foreground.show(console, record, folder)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("make", [passed, broken_nginx])
def test_the_end_is_readable_without_a_terminal(
    make: Callable[[], RunRecord], tmp_path: Path
) -> None:
    record = make()
    text = shown(record, tmp_path)
    assert "\x1b" not in text
    assert record.decision is not None
    assert record.decision.reason in " ".join(text.split())
    assert "as a page" not in text, "there is none"
    (tmp_path / PAGE).touch()
    assert "as a page" in shown(record, tmp_path)


def test_a_page_that_cannot_be_written_does_not_cost_the_verdict(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = replace(stage.new_folder(), artifacts=stage.settings.state / "nowhere")
    why = write_page(nowhere, passed())
    assert "No such file" in why
    monkeypatch.setattr(foreground, "write_page", lambda *_: why)
    verdict = start(stage)
    assert verdict is Verdict.INCONCLUSIVE
    assert f"the HTML report could not be written: {why}" in capsys.readouterr().err
