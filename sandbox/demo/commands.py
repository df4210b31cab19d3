"""`sandbox demo …`: a production guest to try it on."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from sandbox.core.interruption import interruptible


@click.command()
def up() -> None:
    """Build and start the demo's production guest, web01."""
    from sandbox.demo.show import start

    start(click.echo)


@click.command()
def down() -> None:
    """Remove web01."""
    from sandbox.demo.show import stop

    stop(click.echo)


@click.command()
@click.option("--picture", type=click.Path(path_type=Path), help="Save a picture (SVG) there.")
def run(picture: Path | None) -> None:
    """Rehearse two upgrades of web01: a good one, and one that breaks nginx."""
    from sandbox.core.settings import read_settings
    from sandbox.demo.show import rehearse_both

    with interruptible():
        sys.exit(rehearse_both(read_settings(), picture, click.echo))


COMMANDS: dict[str, click.Command] = {"up": up, "down": down, "run": run}
