"""chat.yaml is read strictly, and nobody may what no role says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from sandbox.core.errors import RequestError
from workers.chat import roles
from workers.chat.config import read_chat
from workers.chat.roles import NotAllowed
from workers.chat.values import Channel, Role
from workers.cli import main

GOOD = """
channels:
  - name: ops
    kind: slack
    secret: {0}/secret
    token: {0}/secret
    roles:
      - {{users: [U012AB3CD], may: [read, submit], guests: [web01, 'db*'], scenarios: [security]}}
      - {{users: ['*'], may: [read], guests: ['*'], scenarios: ['*']}}
"""
SECRET = "0123456789abcdef-the-secret"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    return tmp_path


def written(folder: Path, *changes: tuple[str, str]) -> Path:
    text = GOOD.format(folder)
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = folder / "chat.yaml"
    path.write_text(text)
    return path


def refused(folder: Path, *changes: tuple[str, str]) -> str:
    with pytest.raises(RequestError) as told:
        read_chat(written(folder, *changes))
    assert SECRET not in str(told.value)
    return told.value.message


def test_a_good_one_is_read_and_tells_no_secret(folder: Path) -> None:
    chat = read_chat(written(folder))
    (channel,) = chat.channels
    assert (channel.name, channel.kind, channel.secret) == ("ops", "slack", SECRET)
    assert channel.url == "https://slack.com/api/"
    assert SECRET not in repr(chat)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("secret:", "secrets:"), r"chat.yaml:5: channels.0.secrets: .*did you mean 'secret'"),
        (("kind: slack", "kind: slck"), r"chat.yaml:4: channels.0.kind: .*did you mean 'slack'"),
        (("[read, submit]", "[read, sbmit]"), r"yaml:8: .*may.1: 'sbmit' .*did you mean 'submit'"),
        (("    token: {0}/secret\n", ""), r"channels.0.token: is required by kind: slack"),
        (("kind: slack", "kind: webhook"), r"channels.0.token: is not for kind: webhook"),
        (("kind: slack", "kind: github"), r"repositories: is required by kind: github"),
        (("kind: slack", "kind: gitlab"), r"users.0: 'U012AB3CD' must be the user's number"),
        (("kind: slack", "kind: mattermost"), r"channels.0.url: is required by kind: mattermost"),
        (("may: [read]", "may: [cancel]"), r"yaml:9: .*users: '\*' may only read"),
        (("secret: {0}/secret", "secret: secret"), r"yaml:5: .*not an absolute path"),
        (("secret: {0}/secret", "secret: {0}/none"), r"yaml:5: .*cannot be read: No such file"),
        (("name: ops", "key: {0}/none\n    name: ops"), r"channels.0.key: .*none is no file here"),
        (("name: ops", "user: -x\n    name: ops"), r"channels.0.user: '-x' is not a user name"),
        (("name: ops", "name: ../ops"), r"yaml:3: channels.0.name"),
        (("name: ops", "url: http://slack.example.org\n    name: ops"), r"must be https"),
        (("channels:", "link: https://sandbox.example.org\nchannels:"), r"\{run\}"),
        ((", guests: ['*']", ""), r"yaml:9: channels.0.roles.1.guests: is required"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(
    folder: Path, change: tuple[str, str], said: str
) -> None:
    old, new = (text.replace("{0}", str(folder)) for text in change)
    assert re.search(said, refused(folder, (old, new)))


def test_two_channels_of_one_name_are_refused(folder: Path) -> None:
    text = GOOD.format(folder)
    doubled = text + text.partition("channels:\n")[2]
    (folder / "chat.yaml").write_text(doubled)
    with pytest.raises(RequestError, match=r"given twice, first in channels\.0"):
        read_chat(folder / "chat.yaml")


@pytest.mark.parametrize(
    "secret", ["", "short", "two\nlines of at least sixteen", "schlüssel-schlüssel"]
)
def test_what_is_no_secret_is_refused(folder: Path, secret: str) -> None:
    (folder / "secret").write_text(secret)
    assert "holds no secret" in refused(folder)


def test_a_webhooks_secret_is_one_of_standard_webhooks(folder: Path) -> None:
    token = f"    token: {folder}/secret\n"
    assert "whsec_" in refused(folder, ("kind: slack", "kind: webhook"), (token, ""))
    (folder / "secret").write_text("whsec_c2hvcnRzaG9ydA==")
    assert "16 bytes" in refused(folder, ("kind: slack", "kind: webhook"), (token, ""))


def test_the_command_says_who_may_what(folder: Path) -> None:
    done = CliRunner().invoke(main, ["chat", "check", str(written(folder))])
    assert done.exit_code == 0, done.output
    assert "ops: slack, at /hooks/ops" in done.output
    assert "U012AB3CD: may read, submit; guests: web01, db*; of security" in done.output
    assert SECRET not in done.output
    bad = CliRunner().invoke(main, ["chat", "check", str(written(folder, ("slack", "slck")))])
    assert bad.exit_code == 2
    assert "did you mean 'slack'" in bad.output


# -- roles ------------------------------------------------------------------------------------

CHANNEL = Channel(
    name="ops",
    kind="slack",
    secret=SECRET,
    roles=(
        Role(("U1",), ("read", "submit"), ("web01", "db*"), ("security",)),
        Role(("U1", "U2"), ("cancel",), ("web01",), ("*",)),
        Role(("*",), ("read",), ("web01",), ("*",)),
    ),
)


@pytest.mark.parametrize(
    ("user", "right", "guest", "scenario"),
    [
        ("U1", "submit", "web01", "security"),
        ("U1", "submit", "db7", "security"),
        ("U2", "cancel", "web01", "kernel"),
        ("U3", "read", "web01", ""),
        ("U1", "read", "", ""),
    ],
)
def test_a_role_lets_its_users_do_that(user: str, right: str, guest: str, scenario: str) -> None:
    roles.require(CHANNEL, user, right, guest, scenario)


@pytest.mark.parametrize(
    ("user", "right", "guest", "scenario", "hint"),
    [
        ("U1", "submit", "web1", "security", "did you mean 'web01'?"),
        ("U1", "submit", "web01", "securty", "did you mean 'security'?"),
        ("U1", "submit", "mail", "security", "there are: web01, db*"),
        ("U1", "cancel", "db7", "", "there are: web01"),
        ("U2", "submit", "web01", "security", "chat.yaml says"),
        ("U3", "cancel", "web01", "", "chat.yaml says"),
        ("", "submit", "web01", "security", "chat.yaml says"),
        ("*", "submit", "web01", "security", "chat.yaml says"),
    ],
)
def test_and_nobody_else(user: str, right: str, guest: str, scenario: str, hint: str) -> None:
    with pytest.raises(NotAllowed) as told:
        roles.require(CHANNEL, user, right, guest, scenario)
    assert hint in told.value.hint
    if guest and scenario:
        assert not roles.may(CHANNEL, user, right, guest, scenario)
