"""The vendors, by their names in chat.yaml."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from workers.chat.values import Channel, ChatReply, ChatRequest, Lines, Messenger
from workers.chat.vendors import generic, github, gitlab, mattermost, slack

Hear = Callable[[Channel, Mapping[str, str], bytes, float], ChatRequest | ChatReply]


@dataclass(frozen=True)
class Kind:
    """What a vendor's module has."""

    hear: Hear  # raises Refused, NotHeard
    say: Callable[[Lines], ChatReply]
    messages: Callable[[Channel], Messenger]


KINDS: Mapping[str, Kind] = {
    "slack": Kind(slack.hear, slack.say, slack.SlackMessages),
    "mattermost": Kind(mattermost.hear, mattermost.say, mattermost.MattermostMessages),
    "webhook": Kind(generic.hear, generic.say, generic.GenericMessages),
    "github": Kind(github.hear, github.say, github.GithubMessages),
    "gitlab": Kind(gitlab.hear, gitlab.say, gitlab.GitlabMessages),
}
