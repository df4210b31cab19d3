"""A night is summed up once and its summary arrives, by real SMTP and HTTP; on both databases."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import select, update

from sandbox.core.errors import RequestError
from tests.support.service.nights_world import (
    DAY,
    DUE,
    FIRST_SEEN,
    Hook,
    Mailbox,
    World,
    all_runs,
    guests_of,
    mail_server,
    rehearse,
    web_hook,
)
from workers import logs
from workers.database import Database, open_database
from workers.database.schema import nights as nights_table
from workers.database.schema import notices
from workers.database.schema import runs as runs_table
from workers.notifications.delivery import PAUSES
from workers.queue.submission import cancel
from workers.schedule import enqueue, night_reports
from workers.schedule.enqueue import ANSWER_WITHIN
from workers.schedule.night_reports import TOGETHER, find_night, last_nights, read_night, unsent
from workers.schedule.night_summary import Night, headline, text
from workers.settings import ServiceSettings
from workers.worker import housekeeping

HOUR = 3600.0


@pytest.fixture
def hook() -> Iterator[Hook]:
    with web_hook() as there:
        yield there


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    with mail_server() as there:
        yield there


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.write()
    return made


def begun(database: Database, settings: ServiceSettings, due: float = DUE) -> Night:
    if due == DUE:
        enqueue.begin(database, settings, FIRST_SEEN)
    enqueue.begin(database, settings, due)
    return read_night(database, "fleet", due)


def closed(database: Database, due: float = DUE) -> bool:
    query = select(nights_table.c.summarised).where(nights_table.c.due == due)
    with database.read() as connection:
        return connection.execute(query).scalar_one() is not None


def waiting(database: Database) -> list[tuple[int, bool]]:
    """(tries, sent) of every notice."""
    query = select(notices.c.tries, notices.c.sent).order_by(notices.c.due)
    with database.read() as connection:
        return [(row.tries, row.sent is not None) for row in connection.execute(query)]


# -- when it is summed up ---------------------------------------------------------------------


def test_a_night_is_summed_up_when_its_last_run_has_ended(database: Database, world: World) -> None:
    settings = world.settings()
    begun(database, settings)
    night_reports.close(database, DUE + HOUR)
    assert not closed(database)
    rehearse(database, web02="fail")
    night_reports.close(database, DUE + HOUR)
    assert closed(database)
    night = read_night(database, "fleet", DUE)
    assert headline(night).startswith("2 of 3 guests may be upgraded (fleet, 2026-03-03 01:30")
    assert "  web02 on xen1: fail: nginx does not start\n" in text(night)


def test_or_at_its_deadline_with_those_that_have_not_ended(
    database: Database, world: World
) -> None:
    world.write(window="2h")
    settings = world.settings()
    begun(database, settings)
    deadline = DUE + 2 * HOUR + ANSWER_WITHIN
    night_reports.close(database, deadline - 1)
    assert not closed(database)
    night_reports.close(database, deadline)
    assert closed(database)
    night = read_night(database, "fleet", DUE)
    assert headline(night).startswith("0 of 3 guests may be upgraded (")
    assert "Gave no answer:\n  db01 on xen2: queued\n" in text(night)
    rehearse(database)
    assert headline(find_night(database, None)).startswith("3 of 3"), "late answers are shown"


def test_what_changed_since_the_night_before_is_named(database: Database, world: World) -> None:
    settings = world.settings()
    begun(database, settings)
    rehearse(database, web01="fail", db01="fail")
    begun(database, settings, DUE + DAY)
    rehearse(database, web02="fail", db01="fail")
    said = text(read_night(database, "fleet", DUE + DAY))
    assert (
        "New since the night before:\n"
        "  web02 on xen1: pass → fail\n"
        "  web01 on xen1: fail → pass\n\n"
    ) in said


def test_a_joined_run_and_one_that_was_taken_back_are_counted(
    database: Database, world: World
) -> None:
    settings = world.settings()
    begun(database, settings)
    begun(database, settings, DUE + DAY)
    assert len(all_runs(database)) == 3
    run_id = guests_of(database, DUE)["web01"]
    assert run_id is not None
    cancel(database, run_id, "anna")
    rehearse(database)
    night_reports.close(database, DUE + DAY)
    for due in (DUE, DUE + DAY):
        assert closed(database, due)
        said = text(read_night(database, "fleet", due))
        assert said.startswith("2 of 3 guests")
        assert "Gave no answer:\n  web01 on xen1: cancelled\n" in said


def test_a_missed_night_is_reported(database: Database, world: World, hook: Hook) -> None:
    world.write(missed="report")
    world.notify = (hook.url,)
    settings = world.settings()
    enqueue.begin(database, settings, FIRST_SEEN)
    enqueue.begin(database, settings, DUE + DAY + 5 * HOUR)
    night_reports.close(database, DUE + DAY + 5 * HOUR)
    night_reports.send(database, settings, DUE + DAY + 5 * HOUR)
    (got,) = hook.got
    assert got["title"] == "missed: nothing was rehearsed (fleet, 2026-03-04 01:30 Europe/Berlin)"
    assert "Not run before it (1): 2026-03-03 01:30" in got["message"]


# -- sending ----------------------------------------------------------------------------------


def test_ticks_at_once_send_one_summary_to_every_target(
    database: Database, database_url: str, world: World, hook: Hook, mailbox: Mailbox
) -> None:
    """The whole way, as the service goes it: housekeeping from several workers at once."""
    world.notify = (hook.url, mailbox.url)
    settings = world.settings()
    begun(database, settings)
    rehearse(database, db01="fail")
    several = [open_database(database_url) for _ in range(4)]

    def tick(one: Database) -> None:
        housekeeping.tick(one, settings, lambda *_: None, lambda _: None)

    for _again in range(2):
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(tick, several))
    for one in several:
        one.close()
    night = read_night(database, "fleet", DUE)
    assert headline(night).startswith("2 of 3 guests")
    (posted,) = [got for got in hook.got if "2026-03-03 01:30" in got["title"]]
    assert posted["title"] == headline(night)
    assert posted["message"].strip() == text(night).strip()
    (mail,) = [got for got in mailbox.got if "2026-03-03 01:30" in str(got["Subject"])]
    assert str(mail["Subject"]) == headline(night)
    assert "ops@example.org" in str(mail["To"])
    assert mail["X-Application"] == "Upgrade Sandbox"
    body = mail.get_body(("plain", "html"))
    assert body is not None
    for line in ("2 of 3 guests may be upgraded", "db01 on xen2: fail: nginx does not start"):
        assert line in body.get_content().replace("&nbsp;", " ")


def test_whoever_closes_a_night_the_one_who_knows_the_target_tells_it(
    database: Database, world: World, hook: Hook
) -> None:
    begun(database, world.settings())
    rehearse(database)
    night_reports.close(database, DUE + HOUR)
    night_reports.send(database, world.settings(), DUE + HOUR)  # a worker without NOTIFY
    world.notify = (hook.url,)
    for _again in range(2):
        night_reports.send(database, world.settings(), DUE + HOUR + 60)
    (got,) = hook.got
    assert got["title"].startswith("3 of 3 guests may be upgraded (fleet")


def test_a_new_target_is_told_no_old_news(database: Database, world: World, hook: Hook) -> None:
    begun(database, world.settings())
    rehearse(database)
    night_reports.close(database, DUE + HOUR)
    world.notify = (hook.url,)
    night_reports.send(database, world.settings(), DUE + HOUR + DAY)
    assert hook.got == []


def test_the_nights_of_several_schedules_are_one_message_about_the_fleet(
    database: Database, world: World, hook: Hook
) -> None:
    world.write("web01", "web09", name="kernels")
    world.notify = (hook.url,)
    settings = world.settings()
    begun(database, settings)
    rehearse(database, web09="fail", db01="fail")
    night_reports.close(database, DUE + HOUR)
    for _again in range(2):
        night_reports.send(database, settings, DUE + HOUR)
    (got,) = hook.got
    assert got["title"] == "2 of 4 guests may be upgraded (2 schedules)"
    assert "2 of 3 guests may be upgraded (fleet" in got["message"]
    assert "1 of 2 guests may be upgraded (kernels" in got["message"]
    with database.read() as connection:
        assert None not in connection.execute(select(notices.c.sent)).scalars().all()


def test_no_summary_waits_for_ever_for_a_night_that_does_not_end(
    database: Database, world: World, hook: Hook
) -> None:
    world.write("web09", name="kernels")
    world.notify = (hook.url,)
    settings = world.settings()
    begun(database, settings)
    rehearse(database, web09="error")
    with database.write() as connection:
        stuck = runs_table.c.guest == "web09"
        connection.execute(
            update(runs_table).where(stuck).values(state="queued", verdict=None, ended=None)
        )
    night_reports.close(database, DUE + HOUR)
    night_reports.send(database, settings, DUE + HOUR)
    assert hook.got == []
    night_reports.send(database, settings, DUE + TOGETHER + 60)
    assert [got["title"][:30] for got in hook.got] == ["3 of 3 guests may be upgraded "]


def test_what_was_not_delivered_is_tried_again_and_only_that(
    database: Database, world: World, hook: Hook, mailbox: Mailbox
) -> None:
    world.notify = (hook.url, mailbox.url)
    settings = world.settings()
    begun(database, settings)
    rehearse(database)
    hook.answers = [500, 503]
    moment = DUE + HOUR
    night_reports.close(database, moment)
    night_reports.send(database, settings, moment)
    assert (hook.refused, len(hook.got), len(mailbox.got)) == (1, 0, 1)
    assert unsent(database, read_night(database, "fleet", DUE)) == 1
    night_reports.send(database, settings, moment + PAUSES[0] / 2)
    assert hook.refused == 1, "not yet"
    moment += PAUSES[0]
    night_reports.send(database, settings, moment)
    assert hook.refused == 2
    moment += PAUSES[1]
    night_reports.send(database, settings, moment)
    assert (hook.refused, len(hook.got), len(mailbox.got)) == (2, 1, 1)
    night_reports.send(database, settings, moment + DAY)
    assert (len(hook.got), len(mailbox.got)) == (1, 1)
    assert unsent(database, read_night(database, "fleet", DUE)) == 0


def test_a_target_that_is_gone_is_given_up_and_the_night_is_kept(
    database: Database, world: World, hook: Hook
) -> None:
    world.notify = (hook.url,)
    settings = world.settings()
    begun(database, settings)
    rehearse(database)
    hook.answers = [500] * 20
    moment = DUE + HOUR
    night_reports.close(database, moment)
    for _day in range(10):
        night_reports.send(database, settings, moment)
        moment += DAY
    assert hook.refused == len(PAUSES) + 1
    assert waiting(database) == [(len(PAUSES) + 1, False)]
    night = find_night(database, "fleet")
    assert headline(night).startswith("3 of 3")
    assert unsent(database, night) == 1


def test_who_is_killed_while_sending_leaves_it_to_the_next(
    database: Database, world: World, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.notify = (hook.url,)
    settings = world.settings()
    begun(database, settings)
    rehearse(database)
    night_reports.close(database, DUE + HOUR)

    def killed(*_: str) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(night_reports.delivery, "send", killed)
    with pytest.raises(KeyboardInterrupt):
        night_reports.send(database, settings, DUE + HOUR)
    monkeypatch.undo()
    night_reports.send(database, settings, DUE + HOUR + 1)
    assert hook.got == [], "somebody else may be at it"
    night_reports.send(database, settings, DUE + HOUR + PAUSES[0])
    assert len(hook.got) == 1


def test_no_secret_of_a_target_is_logged(
    database: Database,
    world: World,
    hook: Hook,
    capfd: pytest.CaptureFixture[str],
) -> None:
    world.notify = (
        hook.url,
        "json://user:a-secret-word@127.0.0.1:1/a-secret-path",
        "a-secret-word",
    )
    settings = world.settings()
    begun(database, settings)
    rehearse(database)
    hook.answers = [500]
    root = logging.getLogger()
    before = root.handlers[:], root.level
    logs.configure()
    try:
        night_reports.close(database, DUE + HOUR)
        night_reports.send(database, settings, DUE + HOUR)
    finally:
        root.handlers[:], root.level = before
    said = "".join(capfd.readouterr())
    assert said.count("summary not sent") == 3
    assert "a-secret" not in said
    with database.read() as connection:
        kept = str(connection.execute(select(notices)).all())
    assert "a-secret" not in kept


# -- looking ----------------------------------------------------------------------------------


def test_a_night_is_found_by_its_name(database: Database, world: World) -> None:
    with pytest.raises(RequestError, match="no night yet"):
        find_night(database, None)
    settings = world.settings()
    first, second = begun(database, settings), begun(database, settings, DUE + DAY)
    assert first.id == "fleet@2026-03-03T00:30Z"
    assert find_night(database, first.id).due == DUE
    for words in (None, "fleet", second.id):
        assert find_night(database, words).due == DUE + DAY
    for words in ("flet", "fleet@", "fleet@2026", "@", ""):
        with pytest.raises(RequestError):
            find_night(database, words)
    assert {name: night.due for name, night in last_nights(database).items()} == {
        "fleet": DUE + DAY
    }
