"""What is known of a guest's checks, for people."""

from __future__ import annotations

import json
from dataclasses import asdict

import click
from rich.console import Console
from rich.text import Text

from sandbox.cli.listing import aligned
from sandbox.core.clean_text import one_line
from sandbox.core.errors import RequestError
from sandbox.core.wording import count
from sandbox.report.view import instant
from sandbox.verdict.flakiness import Rate
from workers.database import Database
from workers.queue.history import CheckHistory, Mark, history

SIGNS = {Mark.HELD: "+", Mark.FLAKY: "~", Mark.BROKE: "x", Mark.BROKEN: "-"}
WORDS = {
    Mark.HELD: "held",
    Mark.FLAKY: "held and did not",
    Mark.BROKE: "failed after the upgrade",
    Mark.BROKEN: "failed before the upgrade, too",
}


def print_history(
    database: Database, guest: str, *, host: str | None, check: str, as_json: bool
) -> None:
    """The least steady first: aligned text, or JSON lines."""
    found = history(database, guest, host=host, part=check)
    if not found.total:
        where = f" on {host}" if host else ""
        which = f" with {check!r} in its name" if check else ""
        raise RequestError(
            f"no check{which} is known of the guest {guest!r}{where}",
            "checks are remembered when a queued run ends, as long as SANDBOX_SERVICE_KEEP_DAYS; "
            "`sandbox status` lists the runs",
        )
    if as_json:
        for one in found.items:
            click.echo(json.dumps(asdict(one)))
        return
    heads = ("CHECK", "SCENARIO", "HOST", "NOT UPGRADED", "UPGRADED", "RUNS", "LAST FAILED")
    console = Console(highlight=False, soft_wrap=True)
    for number, line in enumerate(aligned([heads, *(_cells(one) for one in found.items)])):
        console.print(Text(line, "bold" if number == 0 else ""))
    legend = ", ".join(f"{sign} {WORDS[mark]}" for mark, sign in SIGNS.items())
    console.print(Text(f"how often each held; the last runs, newest right: {legend}", "dim"))
    if found.total > len(found.items):
        console.print(Text(f"and {found.total - len(found.items)} more: say --check", "dim"))


def _cells(one: CheckHistory) -> tuple[str, ...]:
    failed, broken = one.last_failed, count(one.broken_runs, "run")
    return (
        one_line(one.name, 80),
        one_line(one.scenario, 40) or "(shared)",
        one.host,
        _of(one.not_upgraded) + (f", broken in {broken}" if one.broken_runs else ""),
        _of(one.upgraded),
        strip(one),
        f"{instant(failed.at)} in {failed.run_id}" if failed else "never",
    )


def _of(rate: Rate) -> str:
    return f"{rate.held} of {rate.asked}" if rate.asked else "not asked"


def strip(one: CheckHistory) -> str:
    """Its last runs, a sign for each, the newest at the right."""
    return "".join(SIGNS[seen.mark] for seen in one.last)


def sentence(one: CheckHistory) -> str:
    """ "held 58 of 60 times where web01 was not upgraded, since 2026-10-01"."""
    since = instant(one.since)[:10]
    parts = []
    if one.not_upgraded.asked:
        parts.append(f"held {one.not_upgraded} where this guest was not upgraded, since {since}")
    if one.broken_runs:
        parts.append(f"was broken all the time in {count(one.broken_runs, 'run')} since {since}")
    return "; ".join(parts)
