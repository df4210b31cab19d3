"""Text to people, by apprise: mail and chats. A target's URL holds secrets and is never logged."""

from __future__ import annotations

import logging
import re
from urllib.parse import urlsplit

PAUSES = (60.0, 300.0, 1800.0, 7200.0, 21600.0)  # seconds after a try that came to nothing
_SEPARATOR = "\u200b"  # of no width: the text looks the same


def send(url: str, title: str, text: str) -> str:
    """Send it to one target; says what is wrong, "" when it was sent. Never raises."""
    import apprise

    # What it logs has parts of URLs in it.
    logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)
    us = apprise.AppriseAsset(app_id="Upgrade Sandbox", app_desc="Upgrade Sandbox", app_url="")
    target = apprise.Apprise(asset=us)
    try:
        if not target.add(url):
            return "its URL is none that apprise knows"
        sent = target.notify(body=inert(text), title=title, body_format=apprise.NotifyFormat.TEXT)
    except Exception as problem:  # plugins raise what they like
        return f"apprise failed: {type(problem).__name__}"
    return "" if sent else "it was refused, or the target does not answer"


def kind_of(url: str) -> str:
    """All of a target that may be shown: for some, even what looks like a host is a secret."""
    kind = urlsplit(url).scheme
    return kind if re.fullmatch(r"[a-z0-9]+", kind) else "?"


def inert(text: str) -> str:
    """What a guest said must not become a link, or call everybody in a channel."""
    return re.sub(r"@(?=\S)|:(?=//)|\](?=\()|<(?=[!@#])", rf"\g<0>{_SEPARATOR}", text)
