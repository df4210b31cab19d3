"""The vendors, by their names in chat.yaml."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from workers.chat.values import Answer, Channel, Heard, Lines, Messenger
from workers.chat.vendors import generic, github, gitlab, mattermost, slack

Hear = Callable[[Channel, Mapping[str, str], bytes, float], Heard | Answer]


@dataclass(frozen=True)
class Kind:
    """What a vendor's module has."""

    hear: Hear  # raises Refused, NotHeard
    say: Callable[[Lines], Answer]
    messages: Callable[[Channel], Messenger]


KINDS: Mapping[str, Kind] = {
    "slack": Kind(slack.hear, slack.say, slack.Messages),
    "mattermost": Kind(mattermost.hear, mattermost.say, mattermost.Messages),
    "webhook": Kind(generic.hear, generic.say, generic.Messages),
    "github": Kind(github.hear, github.say, github.Messages),
    "gitlab": Kind(gitlab.hear, gitlab.say, gitlab.Messages),
}
