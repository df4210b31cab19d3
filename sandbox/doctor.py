"""`sandbox doctor`: checks this host and says what works, what does not and what to do."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sandbox.errors import SandboxError
from sandbox.host_checks import Check, Finding, State, all_checks
from sandbox.report.clean import one_line
from sandbox.settings import Settings

NOT_FIT = 4
CHECK_SECONDS = 40.0  # for one check; those that start something have shorter limits of their own
_MARKS = {State.OK: ("✓", "green"), State.WARNING: ("!", "bold yellow"), State.BAD: ("✗", "red")}
_NAME_WIDTH = 22


def print_checks(settings: Settings, *, as_json: bool) -> int:
    """Print every check as it ends; 0 when none is "not ok", else 4."""
    console = Console(highlight=False, soft_wrap=True)
    group, states = "", []
    for check in all_checks(settings):
        if check.group != group and not as_json:
            console.print(Text(f"{check.group}\n" if not group else f"\n{check.group}\n", "bold"), end="")
            group = check.group
        with console.status(check.name) if console.is_terminal and not as_json else _Nothing():
            found = examine(check.run)
        states.append(found.state)
        if as_json:
            click.echo(json.dumps(as_object(check, found)))
        else:
            _print(console, check, found)
    if not as_json:
        _print_end(console, states)
    return NOT_FIT if State.BAD in states else 0
