"""Whatever comes to a webhook, signed or not: no fault of ours, and no run."""

from __future__ import annotations

import copy
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.service import chat_world as says
from tests.support.service.chat_world import (
    FORGE_STRANGER,
    OPERATOR,
    STRANGER,
    Sent,
    chat_of,
    service_settings,
)
from workers.chat.receive import Ear
from workers.database import Database, migrate, open_database
from workers.queue import reading
from workers.web.api.application import make

CHANNELS = ("ops", "town", "bridge", "hub", "lab", "lab-signed")
MANY = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
VALUES = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"))
NAMES = st.sampled_from(
    [
        *("X-Slack-Request-Timestamp", "X-Slack-Signature", "Authorization", "X-Gitlab-Token"),
        *("X-Hub-Signature-256", "X-GitHub-Event", "X-GitHub-Delivery", "Content-Type"),
        *("webhook-id", "webhook-timestamp", "webhook-signature", "X-Forwarded-For"),
    ]
)


@dataclass
class Hooks:
    """The application, served by a thread of this process."""

    port: int
    database: Database
    wait: list[int]

    def send(self, sent: Sent) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("POST", sent.path, sent.body, dict(sent.headers))
            answer = connection.getresponse()
            answer.read()
            return answer.status
        finally:
            connection.close()

    def must_survive(self, sent: Sent, *allowed: int) -> None:
        status = self.send(sent)
        assert status in (allowed or range(200, 500)), (status, sent)
        assert reading.recent(self.database) == (), sent


@pytest.fixture(scope="module")
def hooks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hooks]:
    folder: Path = tmp_path_factory.mktemp("hooks")
    configured = service_settings(folder)
    database = open_database(f"sqlite:///{folder}/truth.db")
    migrate(database)
    chat, wait = chat_of(folder, "http://127.0.0.1:9"), [0]
    ear = Ear(configured, database, chat, limit=lambda _channel: wait[0])
    app = make(configured, database, lambda: False, ear)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, ws="none"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield Hooks(port, database, wait)
    server.should_exit = True
    thread.join()
    database.close()


@pytest.mark.parametrize("channel", CHANNELS)
@MANY
@given(body=st.binary(max_size=300), headers=st.dictionaries(NAMES, VALUES, max_size=8))
def test_any_bytes_with_any_headers_are_refused(
    hooks: Hooks, channel: str, body: bytes, headers: dict[str, str]
) -> None:
    hooks.must_survive(Sent(channel, body, headers), 401)


def signed(channel: str, body: bytes, media_type: str = "application/json") -> Sent:
    if channel == "ops":
        return says.slack_signed(body, media_type)
    if channel == "town":
        headers = {"Content-Type": media_type, "Authorization": f"Token {says.MATTERMOST_TOKEN}"}
        return Sent(channel, body, headers)
    if channel == "hub":
        return says.github_signed(body)
    if channel == "lab":
        return Sent(channel, body, {"Content-Type": media_type, "X-Gitlab-Token": says.WORD})
    return says.standard_signed(channel, body)


FORM = "application/x-www-form-urlencoded"


@pytest.mark.parametrize("channel", CHANNELS)
@MANY
@given(data=JSON | st.text(), media_type=st.sampled_from(["application/json", FORM, ""]))
def test_anything_well_signed_is_no_run(
    hooks: Hooks, channel: str, data: Any, media_type: str
) -> None:
    body = data.encode(errors="replace") if isinstance(data, str) else json.dumps(data).encode()
    hooks.must_survive(signed(channel, body, media_type))


MADE: dict[str, Callable[[], Sent]] = {
    "ops": lambda: says.mention("upgrade-test web01", user=STRANGER),
    "bridge": lambda: says.webhook("upgrade-test web01", user=STRANGER),
    "hub": lambda: says.github("/rehearse web01", user=FORGE_STRANGER),
    "lab": lambda: says.gitlab("/rehearse web01", user=FORGE_STRANGER),
    "lab-signed": lambda: says.gitlab("/rehearse web01", user=FORGE_STRANGER, signed=True),
}


def paths(data: Any, around: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not isinstance(data, dict):
        return [around]
    return [around, *(path for name in data for path in paths(data[name], (*around, name)))]


@pytest.mark.parametrize("channel", MADE)
@MANY
@given(data=st.data())
def test_what_is_nearly_right_is_no_fault(hooks: Hooks, channel: str, data: st.DataObject) -> None:
    """A vendor's own message with some of its parts replaced by others, or left out."""
    said = copy.deepcopy(json.loads(MADE[channel]().body))
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(paths(said)[1:] or [("x",)]))
        inner = said
        for name in path[:-1]:
            inner = inner[name]
        if data.draw(st.booleans()):
            inner[path[-1]] = data.draw(JSON)
        else:
            inner.pop(path[-1], None)
    hooks.must_survive(signed(channel, json.dumps(said).encode()))


@pytest.mark.parametrize("channel", ["ops", "town"])
@MANY
@given(
    fields=st.dictionaries(
        st.sampled_from(["user_id", "channel_id", "text", "trigger_id", "ssl_check", "x"]),
        st.text() | st.sampled_from([STRANGER, "C0OPS", "1", "upgrade-test web01", "status"]),
    )
)
def test_any_form_is_no_fault(hooks: Hooks, channel: str, fields: dict[str, str]) -> None:
    body = urlencode(fields, errors="replace").encode()
    hooks.must_survive(signed(channel, body, FORM))


@pytest.mark.parametrize("make", [says.slash, says.mention, says.mattermost, says.webhook])
@MANY
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=500))
def test_any_words_are_answered(hooks: Hooks, make: Callable[[str], Sent], text: str) -> None:
    hooks.must_survive(make(text), 200)


def test_what_is_too_much_is_told_so_and_does_nothing(hooks: Hooks) -> None:
    hooks.wait[0] = 7
    hooks.must_survive(says.slash("upgrade-test web01"), 429)
    hooks.must_survive(Sent("ops", b"forged"), 401)  # and is not counted
    hooks.wait[0] = 0


def test_any_of_these_could_have_been_a_run(hooks: Hooks) -> None:
    """The last: the same requests, by somebody who may."""
    made = [
        says.slash("upgrade-test web01", user=OPERATOR),
        says.mention("upgrade-test web02"),
        says.mattermost("upgrade-test web03"),
        says.webhook("upgrade-test web04"),
        says.github("/rehearse web05"),
        says.gitlab("/rehearse web06"),
        says.gitlab("/rehearse web07", signed=True),
    ]
    assert [hooks.send(sent) for sent in made] == [200] * len(made)
    guests = sorted(row.guest for row in reading.recent(hooks.database))
    assert guests == [f"web0{number}" for number in range(1, 8)]
