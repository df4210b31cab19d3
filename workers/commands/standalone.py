"""The commands of the embedded service, and the health check: thin."""

from __future__ import annotations

import json
import sys

import click

from workers.context import open_service


@click.command()
@click.option(
    "--host", "hosts", multiple=True, help="Serve this host; again for more. Default: all."
)
@click.option(
    "--slots", type=click.IntRange(1, 64), default=2, show_default=True, help="Rehearsals at once."
)
def up(hosts: tuple[str, ...], slots: int) -> None:
    """Run the whole service on this machine, in the foreground. Ctrl-C drains and ends it.

    It needs no configuration: SQLite, a Redis of its own on a private socket, a worker,
    a beat, and the HTTP API on 127.0.0.1:8480.

    \b
    Examples:
      sandbox up
      sandbox up --host xen1 --slots 4
    """
    from workers.standalone.service import up as run

    settings, _database = open_service()
    sys.exit(run(settings, hosts, slots))


@click.command()
def down() -> None:
    """End the service of `sandbox up`, and wait until it has ended.

    \b
    Examples:
      sandbox down
    """
    from workers.standalone.service import down as end

    settings, _database = open_service()
    end(settings, click.echo)


@click.command()
@click.option("--worker", "needs_worker", is_flag=True, help="A worker of this machine as well.")
@click.option("--api", "needs_api", is_flag=True, help="The HTTP API of this machine as well.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def health(needs_worker: bool, needs_api: bool, as_json: bool) -> None:
    """Whether database, schema and broker are fit for work. Exit code 0, else 4.

    \b
    Examples:
      sandbox health --worker
      sandbox health --api
    """
    from workers.monitoring.health import ask_api, examine

    settings, database = open_service()
    lines = list(examine(settings, database, needs_worker=needs_worker))
    if needs_api:
        lines.append(ask_api(settings))
    if as_json:
        click.echo(json.dumps(dict(line.split(": ", 1) for line in lines)))
        return
    for line in lines:
        click.echo(line)


COMMANDS: tuple[click.Command, ...] = (up, down, health)
