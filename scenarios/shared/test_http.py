"""HTTP answers as it did before, asked from inside the guest.

The scenario's URLs if it names some; otherwise every port that answered HTTP before.
"""

from __future__ import annotations

from functools import partial

from testinfra.host import Host

from sandbox.checks import CheckSettings
from sandbox.checks.answers import SERVER_ERROR, Answer, as_before, ask_until, discover
from sandbox.checks.compare import listeners
from sandbox.checks.connection import CheckConnection
from sandbox.checks.facts import CheckMemory
from sandbox.core.deadline import Deadline
from sandbox.core.records import Observation


def test_url_answers(
    each_url: str, phase: str, connection: CheckConnection, facts: CheckMemory, patience: Deadline
) -> None:
    known = (facts.statuses("urls") or {}).get(each_url) if phase == "after" else None

    def good(answer: Answer) -> bool:
        healthy = answer.status is not None and answer.status < SERVER_ERROR
        return healthy and (known is None or as_before(known, answer))

    answer = ask_until(connection, each_url, good, patience)
    if phase == "before" and answer.status is not None:
        facts.note("urls", {**(facts.statuses("urls") or {}), each_url: answer.status})
    was = "" if known is None else f" answered {known} before and"
    assert good(answer), f"{each_url}{was} {answer.words}"


def test_ports_that_spoke_http_still_do(
    before: Observation,
    phase: str,
    settings: CheckSettings,
    host: Host,
    connection: CheckConnection,
    facts: CheckMemory,
    patience: Deadline,
) -> None:
    if phase == "before":
        ports = list(listeners(before.ports, settings.ignore_ports).values())
        spoke = {} if settings.http else discover(connection, ports)
        host.run("true")  # without a connection everything is silent: that must not be noted
        facts.note("http", spoke)
    known = facts.statuses("http")
    assert known is not None, "it was not noted which ports answered HTTP before the upgrade"
    changed = []
    for url, status in known.items():
        answer = ask_until(connection, url, partial(as_before, status), patience)
        print(f"{url} {answer.words}")
        if not as_before(status, answer):
            changed.append(f"{url} answered {status} before and {answer.words} now")
    assert not changed, "; ".join(changed)
