"""One rehearsal in the foreground: progress, verdict, report."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from sandbox.cli.terminal import TerminalProgress
from sandbox.core.errors import RequestError
from sandbox.core.records import RunRecord, Verdict
from sandbox.core.settings import Settings
from sandbox.core.store import RunFolder, Store
from sandbox.hosts.drivers.acceleration import acceleration
from sandbox.hosts.inventory import connected, find_host
from sandbox.rehearsal.recipe import rehearse
from sandbox.rehearsal.recovery import PAGE, write_page
from sandbox.report import render
from sandbox.scenario.request import Request, prepare

_PICTURE_WIDTH = 100
_PRICE = (
    "until then it keeps its memory, and what it and production write takes space where",
    "production's disks are: nothing watches that any more but `sandbox reap`, which ends",
    "a kept clone when that space runs out",
)
_WEB_FONT = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)  # rich names a web font


def rehearse_in_terminal(
    request: Request, settings: Settings, *, keep: bool, as_json: bool, picture: Path | None
) -> Verdict:
    """Rehearse, show it, and leave an HTML report; returns the verdict."""
    # With --json standard output is for the program that reads it.
    console = Console(
        stderr=as_json,
        highlight=False,
        soft_wrap=picture is None,
        record=picture is not None,
        width=_PICTURE_WIDTH if picture else None,
    )
    folder, record = rehearse_shown(request, settings, console, keep=keep)
    if as_json:
        click.echo(render(record, folder.artifacts, "json"))
    else:
        show(console, record, folder.artifacts)
    if picture is not None:
        save_picture(console, picture, f"sandbox run {request.scenario} --guest {record.guest}")
    assert record.decision is not None
    return record.decision.verdict


def rehearse_shown(
    request: Request, settings: Settings, console: Console, *, keep: bool = False
) -> tuple[RunFolder, RunRecord]:
    """Rehearse, and show how it goes; the record, which is written as a page, too."""
    scenario = prepare(request, settings)
    stated = scenario.source.host if scenario.source is not None else None
    host = find_host(request.host or stated, settings)
    with connected(host) as hypervisor:
        folder = Store(settings).create(hypervisor.uri)
        with _interruption_told(settings, folder), TerminalProgress(console) as progress:
            record = rehearse(
                scenario,
                hypervisor,
                folder,
                settings,
                progress,
                accelerated=acceleration() == "kvm",
                limits=host.limits,
                keep=keep,
            )
    unwritten = write_page(folder, record)
    if unwritten:  # a full disk must not cost the verdict
        click.echo(f"the HTML report could not be written: {unwritten}", err=True)
    return folder, record


@contextlib.contextmanager
def _interruption_told(settings: Settings, folder: RunFolder) -> Iterator[None]:
    """After Ctrl-C: what became of the clone."""
    try:
        yield
    except KeyboardInterrupt:
        left = ", ".join(Store(settings).load(folder).left_behind)
        click.echo(
            f"\ninterrupted: not everything could be removed: {left}; `sandbox reap` tries again"
            if left
            else "\ninterrupted: the clone, its network and its files are removed",
            err=True,
        )
        raise


def show(console: Console, record: RunRecord, folder: Path) -> None:
    """The report as text, and where to go from here."""
    console.print()
    coloured = console.is_terminal or console.record
    text = render(record, folder, "text", colour=coloured, brief=True)
    console.print(Text.from_ansi(text))
    console.print(f"all of it:  sandbox report {record.id}", markup=False)
    if (folder / PAGE).exists():
        console.print(f"as a page:  {folder / PAGE}", markup=False)
    if record.ssh_command:
        console.print("the clone is up; enter it with", markup=False)
        console.print(f"  {record.ssh_command}", markup=False)
        console.print(f"and remove it with  sandbox rm {record.id}", markup=False)
        for line in _PRICE:
            console.print(line, markup=False)
    if record.left_behind:
        console.print("not removed: " + "; ".join(record.left_behind), style="red", markup=False)
        console.print("`sandbox reap` tries again", markup=False)


def save_picture(console: Console, path: Path, title: str) -> None:
    """What the console showed, as an SVG that loads nothing from elsewhere."""
    drawing = console.export_svg(title=title)
    try:
        path.write_text(_WEB_FONT.sub("", drawing))
    except OSError as problem:
        raise RequestError(f"cannot write the picture {path}: {problem.strerror}") from problem
