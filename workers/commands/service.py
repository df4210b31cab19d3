"""The service's commands: thin. What they do is in the modules that they call."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sandbox.cli.options import WATCHING_CODES, completing, to_rehearse
from sandbox.core.errors import RequestError
from sandbox.core.interruption import interruptible
from workers.context import open_service

if TYPE_CHECKING:
    pass

PRIORITIES = ("gate", "normal", "nightly")


@click.command(epilog=WATCHING_CODES)
@click.argument("scenario", shell_complete=completing("scenarios"))
@to_rehearse
@click.option(
    "--priority",
    type=click.Choice(PRIORITIES),
    default="normal",
    show_default=True,
    help="Whom first.",
)
@click.option("--fresh", is_flag=True, help="Do not join an equal run that is open.")
@click.option("--wait", is_flag=True, help="Watch it to its end; the exit code is the verdict's.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def submit(
    scenario: str,
    guest: str | None,
    host: str | None,
    image: Path | None,
    image_format: str | None,
    upgrade: str | None,
    user: str | None,
    key: Path | None,
    priority: str,
    fresh: bool,
    wait: bool,
    as_json: bool,
) -> None:
    """Queue a rehearsal of SCENARIO for a worker of the service.

    \b
    Examples:
      sandbox submit security --guest web01
      sandbox submit kernel --guest db01 --host xen1 --priority gate --wait
    """
    from sandbox.scenario.request import Request
    from workers.queue import terminal

    if guest is not None and image is not None:
        raise RequestError("--guest and --image exclude each other", "give one of them")
    settings, database = open_service()
    request = Request(scenario, guest, image, image_format, upgrade, user, key, host)
    told = terminal.submit(database, settings, request, priority, fresh=fresh)
    terminal.tell_submitted(told, as_json=as_json)
    if wait:
        with interruptible():
            sys.exit(terminal.watch(database, told.run_id, as_json=as_json))


@click.command()
@click.argument("run_id", metavar="[RUN]", required=False)
@click.option("--guest", help="Only of this guest.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def status(run_id: str | None, guest: str | None, limit: int, as_json: bool) -> None:
    """How the queue stands, or RUN in it. RUN is an id, a part of one, or `latest`.

    \b
    Examples:
      sandbox status
      sandbox status latest --json
    """
    from workers.queue import terminal

    _settings, database = open_service()
    if run_id is None:
        terminal.print_queue(database, guest=guest, limit=limit, as_json=as_json)
    else:
        terminal.print_run(database, run_id, as_json=as_json)


@click.command(epilog=WATCHING_CODES)
@click.argument("run_id", metavar="RUN")
@click.option("--json", "as_json", is_flag=True, help="One JSON object an event.")
def watch(run_id: str, as_json: bool) -> None:
    """Follow RUN live until it has ended. The exit code is its verdict's.

    \b
    Examples:
      sandbox watch latest
    """
    from workers.queue import terminal

    _settings, database = open_service()
    with interruptible():
        sys.exit(terminal.watch(database, run_id, as_json=as_json))


@click.command()
@click.argument("run_id", metavar="RUN")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: the run as it is then.")
def cancel(run_id: str, as_json: bool) -> None:
    """Take RUN back: it is not begun, or its clone is removed.

    \b
    Examples:
      sandbox cancel latest
    """
    from workers.queue import terminal

    _settings, database = open_service()
    terminal.cancel(database, run_id, as_json=as_json)


@click.command()
@click.argument("run_id", metavar="RUN")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def retry(run_id: str, as_json: bool) -> None:
    """Queue the rehearsal of RUN once more, as a run of its own.

    \b
    Examples:
      sandbox retry latest
    """
    from workers.queue import terminal

    settings, database = open_service()
    terminal.tell_submitted(terminal.retry(database, settings, run_id), as_json=as_json)


@click.command()
@click.argument("guest")
@click.option("--host", help="Only on this host.")
@click.option("--check", default="", help="Only checks with this in their name.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def history(guest: str, host: str | None, check: str, as_json: bool) -> None:
    """What the checks of GUEST did in the runs so far. Which are flaky, what failed when.

    How often each held is counted apart for where nothing was upgraded (before the upgrade, and on
    the control) and for after an upgrade.

    \b
    Examples:
      sandbox history web01
      sandbox history web01 --check test_http --json
    """
    from workers.queue import check_histories

    _settings, database = open_service()
    check_histories.print_history(database, guest, host=host, check=check, as_json=as_json)


@click.command()
@click.option(
    "--host", "hosts", multiple=True, help="Serve this host; again for more. Default: all."
)
@click.option(
    "--slots", type=click.IntRange(1, 64), default=2, show_default=True, help="Rehearsals at once."
)
@click.option("--systemd-unit", is_flag=True, help="Print a unit that runs it, and end.")
def worker(hosts: tuple[str, ...], slots: int, systemd_unit: bool) -> None:
    """Work for the hosts that this machine reaches. SIGTERM drains it.

    \b
    Examples:
      sandbox worker --host xen1 --slots 2
      sandbox worker --systemd-unit > /etc/systemd/system/upgrade-sandbox-worker.service
    """
    from workers import logs
    from workers.queue import terminal
    from workers.worker.process import run_worker
    from workers.worker.systemd_unit import worker_unit

    if systemd_unit:
        click.echo(worker_unit(), nl=False)
        return
    settings, _database = open_service()
    logs.configure()
    sys.exit(run_worker(settings, terminal.known_hosts(settings, hosts), slots))


@click.command()
def beat() -> None:
    """Send the tick of the nightly schedule and the clean-up. Two do no harm.

    \b
    Examples:
      sandbox beat
    """
    from workers import logs
    from workers.worker.process import run_beat

    settings, _database = open_service()
    logs.configure()
    run_beat(settings)


@click.command()
@click.option("--json", "json_lines", is_flag=True, help="One JSON object a line.")
def schedule(json_lines: bool) -> None:
    """The scenarios that run by themselves. When they are due, how their last night went.

    \b
    Examples:
      sandbox schedule
    """
    from workers.schedule import listing

    settings, database = open_service()
    listing.print_schedules(database, settings, json_lines=json_lines)


@click.command()
@click.argument("night", required=False)
@click.option("--json", "json_text", is_flag=True, help="Print JSON.")
def summary(night: str | None, json_text: bool) -> None:
    """Which guests may be upgraded after NIGHT. Which not and why, and what is new.

    NIGHT is a schedule's name (its last night), or one night's id; default: the last of all.

    \b
    Examples:
      sandbox summary
      sandbox summary web01-nightly@2026-11-25T01:30Z
    """
    from workers.schedule import listing

    _settings, database = open_service()
    listing.print_summary(database, night, json_text=json_text)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def migrate(as_json: bool) -> None:
    """Bring the service's database to this version's schema. Runs in flight go on.

    \b
    Examples:
      sandbox migrate
    """
    from workers.database import migrate as bring
    from workers.database import schema_versions

    _settings, database = open_service()
    before, newest = schema_versions(database)
    bring(database)
    if as_json:
        click.echo(json.dumps({"database": database.url, "before": before, "now": newest}))
        return
    click.echo(f"{database.url}: {'already at' if before == newest else 'now at'} {newest}")


COMMANDS: tuple[click.Command, ...] = (
    submit,
    status,
    watch,
    cancel,
    retry,
    history,
    worker,
    beat,
    schedule,
    summary,
    migrate,
)
