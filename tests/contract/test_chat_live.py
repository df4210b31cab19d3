"""Chat from end to end: vendors' requests to the API's own process, runs on a real worker with
pretended rehearsals, messages at the vendors' servers on loopback."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from sandbox.core.deadline import Deadline
from tests.support.service import chat_world as says
from tests.support.service.api_world import Answer, Api, started
from tests.support.service.chat_world import (
    FORGE_STRANGER,
    LINK,
    OPERATOR,
    READER,
    STRANGER,
    Sent,
    write_chat,
)
from tests.support.service.services import PATIENCE, service
from tests.support.service.vendors import HEAD, Said, Vendors, vendors
from workers.queue import reading
from workers.queue.values import RunRow

OF_KIND: dict[str, Callable[..., Sent]] = {
    "slack": says.slash,
    "mattermost": says.mattermost,
    "webhook": says.webhook,
}
OTHERS = ("mattermost", "webhook")


@dataclass
class World:
    """Two API processes, one worker, the vendors."""

    apis: tuple[Api, Api]
    there: Vendors

    def send(self, sent: Sent, which: int = 0) -> Answer:
        one = self.apis[which]
        return one.ask(sent.path, None, method="POST", body=sent.body, headers=sent.headers)

    def said(self, sent: Sent) -> str:
        """What the one who asks sees at once."""
        told = self.send(sent)
        assert told.status == 200, told
        data = told.json
        return str(data["blocks"][0]["text"]["text"] if "blocks" in data else data["text"])

    def runs(self, guest: str | None = None) -> tuple[RunRow, ...]:
        return reading.recent(self.apis[0].there.database, 1000, guest=guest)

    def run(self, guest: str) -> RunRow:
        (row,) = self.runs(guest)
        return row

    def log(self) -> str:
        return self.apis[0].there.log.read_text()

    def until(self, done: Callable[[], Any], what: str) -> Any:
        deadline = Deadline(PATIENCE, what)
        while not (found := done()):
            deadline.sleep(0.05)
        return found

    def last(self, guest: str, word: str, **place: Any) -> list[str]:
        """All that a message about the guest said, once it says that."""

        def found() -> list[str] | None:
            mine = [one for one in self.there.of(**place) if guest in one.texts[-1]]
            assert len(mine) <= 1, "messages are edited"
            return mine[0].texts if mine and word in mine[0].texts[-1] else None

        texts: list[str] = self.until(found, f"a message that says {word} of {guest}")
        return texts


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with vendors() as there, service(API_LISTEN="127.0.0.1:0", TICK="1") as one:
        path = write_chat(one.folder, there.url)
        one.environment["SANDBOX_SERVICE_CHAT"] = str(path)
        one.environment["SANDBOX_SERVICE_EXECUTOR"] += "&seconds=0.1"
        one.start("worker", "--host", "xen1", "--slots", "4")
        first = started(one)
        text = one.log.read_text()
        one.log.rename(one.log.with_suffix(".first"))  # its process goes on writing there
        second = started(one)
        assert text
        yield World((first, second), there)
        for log in (one.log, one.log.with_suffix(".first")):
            for secret in (says.SLACK_SECRET, says.WORD, says.STANDARD_SECRET, says.BOT_TOKEN):
                assert secret not in log.read_text()
            assert "a fault of ours" not in log.read_text()


# -- from end to end --------------------------------------------------------------------------


def test_slack_asks_and_one_message_says_how_it_goes(world: World) -> None:
    told = world.said(says.slash("upgrade-test slow-web01 kernel"))
    row = world.run("slow-web01")
    assert "queued" in told
    assert row.id in told
    assert (row.scenario, row.host, row.origin) == ("kernel", "xen1", f"chat ops: {OPERATOR}")
    assert row.request["user"] == "admin"
    assert row.request["key"].endswith("/word")
    texts = world.last("slow-web01", "✅", kind="slack", channel="C0OPS")
    assert any("running" in text for text in texts)
    assert len(set(texts)) == len(texts), "only what is new is sent"
    assert "may be upgraded" in texts[-1]
    assert "all pretended checks hold" in texts[-1]
    assert LINK.replace("{run}", row.id) in texts[-1]


def test_a_mention_is_answered_in_its_thread(world: World) -> None:
    assert world.send(says.mention("upgrade-test web02-fail")).status == 200
    texts = world.last("web02-fail", "❌", kind="slack", thread="1515449522.000016")
    assert "may not be upgraded" in texts[-1]
    assert world.send(says.mention("sttus")).status == 200
    world.last("sttus", "did you mean", kind="slack", thread="1515449522.000016")


FORGES = {
    "github": says.github,
    "gitlab": says.gitlab,
    "gitlab-signed": partial(says.gitlab, signed=True),
}


@pytest.fixture(scope="module")
def asked(world: World) -> dict[str, str]:
    """What was answered to each of the others, who all asked at once."""
    told = {kind: world.said(OF_KIND[kind](f"upgrade-test of-{kind}")) for kind in OTHERS}
    for forge, make in FORGES.items():
        answer = world.send(make(f"/rehearse on-{forge}-fail\r\nplease"))
        assert answer.status == 200
        told[forge] = answer.body.decode()
    return told


def test_mattermost_asks_just_so(world: World, asked: dict[str, str]) -> None:
    assert "queued" in asked["mattermost"]
    assert world.run("of-mattermost").scenario == "security"
    assert "pass" in world.last("of-mattermost", "✅", kind="mattermost")[-1]


def test_a_webhook_asks_just_so(world: World, asked: dict[str, str]) -> None:
    assert "queued" in asked["webhook"]

    def final() -> Any:
        bodies = [json.loads(body) for _headers, body in list(world.there.received)]
        return [one for one in bodies if "of-webhook" in one["text"] and one["final"]]

    (one,) = world.until(final, "the last update")
    assert (one["word"], one["run"]) == ("pass", world.run("of-webhook").id)


@pytest.mark.parametrize("forge", FORGES)
def test_a_comment_on_a_pull_request_starts_a_run_and_gets_its_status(
    world: World, asked: dict[str, str], forge: str
) -> None:
    guest = f"on-{forge}-fail"
    assert "queued" in asked[forge]
    assert world.run(guest).priority == 10, "a merge waits for it"
    world.last(guest, "❌", kind=forge.partition("-")[0], number=7)
    name = f"sandbox/{guest}/security"
    mine = [one for one in world.there.statuses if name in (one.get("context"), one.get("name"))]
    assert {one["state"] for one in mine} <= {"pending", "running", "failure", "failed"}
    assert mine[-1]["state"] in ("failure", "failed")
    assert mine[-1]["sha"] == HEAD
    assert "the pretended service does not start" in mine[-1]["description"]


# -- who may ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", OF_KIND)
def test_who_is_not_named_starts_nothing(world: World, kind: str) -> None:
    before = len(world.runs())
    for user in (STRANGER, READER, "U012AB3Cd"):
        assert "may not submit" in world.said(OF_KIND[kind]("upgrade-test web01", user=user))
    assert "may not submit the scenario" in world.said(OF_KIND[kind]("upgrade-test a everything"))
    assert "may not read" in world.said(OF_KIND[kind]("status", user=STRANGER))
    assert "you may nothing" in world.said(OF_KIND[kind]("help", user=STRANGER))
    assert len(world.runs()) == before


def test_a_stranger_on_a_pull_request_is_not_answered(world: World) -> None:
    """Else whoever may comment has us comment."""
    before, messages = len(world.runs()), len(world.there.messages)
    for make in (says.github, says.gitlab):
        for text in ("/rehearse stranger01", "/rehearse help", "/rehearse ("):
            assert world.send(make(text, user=FORGE_STRANGER)).status == 200
    assert world.send(says.github("/rehearse reader01", user=1)).status == 200
    world.until(
        lambda: [one for one in world.there.of(kind="github") if "may not" in one.texts[0]],
        "the answer to who may read",
    )
    assert len(world.runs()) == before
    assert len(world.there.messages) == messages + 1


def test_a_reader_sees_what_the_role_says_and_no_more(world: World) -> None:
    world.said(says.slash("upgrade-test db1-fail"))
    world.said(says.slash("upgrade-test secret-fail"))
    world.until(lambda: world.run("db1-fail").verdict and world.run("secret-fail").verdict, "ends")
    told = world.said(says.slash("status", user=READER))
    assert "db1-fail" in told
    assert "secret" not in told
    hidden = world.run("secret-fail").id
    assert "there is no run" in world.said(says.slash(f"why {hidden}", user=READER))
    assert "may not read" in world.said(says.slash("why secret-fail", user=READER))
    told = world.said(says.slash("why db1-fail", user=READER))
    assert "the pretended service does not start" in told
    assert LINK.replace("{run}", world.run("db1-fail").id) in told
    assert "may not cancel" in world.said(says.slash(f"cancel {hidden}", user=READER))


def test_a_run_is_taken_back(world: World) -> None:
    """The second of a guest: it waits, so that nothing depends on how quick we are."""
    world.said(says.slash("upgrade-test slow-web09"))
    world.said(says.slash("upgrade-test slow-web09 kernel", channel="C0OTHER"))
    waiting = next(row for row in world.runs("slow-web09") if row.scenario == "kernel")
    told = world.said(says.slash(f"cancel {waiting.id[-8:]}"))
    assert waiting.id in told
    assert "cancelled" in told
    world.last("slow-web09", "🚫", kind="slack", channel="C0OTHER")
    assert "cannot cancel" in world.said(says.slash(f"cancel {waiting.id}"))


# -- the same again -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["slash", "mention", "mattermost", "webhook", "github", "gitlab"])
def test_what_is_delivered_again_is_answered_as_before_and_starts_nothing(
    world: World, kind: str
) -> None:
    guest = f"again-{kind}"
    text = f"{'/rehearse' if kind in ('github', 'gitlab') else 'upgrade-test'} {guest}"
    sent = getattr(says, kind)(text)
    with ThreadPoolExecutor(4) as pool:
        told = list(pool.map(lambda number: world.send(sent, number % 2), range(8)))
    assert {one.status for one in told} == {200}
    assert len({one.body for one in told}) == 1
    run_id = world.run(guest).id
    world.until(lambda: world.run(guest).verdict, "its end")
    assert world.send(sent).body == told[0].body
    assert world.run(guest).id == run_id


def test_githubs_delivery_with_another_number_is_the_same_comment(world: World) -> None:
    """The number is not signed: who has caught a delivery may make up others."""
    sent = says.github("/rehearse renumbered")
    for number in ("1", "2"):
        headers = {**sent.headers, "X-GitHub-Delivery": number}
        assert world.send(Sent(sent.channel, sent.body, headers)).status == 200
    assert world.run("renumbered")


# -- whom to believe ----------------------------------------------------------------------------


def test_what_is_not_signed_well_is_refused(world: World) -> None:
    before = len(world.runs())
    old = time.time() - 301
    slack, hub = says.slash("upgrade-test forged"), says.github("/rehearse forged")
    forged = [
        Sent("ops", slack.body, {}),
        Sent("ops", slack.body + b"x", slack.headers),
        Sent("ops", slack.body, {**slack.headers, "X-Slack-Signature": "v0=" + "0" * 64}),
        says.slash("upgrade-test forged", at=old),
        says.webhook("upgrade-test forged", at=old),
        Sent("bridge", slack.body, slack.headers),
        says.mattermost("upgrade-test forged", token="another-token-of-the-same-length"),
        Sent("hub", hub.body + b" ", hub.headers),
        Sent("lab", says.gitlab("/rehearse forged").body, {"X-Gitlab-Token": "x"}),
        Sent("lab-signed", says.gitlab("/rehearse forged").body, {"X-Gitlab-Token": says.WORD}),
        says.github("/rehearse forged", repository__full_name="octo/other"),
        says.github("/rehearse forged", comment__created_at="2020-01-01T00:00:00Z"),
        says.gitlab("/rehearse forged", object_attributes__created_at="2020-01-01 00:00:00 UTC"),
    ]
    for sent in forged:
        told = world.send(sent)
        assert told.status == 401, (sent, told)
        assert told.problem["hint"]
    assert len(world.runs()) == before


def test_what_is_no_command_is_let_pass(world: World) -> None:
    before = len(world.runs())
    challenge = says.slack_signed(
        json.dumps({"type": "url_verification", "challenge": "3eZbrw1aB"}).encode(),
        "application/json",
    )
    assert world.send(challenge).body == b"3eZbrw1aB"
    for sent in (
        says.github_signed(b'{"zen": "Keep it logically awesome."}', "ping"),
        says.github("/rehearse not-a-pull", issue__pull_request=None),
        says.github("/rehearse edited", action="edited"),
        says.github("please /rehearse inside"),
        says.gitlab("/rehearse an-issue", object_attributes__noteable_type="Issue"),
        says.gitlab("/rehearse updated", object_attributes__action="update"),
        says.mention("upgrade-test of-a-bot", bot_id="B1"),
    ):
        assert world.send(sent).status == 200, sent
    assert len(world.runs()) == before
    assert world.send(Sent("nobody", b"")).status == 404
    assert world.apis[0].ask("/hooks/ops", None).status == 405
    assert world.apis[0].ask("/hooks/ops", None).headers["allow"] == "POST"
    big = Sent("ops", b"x" * (512 * 1024 + 1))
    assert world.send(big).status == 413


# -- when things die ----------------------------------------------------------------------------


def test_a_sender_that_is_killed_loses_nothing(world: World) -> None:
    """Both API processes are killed while the vendor hangs; what starts then goes on."""
    service_of = world.apis[0].there
    hang = {"on": True}

    def trouble(_method: str, _path: str) -> Said | None:
        while hang["on"]:
            time.sleep(0.01)
        return None

    world.there.trouble = trouble
    world.there.requests.clear()
    sent = says.slash("upgrade-test killed01")
    assert world.send(sent).status == 200
    world.until(
        lambda: any("postMessage" in path for _m, path in list(world.there.requests)), "a try"
    )
    for one in world.apis:
        service_of.kill(one.process)
    hang["on"] = False
    world.there.trouble = lambda _method, _path: None
    world.until(lambda: world.run("killed01").verdict, "its end")
    with service_of.database.write() as connection:  # the lease of who was killed
        connection.exec_driver_sql("UPDATE chat_messages SET try_at = 0 WHERE done IS NULL")
    service_of.log.rename(service_of.log.with_suffix(".second"))
    fresh = started(service_of)
    world.apis = (fresh, fresh)

    def told() -> bool:
        mine = [one for one in world.there.of(kind="slack") if "killed01" in one.texts[-1]]
        return any("✅" in one.texts[-1] for one in mine)

    world.until(told, "the verdict")
    assert "queued" in world.said(sent), "answered as before"
    assert len(world.runs("killed01")) == 1
