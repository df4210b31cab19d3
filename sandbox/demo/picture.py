"""The README's pictures, made by the tool itself from a real run: `make picture`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import click

from sandbox.core.deadline import Deadline
from sandbox.core.errors import SandboxError
from sandbox.core.process import run
from sandbox.core.settings import Settings, read_settings
from sandbox.core.store import Store
from sandbox.demo.show import rehearse_both

FOLDER = Path(".readme")
# Headless, as root, and silent: without the last five it looks up hosts of its maker's.
CHROMIUM = (
    *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
    *("--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)


def screenshot(page: Path, picture: Path, width: int, height: int) -> None:
    """A PNG of a local page."""
    with tempfile.TemporaryDirectory(prefix="upgrade-sandbox-") as profile:
        run(
            [
                *CHROMIUM,
                f"--user-data-dir={profile}",
                f"--window-size={width},{height}",
                f"--screenshot={picture.resolve()}",
                f"file://{page}",
            ],
            Deadline(120, "taking the screenshot"),
            hint="apt install chromium",
        )


def make_pictures(settings: Settings) -> int:
    """Run the demo; its first run's terminal and its second run's report are the pictures."""
    FOLDER.mkdir(exist_ok=True)
    status = rehearse_both(settings, FOLDER / "run.svg", click.echo)
    report = Store(settings).find("latest").artifacts / "report.html"
    screenshot(report, FOLDER / "report.png", 1100, 1000)
    click.echo(f"written: {FOLDER}/run.svg, {FOLDER}/report.png")
    return status


if __name__ == "__main__":
    try:
        sys.exit(make_pictures(read_settings()))
    except SandboxError as problem:
        sys.exit(str(problem))
