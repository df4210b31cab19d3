"""`sandbox doctor`: checks this host and says what works, what does not and what to do."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sandbox.core.clean_text import one_line
from sandbox.core.errors import SandboxError
from sandbox.core.settings import Settings
from sandbox.doctor.host_checks import Check, Finding, State, all_checks
from sandbox.doctor.xen_checks import xen_checks
from sandbox.hosts.inventory import KnownHost, find_host

NOT_FIT = 4
UNDO_SECONDS = 5.0  # for what a check made when Ctrl-C comes
_MARKS = {State.OK: ("✓", "green"), State.WARNING: ("!", "yellow"), State.BAD: ("✗", "red")}
_NAME_WIDTH = 20


# The readiness checks of each kind of hypervisor.
_READINESS: dict[str, Callable[[Settings, KnownHost], Generator[Check, None, None]]] = {
    "qemu": lambda settings, _known: all_checks(settings),
    "xen": xen_checks,
}


def print_checks(settings: Settings, host: str | None = None, *, as_json: bool) -> int:
    """Print every check of a host as it ends; 0 when none is "not ok", else 4."""
    known = find_host(host, settings)
    settings = replace(settings, uri=known.uri)
    states = print_findings(_READINESS[known.kind](settings, known), as_json=as_json)
    if not as_json:
        start = "sandbox run security --guest NAME" + (f" --host {host}" if host else "")
        Console(highlight=False).print(_conclusion(states, start), soft_wrap=True)
    return NOT_FIT if State.BAD in states else 0


def print_findings(chosen: Generator[Check, None, None], *, as_json: bool) -> list[State]:
    """Print what each check finds as it ends."""
    console = Console(highlight=False)
    states, group = [], ""
    with contextlib.closing(chosen) as checks:
        for check in checks:
            if not as_json and check.group != group:
                console.print(Text(("\n" if group else "") + check.group, "bold"))
                group = check.group
            waiting = console.is_terminal and not as_json
            with console.status(check.name) if waiting else contextlib.nullcontext():
                found = examine(check.run, check.seconds)
            states.append(found.state)
            if as_json:
                line = {"check": check.name, "state": found.state.value}
                click.echo(json.dumps({**line, "detail": found.detail, "hint": found.hint}))
            elif console.is_terminal:
                _print_pretty(console, check, found)
            else:
                _print_plain(check, found)
    return states


def examine(run: Callable[[], Finding], seconds: float = 40.0) -> Finding:
    """What a check finds; one that fails, or hangs in a library, has found that."""
    found: list[Finding] = []

    def attempt() -> None:
        try:
            found.append(run())
        except SandboxError as problem:
            found.append(Finding(State.BAD, problem.message, problem.hint))
        except OSError as problem:
            found.append(Finding(State.BAD, str(problem), "see the message; is this run as root?"))
        except Exception as problem:
            what = f"this check itself failed: {type(problem).__name__}: {problem}"
            found.append(Finding(State.BAD, what, "please report it"))

    # A library call that never returns must not keep the other checks from being made.
    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    try:
        thread.join(seconds)
    except KeyboardInterrupt:
        thread.join(UNDO_SECONDS)  # it may hold a bridge
        raise
    if not found:
        return Finding(State.BAD, f"no answer within {seconds:.0f} s", "restart what hangs")
    state, detail, hint = found[0].state, one_line(found[0].detail), one_line(found[0].hint)
    return Finding(state, detail, hint)


def _print_pretty(console: Console, check: Check, found: Finding) -> None:
    mark, style = _MARKS[found.state]
    row = Table.grid(padding=(0, 1), pad_edge=False)
    row.add_column(width=3, justify="right")
    row.add_column(width=_NAME_WIDTH)
    row.add_column(overflow="fold")
    row.add_row(Text(mark, f"bold {style}"), Text(check.name), Text(found.detail, "dim"))
    if found.hint and found.state is not State.OK:
        row.add_row("", Text("→", style, justify="right"), Text(found.hint, style))
    console.print(row)


def _print_plain(check: Check, found: Finding) -> None:
    click.echo(f"  {found.state.value:<8} {check.name:<{_NAME_WIDTH}} {found.detail}".rstrip())
    if found.hint and found.state is not State.OK:
        click.echo(f"  {'':<8} {'':<{_NAME_WIDTH}} {found.hint}")


def _conclusion(states: Sequence[State], start: str) -> Text:
    bad, warnings = states.count(State.BAD), states.count(State.WARNING)
    noted = f"{warnings} warning{'' if warnings == 1 else 's'}"
    if bad:
        words = (
            f"\n{bad} of {len(states)} checks not ok, {noted}: no rehearsal before that is mended"
        )
        return Text(words, "bold red")
    words = f"\nThis host can rehearse upgrades ({len(states)} checks, {noted})."
    return Text.assemble((words, "bold green"), f"\nStart with  {start}")
