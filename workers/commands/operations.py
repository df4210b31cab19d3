"""The commands of the service's operator: thin. The modules that they call do the work."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from sandbox.cli.main import doctor
from sandbox.core.errors import RequestError
from sandbox.core.interruption import interruptible
from workers.context import open_service

LISTEN = "127.0.0.1:9171"


@click.command()
@click.argument("run_id", metavar="RUN")
@click.option(
    "--output", type=click.Path(path_type=Path, file_okay=False), help="Copy them into this folder."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a file.")
def artifacts(run_id: str, output: Path | None, as_json: bool) -> None:
    """List what the attempts of RUN left, or fetch it.

    \b
    Examples:
      sandbox artifacts latest
      sandbox artifacts latest --output ./evidence
    """
    from workers.artifacts import fetch

    settings, database = open_service()
    sys.exit(fetch.print_artifacts(database, settings, run_id, output, as_json=as_json))


@click.command()
@click.option("--listen", metavar="HOST:PORT", help=f"Where (default: {LISTEN}).")
@click.option("--once", is_flag=True, help="Print them, and end.")
def metrics(listen: str | None, once: bool) -> None:
    """Serve the service's metrics to Prometheus. Every client that reaches the port can read them.

    \b
    Examples:
      sandbox metrics --once
      sandbox metrics --listen 127.0.0.1:9171
    """
    from workers import logs
    from workers.monitoring import metrics as ours

    settings, database = open_service()
    if once:
        click.echo(ours.text(database), nl=False)
        return
    logs.configure()
    logs.hide_secrets_of(settings)
    served = ours.serve(settings, listen or settings.metrics or LISTEN)
    click.echo(f"metrics at port {served.port}; Ctrl-C ends", err=True)
    try:
        with interruptible():
            served.thread.join()
    finally:
        served.stop()


def _with_service(command: click.Command) -> click.Command:
    """`sandbox doctor` with --service: the library's own command knows nothing of a service."""
    of_host = command.callback
    assert of_host is not None

    def callback(service: bool, **given: Any) -> Any:
        if not service:
            return of_host(**given)
        if given["host"] is not None:
            raise RequestError("--host and --service exclude each other", "give one of them")
        from workers.monitoring.service_checks import print_service

        settings, database = open_service()
        database.close()
        sys.exit(print_service(settings, as_json=given["as_json"]))

    command.callback = callback
    command.params.append(
        click.Option(
            ["--service"], is_flag=True, help="Check the service: database, broker, workers."
        )
    )
    return command


COMMANDS: tuple[click.Command, ...] = (artifacts, metrics, _with_service(doctor))
