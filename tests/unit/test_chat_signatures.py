"""Signatures against those that the vendors' own libraries make."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from slack_sdk.signature import Clock, SignatureVerifier
from standardwebhooks.webhooks import Webhook

from workers.chat import signatures
from workers.chat.values import Refused

SECRET = "8f742231b10e8888abcd99yyyzzz85a5"
STANDARD = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
NOW = 1_531_420_618


class At(Clock):
    def now(self) -> float:
        return NOW


def slack_headers(body: bytes, stamp: int = NOW) -> dict[str, str]:
    verifier = SignatureVerifier(SECRET, At())
    signature = verifier.generate_signature(timestamp=str(stamp), body=body)
    assert signature is not None
    return {"x-slack-request-timestamp": str(stamp), "x-slack-signature": signature}


@given(st.text().map(str.encode))
def test_what_slacks_sdk_signs_is_let_in(body: bytes) -> None:
    headers = slack_headers(body)
    signatures.slack(SECRET, headers, body, NOW)
    for wrong in (body + b"x", b"x" + body):
        with pytest.raises(Refused, match="signature is wrong"):
            signatures.slack(SECRET, headers, wrong, NOW)
    with pytest.raises(Refused, match="signature is wrong"):
        signatures.slack(f"{SECRET}x", headers, body, NOW)


@pytest.mark.parametrize("off", [301, -301, 86400])
def test_what_is_not_of_the_last_minutes_is_refused_as_slacks_sdk_does(off: int) -> None:
    headers = slack_headers(b"x", NOW - off)
    with pytest.raises(Refused, match="last 300 s"):
        signatures.slack(SECRET, headers, b"x", NOW)
    assert not SignatureVerifier(SECRET, At()).is_valid(
        b"x", headers["x-slack-request-timestamp"], headers["x-slack-signature"]
    )


@pytest.mark.parametrize("off", [299, -299, 0])
def test_clocks_may_be_off_a_little(off: int) -> None:
    signatures.slack(SECRET, slack_headers(b"x", NOW - off), b"x", NOW)


@given(st.text().map(str.encode), st.from_regex(r"msg_[a-zA-Z0-9]{1,30}", fullmatch=True))
def test_what_standard_webhooks_library_signs_is_let_in(body: bytes, number: str) -> None:
    signed = Webhook(STANDARD).sign(number, datetime.fromtimestamp(NOW, UTC), body.decode())
    headers = {
        "webhook-id": number,
        "webhook-timestamp": str(NOW),
        "webhook-signature": f"v1,bm9uc2Vuc2U= {signed}",  # of an older secret, too
    }
    assert signatures.standard(STANDARD, headers, body, NOW) == number
    for name, value in (("webhook-id", "msg_other"), ("webhook-timestamp", str(NOW + 1))):
        with pytest.raises(Refused, match="signature is wrong"):
            signatures.standard(STANDARD, {**headers, name: value}, body, NOW)
    with pytest.raises(Refused, match="last 300 s"):
        signatures.standard(STANDARD, headers, body, NOW + 301)


def test_github_is_believed_as_its_documentation_has_it() -> None:
    """The example of "Validating webhook deliveries"."""
    made = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    secret, body = "It's a Secret to Everybody", b"Hello, World!"
    signatures.github(secret, {"x-hub-signature-256": made}, body)
    with pytest.raises(Refused):
        signatures.github(secret, {"x-hub-signature-256": made}, body + b"!")


HEADERS = st.dictionaries(
    st.sampled_from(
        [
            *("x-slack-request-timestamp", "x-slack-signature", "x-hub-signature-256"),
            *("webhook-id", "webhook-timestamp", "webhook-signature"),
        ]
    ),
    st.text(st.characters(max_codepoint=255), max_size=80)
    | st.sampled_from(["v0=", "v1,", "sha256=", str(NOW), "１２３", "-1", "1e9"]),
)


@given(HEADERS, st.binary(max_size=200))
def test_whatever_else_comes_is_refused(headers: dict[str, str], body: bytes) -> None:
    with pytest.raises(Refused):
        signatures.slack(SECRET, headers, body, NOW)
    with pytest.raises(Refused):
        signatures.standard(STANDARD, headers, body, NOW)
    with pytest.raises(Refused):
        signatures.github(SECRET, headers, body)
    with pytest.raises(Refused):
        signatures.token(SECRET, headers.get("webhook-id", ""))


def test_a_secret_of_standard_webhooks_is_base64() -> None:
    assert len(signatures.standard_key(STANDARD)) == len(base64.b64decode(STANDARD[6:]))
    with pytest.raises(ValueError, match="base64"):
        signatures.standard_key("whsec_*")
