"""The commands of chat: thin."""

from __future__ import annotations

from pathlib import Path

import click


@click.group()
def chat() -> None:
    """Rehearsals asked for in chats and on pull requests."""


@chat.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
def check(file: Path | None) -> None:
    """Check FILE (default: what SANDBOX_SERVICE_CHAT names), and say who may do what.

    \b
    Examples:
      sandbox chat check /etc/upgrade-sandbox/chat.yaml
    """
    from sandbox.core.errors import RequestError
    from workers.chat.config import read_chat
    from workers.settings import read_service_settings

    named = file or read_service_settings().chat
    if not named:
        raise RequestError(
            "no chat.yaml is named", "give its path, or set SANDBOX_SERVICE_CHAT to it"
        )
    for channel in read_chat(Path(named)).channels:
        click.echo(f"{channel.name}: {channel.kind}, at /hooks/{channel.name}")
        for role in channel.roles:
            users, guests, scenarios = map(", ".join, (role.users, role.guests, role.scenarios))
            click.echo(f"  {users}: may {', '.join(role.may)}; guests: {guests}; of {scenarios}")
