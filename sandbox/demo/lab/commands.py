"""`sandbox lab …`: a Xen host of one's own, up and down."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

import click

from sandbox.core.deadline import Deadline
from sandbox.core.errors import RequestError

if TYPE_CHECKING:
    from sandbox.demo.lab.machine import Lab


@click.command()
def up() -> None:
    """Build the lab where it is not cached, start it, and wait for its guests.

    \b
    Examples:
      sandbox lab up
      export SANDBOX_URI="$(sandbox lab uri)"
      sandbox run package --guest web01 --upgrade nginx --key "$(sandbox lab key)"
    """
    from sandbox.demo.lab import machine

    started = time.monotonic()

    def progress(text: str) -> None:
        click.echo(f"{time.monotonic() - started:6.0f} s  {text}")

    lab = machine.Lab()
    machine.up(lab, progress)
    click.echo(f"its guests: {', '.join(machine.GUESTS)} (running), db01 (off)")
    click.echo('next:  export SANDBOX_URI="$(sandbox lab uri)"')
    click.echo("       sandbox guests   # or: sandbox lab ssh, to look around in dom0")


@click.command()
def down() -> None:
    """End the lab and drop what was written in it; the built images stay cached."""
    from sandbox.demo.lab import machine

    ended = machine.down(machine.Lab())
    click.echo("the lab is down" if ended else "the lab was not running")


@click.command()
def status() -> None:
    """Say whether the lab runs, and how to reach it (exit code 0 when it answers, else 3)."""
    lab = _lab()
    if lab.pid() is None:
        click.echo("the lab is down; start it with: sandbox lab up")
        sys.exit(3)
    answers = lab.ssh(("true",), Deadline(30, "asking the lab"), check=False).ok
    click.echo(f"QEMU process {lab.pid()}, SSH {'answers' if answers else 'does not answer yet'}")
    click.echo(f"URI      {lab.uri}")
    click.echo(f"console  {lab.console}")
    sys.exit(0 if answers else 3)


@click.command()
@click.argument("command", nargs=-1)
def ssh(command: tuple[str, ...]) -> None:
    """Enter dom0 as root, or run COMMAND there."""
    lab = _running()
    done = subprocess.run([lab.ssh_program, "xen-lab", *command], check=False)
    sys.exit(done.returncode)


@click.command()
def uri() -> None:
    """Print the lab's libvirt URI."""
    click.echo(_lab().uri)


@click.command()
def key() -> None:
    """Print the path of the private key that the lab's guests accept."""
    from sandbox.demo.image import ensure_key

    click.echo(str(ensure_key()))


def _lab() -> Lab:
    from sandbox.demo.lab.machine import Lab

    return Lab()


def _running() -> Lab:
    lab = _lab()
    if lab.pid() is None:
        raise RequestError("the lab is not running", "start it: sandbox lab up")
    return lab


COMMANDS = {command.name: command for command in (up, down, status, ssh, uri, key) if command.name}
