"""Messages: one for each run, edited as it goes on; sent again when that came to nothing, never
doubled by several that send, and never lost. The vendors are a server on loopback."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from sandbox.core.records import Verdict
from sandbox.doctor.host_checks import State
from tests.support.service.chat_world import LINK, chat_of
from tests.support.service.ledger_world import FAIL, PASS, order, taken
from tests.support.service.vendors import HEAD, REPOSITORY, Said, Vendors, vendors
from workers.chat import outbox, run_messages
from workers.chat.doctor import channels
from workers.chat.send import Sender
from workers.chat.values import Channel, Chat, ChatRequest, Span
from workers.database import Database, migrate, open_database
from workers.database.schema import chat_messages
from workers.queue.leases import finish, tell
from workers.queue.submission import cancel, submit_in
from workers.queue.values import Outcome

PLACES: dict[str, dict[str, Any]] = {
    "ops": {"channel": "C0OPS", "user": "U1"},
    "town": {"channel": "town1"},
    "bridge": {"message": "msg_1"},
    "hub": {"repository": REPOSITORY, "number": 7},
    "lab": {"repository": REPOSITORY, "number": 7, "commit": HEAD},
}
OF_KIND = {"ops": "slack", "town": "mattermost", "hub": "github", "lab": "gitlab"}


@pytest.fixture(scope="module")
def server() -> Iterator[Vendors]:
    with vendors() as there:
        yield there


@pytest.fixture
def there(server: Vendors) -> Vendors:
    """The same server, which has forgotten everything."""
    server.messages.clear()
    server.statuses.clear()
    server.received.clear()
    server.requests.clear()
    server.trouble = lambda _method, _path: None
    return server


@pytest.fixture
def chat(tmp_path: Path, there: Vendors) -> Chat:
    return chat_of(tmp_path, there.url)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = open_database(f"sqlite:///{tmp_path}/truth.db")
    migrate(opened)
    yield opened
    opened.close()


def channel(chat: Chat, name: str) -> Channel:
    return next(one for one in chat.channels if one.name == name)


def queued(database: Database, name: str, guest: str = "web01", **place: Any) -> str:
    """A run with a message about it."""
    heard = ChatRequest("U1", "", guest, {**PLACES[name], **place}, seen=True)
    with database.write() as connection:
        told = submit_in(connection, order(guest))
        outbox.begin(connection, name, heard, run_id=told.run_id)
    return told.run_id


def make_due(database: Database) -> None:
    with database.write() as connection:
        connection.execute(update(chat_messages).values(try_at=0.0))


def turn(database: Database, chat: Chat, name: str) -> None:
    """What a sender does every second."""
    make_due(database)
    Sender(database, channel(chat, name), LINK).turn()


def row(database: Database) -> Any:
    with database.read() as connection:
        return connection.execute(select(chat_messages)).one()


@pytest.mark.parametrize("name", OF_KIND)
def test_one_message_is_edited_as_phases_pass(
    there: Vendors, chat: Chat, database: Database, name: str
) -> None:
    run_id = queued(database, name)
    turn(database, chat, name)
    turn(database, chat, name)
    held = taken(database)
    for phase in ("boot", "upgrade", "upgrade"):
        tell(database, held, "phase", phase)
        turn(database, chat, name)
    finish(database, held, FAIL)
    turn(database, chat, name)
    turn(database, chat, name)
    (message,) = there.of(kind=OF_KIND[name])
    assert len(message.texts) == 4, "what is as it was is not sent again"
    for text, word in zip(message.texts, ("queued", "boot", "upgrade", "fail"), strict=True):
        assert word in text
    assert FAIL.reason in message.texts[-1]
    assert LINK.replace("{run}", run_id) in message.texts[-1]
    assert row(database).done is not None


def test_slack_gets_a_block_that_is_not_parsed(
    there: Vendors, chat: Chat, database: Database
) -> None:
    queued(database, "ops")
    held = taken(database)
    finish(database, held, Outcome(Verdict.FAIL, "<!channel> `see` http://evil.example @all"))
    turn(database, chat, "ops")
    (message,) = there.of(kind="slack")
    ((block,),) = message.blocks
    assert block["text"]["verbatim"] is True
    assert "`&lt;!channel&gt; ˋseeˋ http://evil.example @all`" in block["text"]["text"]
    assert "<!channel>" not in message.texts[0]
    assert "http://evil" not in message.texts[0], "notifications link nothing"


def test_a_channel_that_the_app_is_not_in_is_not_the_end(
    there: Vendors, chat: Chat, database: Database
) -> None:
    queued(database, "ops", channel="C0ALIEN")
    turn(database, chat, "ops")
    assert [one.place["channel"] for one in there.of(kind="slack")] == ["U1"]


@pytest.mark.parametrize("name", ["hub", "lab"])
@pytest.mark.parametrize("verdict", [*Verdict, None])
def test_only_a_pass_lets_a_merge_pass(
    there: Vendors, chat: Chat, database: Database, name: str, verdict: Verdict | None
) -> None:
    run_id = queued(database, name)
    turn(database, chat, name)
    if verdict is None:
        cancel(database, run_id, "U1")
    else:
        held = taken(database)
        turn(database, chat, name)
        finish(database, held, Outcome(verdict, "because"))
        if verdict is Verdict.ERROR:  # it is tried again: not the end
            turn(database, chat, name)
            assert there.statuses[-1]["state"] in ("pending", "running")
            cancel(database, run_id, "U1")
    turn(database, chat, name)
    last = there.statuses[-1]
    assert (last["state"] == "success") == (verdict is Verdict.PASS)
    assert last["state"] not in ("pending", "running", "neutral")
    assert last["sha"] == HEAD
    assert last.get("context", last.get("name")) == "sandbox/web01/security"
    assert last["target_url"] == LINK.replace("{run}", run_id)
    (comment,) = there.of(kind=OF_KIND[name])
    assert "`web01`" in comment.texts[-1]


def test_gitlab_that_has_the_state_already_is_content(
    there: Vendors, chat: Chat, database: Database
) -> None:
    """Who sent it was killed before that was written down."""
    queued(database, "lab")
    name = "sandbox/web01/security"
    there.statuses.append({"forge": "gitlab", "sha": HEAD, "name": name, "state": "pending"})
    turn(database, chat, "lab")
    assert len(there.of(kind="gitlab")) == 1


def test_webhooks_are_signed_so_that_the_library_believes_them(
    there: Vendors, chat: Chat, database: Database
) -> None:
    from standardwebhooks.webhooks import Webhook

    run_id = queued(database, "bridge")
    turn(database, chat, "bridge")
    finish(database, taken(database), PASS)
    turn(database, chat, "bridge")
    verifier = Webhook(channel(chat, "bridge").secret)
    first, last = (verifier.verify(body, headers) for headers, body in there.received)
    assert (first["word"], first["final"]) == ("queued", False)
    assert (last["word"], last["final"], last["run"]) == ("pass", True, run_id)
    assert last["message"] == "msg_1"


@pytest.mark.parametrize("name", OF_KIND)
def test_a_message_that_is_gone_is_made_anew(
    there: Vendors, chat: Chat, database: Database, name: str
) -> None:
    queued(database, name)
    turn(database, chat, name)
    there.messages.clear()
    finish(database, taken(database), PASS)
    turn(database, chat, name)
    turn(database, chat, name)
    (message,) = there.of(kind=OF_KIND[name])
    assert "pass" in message.texts[-1]
    assert row(database).done is not None


@pytest.mark.parametrize("name", PLACES)
def test_a_vendor_that_fails_is_asked_again(
    there: Vendors, chat: Chat, database: Database, name: str, tmp_path: Path
) -> None:
    queued(database, name)
    finish(database, taken(database), PASS)
    for status, data in ((500, "no JSON's object"), (503, {}), (401, {}), (302, {})):
        there.trouble = lambda _m, _p, s=status, d=data: Said(s, d)  # type: ignore[misc]
        turn(database, chat, name)
    left = row(database)
    assert (left.tries, left.done) == (4, None)
    told = channels(database, str(tmp_path / "chat.yaml"))
    assert told.state is State.WARNING
    assert f"{name}: 1 message not sent" in told.detail
    assert left.try_at > database.now() + 10, "pauses grow"
    there.trouble = lambda _method, _path: None
    turn(database, chat, name)
    assert row(database).done is not None
    assert len(there.messages) + len(there.received) == 1
    assert channels(database, str(tmp_path / "chat.yaml")).state is State.OK


def test_a_vendor_that_is_away_is_given_up_in_the_end(
    there: Vendors, chat: Chat, database: Database
) -> None:
    queued(database, "town")
    there.trouble = lambda _method, _path: Said(500, {})
    for _ in range(outbox.MOST_TRIES):
        assert row(database).done is None
        turn(database, chat, "town")
    assert row(database).done is not None


@pytest.mark.parametrize("name", PLACES)
def test_a_vendor_that_wants_quiet_has_it_for_all_of_the_channel(
    there: Vendors, chat: Chat, database: Database, name: str
) -> None:
    for number in range(3):
        queued(database, name, f"web{number}")
    limited = Said(429, {"ok": False, "error": "ratelimited"}, {"Retry-After": "77"})
    there.trouble = lambda _method, _path: limited
    turn(database, chat, name)
    assert len(there.requests) == 1
    with database.read() as connection:
        rows = connection.execute(select(chat_messages)).all()
    for one in rows:
        assert 70 < one.try_at - database.now() < 78
        assert (one.tries, one.done) == (0, None)
    there.trouble = lambda _method, _path: None
    turn(database, chat, name)
    assert len(there.messages) + len(there.received) == 3


def test_many_that_send_at_once_send_each_message_once(
    there: Vendors, chat: Chat, database: Database
) -> None:
    for number in range(20):
        queued(database, "ops", f"web{number}")
    senders = [Sender(database, channel(chat, "ops"), LINK) for _ in range(4)]
    start = threading.Barrier(4)

    def go(sender: Sender) -> None:
        start.wait()
        sender.turn()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(go, senders))
    assert len(there.of(kind="slack")) == 20


def test_who_was_killed_in_between_is_followed_by_another(
    there: Vendors, chat: Chat, database: Database
) -> None:
    """It had taken the message, and nobody else can tell whether it was sent: it comes again."""
    queued(database, "ops")
    (message,) = outbox.waiting(database, "ops")
    assert outbox.take(database, message)
    assert not outbox.take(database, message), "it is another's"
    assert outbox.waiting(database, "ops") == (), "for a while"
    turn(database, chat, "ops")
    assert len(there.of(kind="slack")) == 1
    outbox.sent(database, message, {"ts": "old"}, run_messages.of_lines(()))
    assert row(database).known != {"ts": "old"}, "who was too late writes nothing"


def test_an_answer_is_a_message_where_the_request_shows_none(
    there: Vendors, chat: Chat, database: Database
) -> None:
    heard = ChatRequest(
        "U1", "", "d", {"channel": "C0OPS", "thread": "1.2", "user": "U1"}, seen=False
    )
    with database.write() as connection:
        lines = ((Span("no runs yet"),),)
        outbox.begin(connection, "ops", heard, run_id=None, lines=lines)
    turn(database, chat, "ops")
    turn(database, chat, "ops")
    (message,) = there.of(kind="slack", thread="1.2")
    assert message.texts == ["no runs yet"]


def test_what_is_old_is_forgotten(there: Vendors, chat: Chat, database: Database) -> None:
    queued(database, "ops")
    with database.write() as connection:
        outbox.note(connection, "ops", "old", ())
        outbox.note(connection, "ops", "new", ())
        connection.exec_driver_sql("UPDATE chat_deliveries SET created = 1 WHERE delivery = 'old'")
    outbox.forget(database)
    with database.read() as connection:
        assert outbox.answered(connection, "ops", "old") is None
        assert outbox.answered(connection, "ops", "new") == ()
    assert row(database).done is None, "what is not said yet is kept"
