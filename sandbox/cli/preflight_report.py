"""`sandbox preflight`: look at production itself before anything is cloned, only by reading."""

from __future__ import annotations

import contextlib
import re
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sandbox.clone.ssh import LOST, reading
from sandbox.core.clean_text import clean, one_line
from sandbox.core.deadline import Deadline
from sandbox.core.errors import ConnectionLost, GuestUnreachable, RequestError
from sandbox.core.process import Completed, run, tail
from sandbox.core.settings import Settings
from sandbox.core.wording import count, duration
from sandbox.preflight.judge import look_ahead
from sandbox.preflight.known_bugs import bug_points, read_bugs
from sandbox.preflight.points import Preflight, PreflightPoint, PreflightSeverity, ServiceForecast
from sandbox.scenario import load_scenario, parse_upgrade
from sandbox.scenario.request import Request, find_scenario, login_of

SECONDS = 120.0  # a guest that is busy, or emulated, answers late; most answer in two
_ADDRESS = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._:%-]{0,252}")
_MARKS = {
    PreflightSeverity.BLOCKER: ("✗", "red"),
    PreflightSeverity.WARNING: ("!", "yellow"),
    PreflightSeverity.NOTE: ("·", "cyan"),
}
_TOPIC_WIDTH = 14
_SHOWN = 12  # of services


@dataclass(frozen=True)
class Where:
    """Production, as the command line names it; empty fields are the scenario's, or ssh's own."""

    address: str
    user: str | None = None
    key: Path | None = None
    port: int | None = None
    known_hosts: Path | None = None


def print_preflight(
    scenario: str,
    where: Where,
    upgrade: str | None,
    known_bugs: Path | None,
    settings: Settings,
    *,
    as_json: bool,
) -> int:
    """Look, and print what was found; 1 when something blocks the upgrade, else 0."""
    if not _ADDRESS.fullmatch(where.address):
        raise RequestError(
            f"not an address: {where.address!r}", "give a host name or an IP address"
        )
    read = load_scenario(find_scenario(scenario, settings), shared=settings.shared_checks)
    asked = read.upgrade if upgrade is None else parse_upgrade(upgrade)
    bugs = read_bugs(known_bugs) if known_bugs else ()
    login = login_of(read.login, Request(scenario, user=where.user, key=where.key))
    argv = reading(
        where.address, login.user, where.port or login.port, login.key, where.known_hosts
    )
    began = time.monotonic()

    def ask(script: str, arguments: Sequence[str]) -> Completed:
        return _ask(argv, login.user, where.address, script, arguments)

    console = Console(highlight=False)
    waiting = console.is_terminal and not as_json
    with console.status(f"asking {where.address}") if waiting else contextlib.nullcontext():
        found = look_ahead(ask, where.address, asked.request(), read.expect.keep)
    found = found.and_also(bug_points(bugs, found.changes))
    found = clean(found.model_copy(update={"seconds": time.monotonic() - began}))
    if as_json:
        click.echo(found.model_dump_json(indent=2))
    else:
        print_found(found, scenario)
    return 1 if found.blocked else 0


def _ask(
    argv: Sequence[str], user: str, address: str, script: str, arguments: Sequence[str]
) -> Completed:
    sudo = () if user == "root" else ("sudo", "-n")
    command = shlex.join((*sudo, "sh", "-s", "--", *arguments))
    answer = run(
        [*argv, command], Deadline(SECONDS, "preflight"), input=script.encode(), check=False
    )
    said = tail(answer.stderr, 3)
    if answer.status == LOST:
        raise ConnectionLost(
            f"cannot enter {address} as {user!r}: {said or 'no reason'}", _hint(said)
        )
    if not answer.ok:
        raise GuestUnreachable(
            f"{user!r} gets no root on {address}: {said or f'status {answer.status}'}",
            "log in as root, or let the user run `sudo -n sh` without a password",
        )
    return answer


def _hint(said: str) -> str:
    if "Host key verification failed" in said or "host key is known" in said:
        return "its host key must be known: ssh to it once by hand, and compare the key"
    if "Permission denied" in said:
        return "give a user (--user) and key (--key) that it accepts"
    return "can `ssh` enter it by hand from here, without being asked anything?"


def print_found(found: Preflight, scenario: str) -> None:
    """For people, on a terminal or not."""
    console = Console(highlight=False)
    console.print(Text(f"{found.upgrade} on {found.guest}, looked at in {duration(found.seconds)}"))
    for point in found.points:
        if console.is_terminal:
            _print_pretty(console, point)
        else:
            _print_plain(point.severity.value, point.topic, point.text, point.hint)
    _print_forecasts(console, found)
    blockers = [point for point in found.points if point.severity is PreflightSeverity.BLOCKER]
    if blockers:
        words = f"{count(len(blockers), 'blocker')}: do not begin before that is mended"
        console.print(Text(f"\n{words}", "bold red"), soft_wrap=True)
        return
    warnings = sum(point.severity is PreflightSeverity.WARNING for point in found.points)
    words = f"\nNothing blocks it ({count(warnings, 'warning')}). That is no verdict: rehearse it."
    console.print(Text(words, "bold green"), soft_wrap=True)
    console.print(Text(f"Next  sandbox run {scenario} --guest NAME"), soft_wrap=True)


def _print_pretty(console: Console, point: PreflightPoint) -> None:
    mark, style = _MARKS[point.severity]
    row = Table.grid(padding=(0, 1), pad_edge=False)
    row.add_column(width=3, justify="right")
    row.add_column(width=_TOPIC_WIDTH)
    row.add_column(overflow="fold")
    row.add_row(Text(mark, f"bold {style}"), Text(point.topic), Text(one_line(point.text)))
    if point.hint:
        row.add_row("", Text("→", style, justify="right"), Text(one_line(point.hint), style))
    console.print(row)


def _print_plain(word: str, topic: str, text: str, hint: str) -> None:
    click.echo(f"  {word:<8} {topic:<{_TOPIC_WIDTH}} {one_line(text)}")
    if hint:
        click.echo(f"  {'':<8} {'':<{_TOPIC_WIDTH}} {one_line(hint)}")


def _print_forecasts(console: Console, found: Preflight) -> None:
    lines = [_service_words(one) for one in found.services[:_SHOWN]]
    if len(found.services) > _SHOWN:
        lines.append(f"… and {len(found.services) - _SHOWN} more services")
    if found.reboot:
        took = duration(found.reboot_seconds) if found.reboot_seconds else "an unknown time"
        lines.append(f"a reboot: {took}, and what firmware, boot loader and shutdown take")
    if lines:
        console.print(Text("Forecast, by how long the last starts took", "bold"), soft_wrap=True)
    for line in lines:
        console.print(Text(f"  - {one_line(line)}"), soft_wrap=True)


def _service_words(one: ServiceForecast) -> str:
    took = "an unknown time" if one.seconds is None else duration(one.seconds)
    if one.stops:
        return (
            f"{one.service} stops before {one.package} is unpacked, and starts when that is "
            f"configured: down for that long, and {took}"
        )
    return f"{one.service} restarts ({one.package}): down for {took}"
