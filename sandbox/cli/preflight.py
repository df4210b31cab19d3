"""`sandbox preflight`, as the command line has it."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from sandbox.cli.options import completing

CODES = """\b
Exit codes:
  0  nothing blocks the upgrade; whether it is safe only a rehearsal tells
  1  something does
  2  the request is wrong: bad scenario, no such key
  4  it could not be looked at: no answer, unknown host key, key refused
"""


@click.command(epilog=CODES)
@click.argument("scenario", shell_complete=completing("scenarios"))
@click.option("--address", required=True, help="Production itself: its host name or IP address.")
@click.option(
    "--upgrade",
    help="all, security, kernel, or packages: nginx,openssl=3.0.20 (default: as SCENARIO has it)",
)
@click.option("--user", help="User to log in as (default: the scenario's, else root).")
@click.option("--key", type=click.Path(path_type=Path), help="Private key (default: ssh's own).")
@click.option("--port", type=click.IntRange(1, 65535), help="Of its sshd (default: SCENARIO's).")
@click.option(
    "--known-hosts",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="File with its host key (default: ssh's own).",
)
@click.option(
    "--known-bugs",
    type=click.Path(path_type=Path),
    help="YAML list of versions that you do not want.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
def preflight(
    scenario: str,
    address: str,
    upgrade: str | None,
    user: str | None,
    key: Path | None,
    port: int | None,
    known_hosts: Path | None,
    known_bugs: Path | None,
    as_json: bool,
) -> None:
    """Look at production for what would stop SCENARIO. It takes seconds, and makes no clone.

    This is the one command that enters production, never by itself, and it only reads: apt
    simulates with the package lists that are there, and nothing is fetched or written. Its host key
    must be known.

    \b
    Examples:
      sandbox preflight security --address web01.example.org
      sandbox preflight kernel --address web01.example.org --user admin --json
    """
    from sandbox.cli.preflight_report import Where, print_preflight
    from sandbox.core.interruption import interruptible
    from sandbox.core.settings import read_settings

    where = Where(address, user, key, port, known_hosts)
    with interruptible():
        status = print_preflight(
            scenario, where, upgrade, known_bugs, read_settings(), as_json=as_json
        )
    sys.exit(status)
