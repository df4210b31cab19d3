"""Options that several commands have, with what a shell completes them to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

EXIT_CODES = """\b
Exit codes:
  0  pass          the upgrade is safe to apply
  1  fail          it is not
  2  rejected      the request is wrong: unknown guest, bad scenario, key refused
  3  inconclusive  the rehearsal does not show whether it is safe
  4  error         the sandbox itself failed: try again
  130  interrupted (Ctrl-C), everything cleaned up
"""
WATCHING_CODES = EXIT_CODES.replace(
    "interrupted (Ctrl-C), everything cleaned up",
    "the run was cancelled; or Ctrl-C, which ends the watching and not the run",
)
FORMATS = ("text", "json", "junit", "markdown", "html")
IMAGE_FORMATS = ("qcow2", "raw", "vmdk", "vhdx", "vpc")
HOST = "A name of hosts.yaml, or a libvirt URI (default: SANDBOX_URI, else this machine)."
Completer = Callable[[click.Context, click.Parameter, str], Any]


def completing(what: str) -> Completer:
    """A list of :mod:`sandbox.cli.completion`, which is read when a shell asks for it."""

    def complete(context: click.Context, _parameter: click.Parameter, begun: str) -> Any:
        from sandbox.cli import completion as lists

        if what == "guests":
            return lists.guests(begun, context.params.get("host"))
        return getattr(lists, what)(begun)

    return complete


def on_host(help: str = HOST) -> Callable[[click.decorators.FC], click.decorators.FC]:
    """The option --host."""
    return click.option("--host", metavar="HOST", help=help, shell_complete=completing("hosts"))


def of_guest(help: str) -> Callable[[click.decorators.FC], click.decorators.FC]:
    """The option --guest."""
    return click.option("--guest", help=help, shell_complete=completing("guests"))


def to_rehearse(command: click.decorators.FC) -> click.decorators.FC:
    """The options that say what is rehearsed, and how it is entered."""
    options = (
        of_guest("Guest (libvirt domain) to rehearse; it may be running."),
        on_host(),
        click.option(
            "--image", type=click.Path(path_type=Path), help="Disk image to rehearse instead."
        ),
        click.option(
            "--format", "image_format", type=click.Choice(IMAGE_FORMATS), help="Of the image."
        ),
        click.option(
            "--upgrade",
            help="all, security, kernel, release=trixie, or packages: nginx,openssl=3.0.20,./x.deb",
        ),
        click.option("--user", help="User to log in as (default: the scenario's, else root)."),
        click.option(
            "--key", type=click.Path(path_type=Path), help="Private key that the guest accepts."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command
