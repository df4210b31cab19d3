"""The headings of `sandbox --help`. Click's own list has none, and a table of names keeps the
commands of the service lazy: their library need not be imported to be listed."""

from __future__ import annotations

import click

HEADINGS: dict[str, tuple[str, ...]] = {
    "Rehearse": (
        *("init", "scenario", "preflight", "run", "submit", "gate", "retry", "cancel"),
        *("rm", "reap"),
    ),
    "Look": (
        *("status", "watch", "list", "show", "report", "artifacts", "history", "summary"),
        *("guests", "doctor"),
    ),
    "Service": (
        *("up", "down", "worker", "beat", "api", "schedule", "migrate", "health", "metrics"),
    ),
    "Access": ("token", "chat", "completion"),
    "Try it": ("demo", "lab"),
}


def write_commands(
    group: click.Group, context: click.Context, formatter: click.HelpFormatter
) -> None:
    """Write a group's commands under their headings, and others under one of their own."""
    names = group.list_commands(context)
    known = {name for listed in HEADINGS.values() for name in listed}
    others = tuple(name for name in names if name not in known)
    longest = max(map(len, names), default=0)
    width = formatter.width - longest - 6
    for heading, listed in (*HEADINGS.items(), ("Others", others)):
        commands = {name: group.get_command(context, name) for name in listed if name in names}
        # Every heading's descriptions begin in one column: its names are padded to the longest.
        rows = [
            (name.ljust(longest), command.get_short_help_str(width))
            for name, command in commands.items()
            if command is not None and not command.hidden
        ]
        if rows:
            with formatter.section(heading):
                formatter.write_dl(rows)
