"""Whatever a guest says, no vendor acts on it: nobody is called, nothing linked, no form broken."""

from __future__ import annotations

import html
import re

from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from workers.chat import markup
from workers.chat.values import Span

HOSTILE = st.text() | st.lists(
    st.sampled_from(
        [
            *("<!channel>", "<@U123>", "<http://x|y>", "@all", "@here", "@octocat", "#1", "!2"),
            *("`", "``", "```", "*", "_", "~", "[a](http://x)", "![](x)", "http://evil.example"),
            *("\n/close", "\n", "\r", "<script>", "&lt;", "|", "\\", ":x:", "\u202e", " ", "\0"),
        ]
    )
).map("".join)


@given(HOSTILE)
def test_in_markdown_it_is_one_piece_of_code(said: str) -> None:
    shown = markup.shown(said)
    lines = ((Span("it is "), Span(said, "code"), Span(", see")), (Span("more"),))
    parsed = MarkdownIt("commonmark").parse(markup.markdown(lines))
    assert [token.type for token in parsed].count("paragraph_open") == 2
    children = [(child.type, child.content) for token in parsed for child in token.children or ()]
    if shown:
        first = [("text", "it is "), ("code_inline", shown), ("text", ", see")]
    else:
        first = [("text", "it is , see")]
    assert children == [*first, ("text", "more")]


@given(HOSTILE)
def test_in_slack_it_holds_no_sign_of_theirs(said: str) -> None:
    made = markup.mrkdwn(((Span("why: "), Span(said, "code")),))
    assert "<" not in made
    assert ">" not in made
    assert not re.search(r"&(?!(amp|lt|gt);)", made)
    body = made.removeprefix("why: ")
    assert body == "" or re.fullmatch(r"`[^`\n]+`", body)
    assert html.unescape(body).strip("`") == markup.shown(said).replace("`", "ˋ")


@given(HOSTILE)
def test_without_markup_nobody_is_called(said: str) -> None:
    made = markup.plain(((Span(said, "code"),),))
    assert not re.search(r"@\w|<[!@#]|://|\]\(", made)
    assert "\n" not in made


def test_our_links_are_links() -> None:
    line = ((Span("report", "link", "https://sandbox.example.org/runs/1?a=b&c=d"),),)
    assert markup.mrkdwn(line) == "<https://sandbox.example.org/runs/1?a=b&amp;c=d|report>"
    assert markup.markdown(line) == "[report](https://sandbox.example.org/runs/1?a=b&c=d)"
    assert markup.plain(line) == "https://sandbox.example.org/runs/1?a=b&c=d"


def test_what_is_too_long_is_cut_between_lines() -> None:
    many = tuple((Span(f"{number} {'x' * 290}", "code"),) for number in range(20))
    for render in (markup.markdown, markup.mrkdwn):
        made = render(many)
        assert len(made) < 3000
        assert made.endswith("…")
        assert made.count("`") % 2 == 0
