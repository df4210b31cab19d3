"""The command of the gate: thin."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

import click

from sandbox.cli.options import EXIT_CODES, completing, to_rehearse
from sandbox.core.errors import RequestError, SandboxError
from sandbox.core.interruption import interruptible

CODES = f"""{EXIT_CODES.rstrip()}
  124  timeout       there was no verdict within --wait

Only 0 opens the gate.
"""


def _seconds(_context: click.Context, _parameter: click.Parameter, text: str) -> int:
    from sandbox.core.config.scalars import duration

    try:
        return duration(int(text) if text.isdigit() else text)
    except ValueError as problem:
        raise click.BadParameter(str(problem)) from problem


@click.command(epilog=CODES)
@click.argument("scenario", shell_complete=completing("scenarios"))
@to_rehearse
@click.option(
    "--wait",
    "seconds",
    metavar="TIME",
    default="1h",
    show_default=True,
    callback=_seconds,
    help="For how long: 45m, 1h30m, 900.",
)
@click.option("--leave", is_flag=True, help="Let the run go on when that is over.")
@click.option("--fresh", is_flag=True, help="Neither join an equal open run nor go on with one.")
@click.option("--server", metavar="URL", help="Ask this service (default: SANDBOX_SERVER).")
@click.option("--service", "here", is_flag=True, help="Ask the service of this machine.")
@click.option("--local", is_flag=True, help="Rehearse here and now, without a service.")
@click.option("--junit", type=click.Path(path_type=Path), help="Write JUnit there.")
@click.option("--markdown", type=click.Path(path_type=Path), help="Write a comment there.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; progress goes to stderr.")
@click.option("--cancel", is_flag=True, help="Cancel the run that this CI job asked a server for.")
def gate(
    scenario: str,
    guest: str | None,
    host: str | None,
    image: Path | None,
    image_format: str | None,
    upgrade: str | None,
    user: str | None,
    key: Path | None,
    seconds: int,
    leave: bool,
    fresh: bool,
    server: str | None,
    here: bool,
    local: bool,
    junit: Path | None,
    markdown: Path | None,
    as_json: bool,
    cancel: bool,
) -> None:
    """Rehearse SCENARIO and answer CI: may the guest be upgraded?

    Asked is the server that --server or SANDBOX_SERVER names, with the token in SANDBOX_TOKEN or
    the file SANDBOX_TOKEN_FILE; else the service of this machine, when a worker of it runs; else it
    is rehearsed here. A CI job that is cancelled cancels its run.

    \b
    Examples:
      sandbox gate security --guest web01 --wait 45m --junit junit.xml
      sandbox gate kernel --guest web01 --server https://sandbox.example.org --markdown comment.md
      sandbox gate security --guest web01 --local
    """
    from rich.console import Console

    from sandbox.core.records import Verdict
    from sandbox.scenario.request import Request
    from workers.gate import files
    from workers.gate.job import Job
    from workers.gate.progress import commands_stopped
    from workers.gate.values import CANCELLED, Ending
    from workers.gate.ways import Ways

    if guest is not None and image is not None:
        raise RequestError("--guest and --image exclude each other", "give one of them")
    if sum((server is not None, here, local)) > 1:
        raise RequestError("--server, --service and --local exclude each other", "give one of them")
    job = Job.read(os.environ)
    request = Request(scenario, guest, image, image_format, upgrade, user, key, host)
    console = Console(stderr=as_json, highlight=False, soft_wrap=True)
    keep = partial(files.write, request, job, junit, markdown, partial(click.echo, err=True))
    ways, name = Ways(request, job, console, fresh=fresh), ""
    if cancel:  # what the job's gate left for CI stays as it is
        with commands_stopped(job, err=as_json):
            sys.exit(0 if ways.chosen(server, here=here, local=local).take_back() else 4)
    files.begin(request, junit, markdown)
    with interruptible(), commands_stopped(job, err=as_json):
        try:
            way = ways.chosen(server, here=here, local=local)
            name = way.name
            ending = way.gate(seconds, leave=leave)
        except KeyboardInterrupt:
            ending = Ending("cancelled", CANCELLED, "the CI job was cancelled")
        except SandboxError as problem:
            ending = Ending.of_problem(problem)
        except Exception as fault:  # the caller reports it; CI needs it, too
            keep(Ending.of(Verdict.ERROR, f"a fault of this program: {type(fault).__name__}"))
            raise
        keep(ending)
        files.show(ending, request, console)
    if as_json:
        click.echo(files.as_json(ending, request, name))
    sys.exit(ending.code)


COMMANDS: tuple[click.Command, ...] = (gate,)
