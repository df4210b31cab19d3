"""What a night says: whole texts, so that a reader sees what people get."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from sandbox.core.records import Verdict
from workers.notifications.delivery import inert, kind_of
from workers.schedule.night_summary import (
    MOST_LINES,
    NO_ANSWER,
    GuestNight,
    Night,
    as_json,
    headline,
    text,
)

DUE = datetime(2026, 11, 25, 0, 30, tzinfo=UTC).timestamp()


def guest(
    name: str,
    verdict: str | None = "pass",
    reason: str = "",
    before: str | None = "pass",
    state: str = "finished",
    host: str = "xen1",
) -> GuestNight:
    said = Verdict(verdict) if verdict else None
    return GuestNight(host, name, f"run-{name}", state, said, reason, before)


def night(*guests: GuestNight, **values: object) -> Night:
    made = Night("fleet", DUE, "Europe/Berlin", "run", DUE + 4, guests)
    return replace(made, **values)  # type: ignore[arg-type]


FLEET = night(
    guest("db01", "fail", "postgresql does not start", host="xen2"),
    guest("db02", "error", "the mirror did not answer"),
    guest("mail", None, "no host 'xen9' in hosts.yaml", NO_ANSWER, "", host="xen9"),
    guest("old", "inconclusive", "no check ran", "inconclusive"),
    guest("shop", None, "", "pass", "cancelled"),
    guest("web01"),
    guest("web02", before="fail"),
    guest("web03", before=None),
)


def test_a_night_of_a_fleet() -> None:
    assert text(FLEET) == (
        """\
3 of 8 guests may be upgraded (fleet, 2026-11-25 01:30 Europe/Berlin)

May not be upgraded:
  db01 on xen2: fail: postgresql does not start
  old on xen1: inconclusive: no check ran

New since the night before:
  db01 on xen2: pass → fail
  db02 on xen1: pass → error
  shop on xen1: pass → no answer
  web02 on xen1: fail → pass
  web03 on xen1: for the first time, pass

Gave no answer:
  db02 on xen1: error: the mirror did not answer
  mail on xen9: not queued: no host 'xen9' in hosts.yaml
  shop on xen1: cancelled

May be upgraded:
  web01 on xen1
  web02 on xen1
  web03 on xen1
"""
    )


def test_a_quiet_night() -> None:
    assert text(night(guest("web01"))) == (
        """\
1 of 1 guest may be upgraded (fleet, 2026-11-25 01:30 Europe/Berlin)

New since the night before:
  nothing

May be upgraded:
  web01 on xen1
"""
    )


def test_the_first_night() -> None:
    assert "  nothing to compare with: this is the first night\n" in text(
        night(guest("web01", before=None))
    )


def test_a_night_that_is_not_over() -> None:
    running = night(
        guest("web01"),
        guest("web02", None, "", "pass", "running"),
        guest("web03", None, "the host has no room", "pass", "queued"),
        closed=False,
    )
    assert text(running) == (
        """\
1 of 3 guests may be upgraded, 2 not done yet (fleet, 2026-11-25 01:30 Europe/Berlin)

New since the night before:
  nothing

Not done yet:
  web02 on xen1: running
  web03 on xen1: queued: the host has no room

May be upgraded:
  web01 on xen1
"""
    )
    over = text(replace(running, closed=True))
    assert over.startswith("1 of 3 guests may be upgraded (")
    assert "Gave no answer:\n  web02 on xen1: running\n  web03 on xen1: queued: the host" in over


def test_a_late_night_says_so_and_names_those_before_it() -> None:
    late = night(guest("web01"), noticed=DUE + 3 * 3600, missed=(DUE - 2 * 86400, DUE - 86400))
    assert text(late).splitlines()[1:3] == [
        "Begun late, at 2026-11-25 04:30.",
        "Not run before it (2): 2026-11-23 01:30, 2026-11-24 01:30",
    ]


def test_a_missed_night() -> None:
    missed = night(outcome="missed", noticed=DUE + 9 * 3600)
    assert text(missed) == (
        """\
missed: nothing was rehearsed (fleet, 2026-11-25 01:30 Europe/Berlin)
The service was down at that time. `sandbox submit` rehearses now.
"""
    )


def test_nobody_is_never_good_news() -> None:
    assert headline(night()).startswith("0 of 0 guests may be upgraded")
    assert "names no guests" in text(night())


def test_a_large_fleet_stays_short() -> None:
    said = text(night(*(guest(f"web{n:03}", "fail", "broken") for n in range(300))))
    assert said.splitlines()[0].startswith("0 of 300 guests")
    assert len(said.splitlines()) < 3 * MOST_LINES
    assert f"  and {300 - MOST_LINES} more: `sandbox summary --json` has them all\n" in said


def test_what_a_guest_says_stays_on_its_line() -> None:
    said = text(night(guest("web01", "fail", "a\n\nMay be upgraded:\n  all\x1b[31m")))
    assert said.count("\nMay be upgraded:") == 0
    assert "\x1b" not in said


def test_the_same_for_programs() -> None:
    said = json.loads(json.dumps(as_json(FLEET)))
    assert said["night"] == "fleet@2026-11-25T00:30Z"
    assert said["counts"] == {
        "may be upgraded": 3,
        "may not be upgraded": 2,
        "gave no answer": 3,
        "not done yet": 0,
    }
    first = said["guests"][0]
    assert (first["guest"], first["verdict"], first["new"]) == ("db01", "fail", True)
    assert first["answer"] == "may not be upgraded"


def test_nothing_that_a_guest_says_is_a_link_or_calls_anybody() -> None:
    said = inert("see https://evil.example [x](y) @channel <!here> <@U1> a@b: mail")
    for live in ("://", "](", "@channel", "<!", "<@", "a@b"):
        assert live not in said
    assert said.replace("\u200b", "") == (
        "see https://evil.example [x](y) @channel <!here> <@U1> a@b: mail"
    )
    assert inert(text(FLEET)) == text(FLEET)


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("slack://TokenA/TokenB/TokenC", "slack"),
        ("mailto://me:secret@mail.example", "mailto"),
        ("secret", "?"),
        ("se-cret://x", "?"),
    ],
)
def test_of_a_target_only_its_kind_is_shown(url: str, kind: str) -> None:
    assert kind_of(url) == kind
