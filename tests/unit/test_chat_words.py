"""What people write in chats: understood, or answered with what was probably meant."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.chat.vendors import comments, slack
from workers.chat.wording import RUN_ID, USAGE, Command, NotUnderstood, Verb, understand

RUN = "20261125-013000-1a2b3c4d"


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("upgrade-test web01 kernel", Command(Verb.TEST, "web01", "kernel")),
        ("upgrade-test web01", Command(Verb.TEST, "web01")),
        ("  Upgrade-Test\tweb01  ", Command(Verb.TEST, "web01")),
        ('upgrade-test "my guest" security', Command(Verb.TEST, "my guest", "security")),
        ("upgrade-test “my guest”", Command(Verb.TEST, "my guest")),
        ("status", Command(Verb.STATUS)),
        ("status web01", Command(Verb.STATUS, "web01")),
        ("why web01", Command(Verb.WHY, "web01")),
        (f"why {RUN}", Command(Verb.WHY, run=RUN)),
        ("why latest", Command(Verb.WHY, run="latest")),
        (f"cancel {RUN}", Command(Verb.CANCEL, run=RUN)),
        ("cancel 1a2b3c4d", Command(Verb.CANCEL, run="1a2b3c4d")),
        ("help", Command(Verb.HELP)),
        ("", Command(Verb.HELP)),
    ],
)
def test_commands_are_understood(text: str, command: Command) -> None:
    assert understand(text) == command


@pytest.mark.parametrize(
    ("text", "what", "hint"),
    [
        ("sttus", "no command 'sttus'", "did you mean 'status'?"),
        ("frobnicate", "no command", "there are: upgrade-test, status, why, cancel, help"),
        ("upgrade-test", "more is needed", "upgrade-test GUEST [SCENARIO]"),
        ("upgrade-test a b c", "'c' is too much", "quote a name"),
        ("upgrade-test -rf", "must not begin with '-'", "web01"),
        ("upgrade-test ../../etc", "no name of a guest", "web01"),
        ("upgrade-test web01 ../x", "no name of a scenario", "security"),
        ('upgrade-test "web01', "a quote is not closed", "help"),
        ("cancel everything", "no run's id", "try status"),
        ("why", "more is needed", "why RUN or GUEST"),
        ("x" * 401, "401 characters", "400"),
    ],
)
def test_wrong_words_are_answered_with_what_to_do(text: str, what: str, hint: str) -> None:
    with pytest.raises(NotUnderstood) as told:
        understand(text)
    assert what in told.value.message
    assert hint in told.value.hint


@given(st.text() | st.lists(st.sampled_from([*Verb, "web01", "'", '"', "\\", "\0"])).map(" ".join))
def test_any_text_is_a_command_or_told_why_not(text: str) -> None:
    command = told = None
    try:
        command = understand(text)
    except NotUnderstood as problem:
        told = problem
    if command is None:
        assert told is not None
        assert told.message
        assert told.hint
        return
    if command.guest:
        assert command.guest.isprintable()
        assert command.guest[0] not in "-."
        assert "/" not in command.guest
    if command.verb in (Verb.TEST, Verb.CANCEL):
        assert command.guest or RUN_ID.fullmatch(command.run)


@given(st.from_regex(r"[a-z][a-z0-9 ._:@()#+-]{0,30}[a-z0-9]", fullmatch=True))
def test_every_guest_can_be_named_in_quotes(guest: str) -> None:
    assert understand(f'upgrade-test "{" ".join(guest.split())}"').guest == " ".join(guest.split())


def test_there_is_help_for_every_command() -> None:
    assert set(USAGE) == set(Verb)


@pytest.mark.parametrize(
    ("comment", "words"),
    [
        ("/rehearse web01", "upgrade-test web01"),
        ("/rehearse web01 kernel\r\n\r\nplease", "upgrade-test web01 kernel"),
        ("/rehearse", ""),
        ("/rehearse status web01", "status web01"),
        ("/rehearse cancel latest", "cancel latest"),
        ("/rehearsed web01", None),
        ("see /rehearse web01", None),
        ("\n/rehearse web01", None),
        ("/rehearse\nweb01", ""),
    ],
)
def test_a_comment_is_a_command_only_at_its_very_beginning(comment: str, words: str | None) -> None:
    assert comments.words_of(comment) == words


def test_what_slack_makes_of_words_is_undone() -> None:
    """It takes names with dots for addresses, and writes three signs as entities."""
    made = "upgrade-test <http://web01.example.org|web01.example.org> &lt;x&gt; &amp;amp; <tel:1|1>"
    assert slack._as_written(made) == "upgrade-test web01.example.org <x> &amp; 1"
