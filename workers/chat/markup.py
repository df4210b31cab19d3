"""Lines as each vendor writes them. Pure. Text of a guest or a stranger is shown as code: there it
cannot mention a user, make a link, or give an order."""

from __future__ import annotations

import re
from collections.abc import Callable

from sandbox.core.clean_text import one_line
from workers.chat.values import Lines, Span
from workers.notifications.delivery import inert

MOST = 2800  # characters of a message: Slack takes 3000 in a block
_LONGEST = 300  # of a piece


def markdown(lines: Lines) -> str:
    """Of GitHub, GitLab and Mattermost."""
    return _joined(lines, _markdown, "\n\n")


def mrkdwn(lines: Lines) -> str:
    """Slack's own; for a text object that is ``verbatim``."""
    return _joined(lines, _mrkdwn, "\n")


def plain(lines: Lines) -> str:
    """Text without markup; what looks like a link or a mention is broken up as well."""
    return _joined(lines, _plain, "\n")


def escaped(text: str) -> str:
    """For Slack: its three signs, which are all that mentions and links are made of."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def shown(text: str) -> str:
    return one_line(text, _LONGEST)


def _joined(lines: Lines, render: Callable[[Span], str], between: str) -> str:
    """As many whole lines as there is room for: half a piece of code would be none."""
    whole: list[str] = []
    for line in lines:
        whole.append("".join(render(span) for span in line))
        if sum(map(len, whole)) + len(between) * len(whole) > MOST:
            return between.join([*whole[:-1], "…"])
    return between.join(whole)


def _plain(span: Span) -> str:
    match span.style:
        case "link":
            return span.url
        case "code":
            return inert(shown(span.text))
    return span.text


def _markdown(span: Span) -> str:
    text = shown(span.text)
    match span.style:
        case "code":
            return _code(text)
        case "strong":
            return f"**{text}**"
        case "link":
            return f"[{text}]({span.url})"
    return span.text


def _code(text: str) -> str:
    """A code span: its fence is longer than any row of backticks within."""
    if not text:
        return ""
    longest = max((len(row) for row in re.findall(r"`+", text)), default=0)
    fence = "`" * (longest + 1)
    room = " " if "`" in (text[0], text[-1]) else ""
    return f"{fence}{room}{text}{room}{fence}"


def _mrkdwn(span: Span) -> str:
    text = escaped(shown(span.text))
    match span.style:
        case "code":  # Slack has no longer fences
            return f"`{text.replace('`', 'ˋ')}`" if text else ""
        case "strong":
            return f"*{text}*"
        case "link":
            return f"<{escaped(span.url)}|{text}>"
    return escaped(span.text)
