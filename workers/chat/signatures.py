"""Whether a request is from whom it says: over the bytes as they came, in constant time."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping

from workers.chat.values import Refused

WINDOW = 300.0  # seconds by which a clock may be off; what is older was caught and sent again
STANDARD_PREFIX = "whsec_"
_MOST_SIGNATURES = 10
_DELIVERY = re.compile(r"[\x21-\x7e]{1,200}")
Headers = Mapping[str, str]  # names in lower case


def slack(secret: str, headers: Headers, body: bytes, now: float) -> None:
    """``v0=`` HMAC-SHA256 of ``v0:TIMESTAMP:BODY``."""
    stamp = _fresh(headers.get("x-slack-request-timestamp", ""), now)
    made = hmac.new(secret.encode(), f"v0:{stamp}:".encode() + body, hashlib.sha256).hexdigest()
    _must_be(f"v0={made}", headers.get("x-slack-signature", ""))


def standard(secret: str, headers: Headers, body: bytes, now: float) -> str:
    """Standard Webhooks: ``v1,`` HMAC-SHA256 of ``ID.TIMESTAMP.BODY``; the id."""
    number = headers.get("webhook-id", "")
    if not _DELIVERY.fullmatch(number):
        raise Refused("the request has no webhook-id", "sign as standardwebhooks.com says")
    stamp = _fresh(headers.get("webhook-timestamp", ""), now)
    made = standard_signature(secret, number, stamp, body)
    given = headers.get("webhook-signature", "").split(" ")[:_MOST_SIGNATURES]
    # All are looked at: how long it takes says nothing of which was good.
    if not any([_same(made, one) for one in given]):  # noqa: C419
        raise _wrong()
    return number


def standard_signature(secret: str, number: str, stamp: str, body: bytes) -> str:
    message = f"{number}.{stamp}.".encode() + body
    return f"v1,{base64.b64encode(hmac.digest(standard_key(secret), message, 'sha256')).decode()}"


def standard_key(secret: str) -> bytes:
    """The bytes of ``whsec_BASE64``; raises :class:`ValueError`."""
    try:
        return base64.b64decode(secret.removeprefix(STANDARD_PREFIX), validate=True)
    except binascii.Error as problem:
        raise ValueError(f"is not {STANDARD_PREFIX} and base64") from problem


def github(secret: str, headers: Headers, body: bytes) -> None:
    """``sha256=`` HMAC-SHA256 of the body. No time is in it: its comment's id keeps it from being
    obeyed twice."""
    made = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    _must_be(f"sha256={made}", headers.get("x-hub-signature-256", ""))


def token(secret: str, given: str) -> None:
    """No signature, only a shared secret: a reader of one request can forge others."""
    if not _same(secret, given):
        raise Refused("the token is another one", "the channel's secret is the vendor's token")


def _fresh(stamp: str, now: float) -> str:
    if not re.fullmatch(r"[0-9]{1,12}", stamp, re.ASCII):
        raise Refused("the request has no timestamp", "it is signed along with the body")
    if abs(now - int(stamp)) > WINDOW:
        raise Refused(
            f"the request is not of the last {WINDOW:.0f} s", "are both machines' clocks right?"
        )
    return stamp


def _must_be(made: str, given: str) -> None:
    if not _same(made, given):
        raise _wrong()


def _same(made: str, given: str) -> bool:
    return hmac.compare_digest(made.encode(), given.encode(errors="replace"))


def _wrong() -> Refused:
    return Refused("the signature is wrong", "does the channel have the vendor's signing secret?")
