"""A fleet with one of everything, for tests and for the README's picture.

`python -m tests.contract.web_example` makes the picture; `make picture` calls it.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import insert

from sandbox.hosts.volumes.lvm import Pool
from tests.support.fakes.sample_records import (
    broken_nginx,
    inconclusive,
    mirror_error,
    no_boot,
    passed,
)
from tests.support.service.api_world import HOST, Api
from tests.support.service.web_world import begun, dashboard, rehearsed, tell
from workers.database.clock import now
from workers.database.schema import night_guests, nights, workers
from workers.monitoring.pools import note_pools
from workers.queue.submission import submit
from workers.queue.values import Order
from workers.web.auth.tokens import Scope

LONG = "a-guest-with-a-name-that-is-as-long-as-the-names-of-guests-may-be-64"
SCHEDULE = """\
description: Security updates of the shop, every night
upgrade: {what: security}
login: {inject: true}
schedule: {cron: 30 1 * * *, timezone: Europe/Berlin, host: xen1, guests: [web01, web02, cache01]}
"""
PICTURE = Path(".readme/web.png")


def example(served: Api, *more: str) -> dict[str, str]:
    """Runs of every kind, by their guests; ``more`` guests that may be upgraded."""
    kinds = {
        "web01": (passed(), "security", HOST),
        "web02": (broken_nginx(), "package", HOST),
        "db01": (no_boot(), "kernel", "xen2"),
        "mail01": (inconclusive(), "security", "xen2"),
        "cache01": (mirror_error(), "security", HOST),
        **{guest: (passed(), "security", "xen2") for guest in more},
    }
    found = {
        guest: rehearsed(served, record, guest, scenario, host)
        for guest, (record, scenario, host) in kinds.items()
    }
    database = served.there.database
    held = begun(served, "app01")
    for kind, text in (
        *(("phase", "plan"), ("phase-end", "plan done after 0.4 s"), ("phase", "clone")),
        *(("detail", "1 disk, 193 KiB allocated"), ("check", "failed: test_x: <b>no</b>")),
    ):
        tell(served, held, kind, text)
    found["app01"] = held.run_id
    found["queue01"] = submit(database, Order("security", "queue01", "xen2")).run_id
    note_pools(database, HOST, (Pool("vg0", "thin", 1 << 40, 81.5, 23.0),))
    worker = {"hosts": [HOST, "xen2"], "slots": 2, "version": "0.9.0", "state": "up"}
    with database.write() as connection:
        connection.execute(insert(workers).values(name="w1", started=now(), seen=now(), **worker))
        gone = {"name": "w0", "started": now() - 9000, "seen": now() - 4000}
        connection.execute(insert(workers).values(**worker | gone))
    _night(served, found)
    return found


def _night(served: Api, found: dict[str, str]) -> None:
    """A schedule that ran."""
    folder = served.there.folder / "scenarios" / "shop"
    folder.mkdir(parents=True)
    (folder / "scenario.yaml").write_text(SCHEDULE)
    (folder / "test_it.py").write_text("def test_it(host):\n    assert True\n")
    due = 1_795_566_600.0
    key = {"schedule": "shop", "due": due}
    with served.there.database.write() as connection:
        night = {"outcome": "run", "noticed": due, "deadline": due + 1, "zone": "Europe/Berlin"}
        connection.execute(insert(nights).values(**key, **night, summarised=due + 1))
        for guest in ("web01", "web02", "cache01"):
            connection.execute(
                insert(night_guests).values(**key, host=HOST, guest=guest, run_id=found[guest])
            )


def make_picture() -> None:
    from tests.support.service.browsers import chromium, window

    with dashboard() as served, chromium() as browser:
        example(served, "shop01", "shop02", "ldap01")
        with window(browser, served, viewport={"width": 1180, "height": 780}) as one:
            one.enter(Scope.SUBMIT)
            one.page.screenshot(path=PICTURE)
    print(f"written: {PICTURE}")


if __name__ == "__main__":
    make_picture()
