"""The commands of the HTTP API: thin."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import click

from workers.context import open_service

SCOPES = ("read", "submit", "admin")


@click.command()
@click.option("--listen", metavar="HOST:PORT", help="Where (default: 127.0.0.1:8480).")
@click.option("--tls-cert", metavar="FILE", help="Its certificate: then it is HTTPS.")
@click.option("--tls-key", metavar="FILE", help="The certificate's private key.")
def api(listen: str | None, tls_cert: str | None, tls_key: str | None) -> None:
    """Serve the HTTP API: runs, events, reports, gate decisions. SIGTERM ends it.

    \b
    Examples:
      sandbox api
      sandbox api --listen 0.0.0.0:8480 --tls-cert api.pem --tls-key api.key
    """
    from workers import logs
    from workers.web.api.server import serve

    settings, database = open_service()
    database.close()
    settings = replace(
        settings,
        api_listen=listen or settings.api_listen,
        api_tls_cert=tls_cert or settings.api_tls_cert,
        api_tls_key=tls_key or settings.api_tls_key,
    )
    logs.configure()
    serve(settings)


@click.group()
def token() -> None:
    """Who may use the HTTP API."""


@token.command()
@click.option("--name", required=True, help="Who uses it, for lists and logs.")
@click.option(
    "--scope",
    type=click.Choice(SCOPES),
    default="read",
    show_default=True,
    help="Each may what those before it may.",
)
@click.option("--expires", default="90d", show_default=True, help="12h, 30d, 8w or never.")
def create(name: str, scope: str, expires: str) -> None:
    """Make a token and print it. It is not shown again.

    \b
    Examples:
      sandbox token create --name gitlab --scope submit --expires 30d > gitlab.token
    """
    from sandbox.report.view import instant
    from workers.database import require_schema
    from workers.web.auth import tokens

    _settings, database = open_service()
    seconds = tokens.lifetime(expires)
    require_schema(database)
    made, text = tokens.create(database, name, tokens.Scope(scope), seconds)
    click.echo(text)
    until = f"until {instant(made.expires)}" if made.expires else "until it is revoked"
    click.echo(f"token {made.id} may {scope}, {until}; it is not shown again", err=True)


@token.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def list_tokens(as_json: bool) -> None:
    """List the tokens, newest first, without their secrets.

    \b
    Examples:
      sandbox token list
    """
    from sandbox.cli.listing import aligned
    from sandbox.report.view import instant
    from workers.web.auth import tokens

    _settings, database = open_service()
    listed = tokens.listed(database)
    if as_json:
        for one in listed:
            click.echo(json.dumps(asdict(one)))
        return
    if not listed:
        click.echo("no tokens yet; make one with  sandbox token create --name NAME")
        return
    heads = ("TOKEN", "SCOPE", "STATE", "EXPIRES", "LAST USED", "NAME")
    cells = [
        (
            *(one.id, one.scope.value, one.state.value),
            instant(one.expires) if one.expires else "never",
            instant(one.used) if one.used else "never",
            one.name,
        )
        for one in listed
    ]
    click.echo("\n".join(aligned([heads, *cells])))


@token.command()
@click.argument("which", metavar="TOKEN")
def revoke(which: str) -> None:
    """Take TOKEN back, by its id or name: at once and for good.

    \b
    Examples:
      sandbox token revoke gitlab
    """
    from workers.web.auth import tokens

    _settings, database = open_service()
    gone = tokens.revoke(database, which)
    click.echo(f"token {gone.id} ({gone.name}) is {gone.state.value}")


COMMANDS: tuple[click.Command, ...] = (api, token)
