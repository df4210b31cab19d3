"""Rehearsals that prove nothing of the upgrade, and those that only look like it."""

from __future__ import annotations

from tests.corpus.cases_services import BROKEN_SITE
from tests.corpus.corpus_case import ALL, REBOOT, Case, install, live
from tests.corpus.corpus_image import (
    BROKEN,
    BUSY,
    CUT,
    EARLY,
    ENDS,
    HALF,
    LATE,
    ONCE,
    RESTARTS,
    SLOW,
)
from tests.corpus.corpus_machine import OTHERS, site, text

STEADY_NOT = """
def test_steady(host):
    times = int(host.check_output("echo >>/var/tmp/asked; wc -l </var/tmp/asked"))
    assert times % 2, "not this time"
"""
SURVIVES_NOT = """
def test_survives(host, phase):
    if phase == "before":
        host.run("touch /run/started-by-hand")
    assert host.file("/run/started-by-hand").exists, "nobody started it"
"""

CASES = (
    Case(
        "red-before",
        "inconclusive",
        "a check of something that this machine never had",
        "test_database",
        packages=(site("1.1"),),
        checks="def test_database(host):\n"
        "    assert host.service('postgresql').is_running, 'no database'\n",
    ),
    Case(
        "flaky",
        "inconclusive",
        "a check that holds every other time; the upgrade is a good one",
        "test_steady",
        packages=(site("1.1"),),
        checks=STEADY_NOT,
        control=True,
    ),
    Case(
        "flaky-and-broken",
        "fail",
        "the same check, and nginx refuses the new site's configuration",
        "early_hints",
        packages=(BROKEN_SITE, *OTHERS),
        checks=STEADY_NOT,
        control=True,
    ),
    Case(
        "reboot-breaks-it",
        "inconclusive",
        "somebody started by hand what no reboot brings back, upgraded or not",
        "test_survives",
        packages=(site("1.1"),),
        scenario=ALL + REBOOT,
        checks=SURVIVES_NOT,
        control=True,
    ),
    Case(
        "runs-once",
        "inconclusive",
        "a service that runs in the machine's first start only, upgraded or not",
        "web01-once",
        packages=(site("1.1"),),
        scenario=ALL + REBOOT,
        image=ONCE,
        control=True,
    ),
    Case(
        "start-is-slow-once",
        "inconclusive",
        "one start of this machine is slow, as on a busy host, whatever was upgraded before it",
        "start took",
        packages=(site("1.1"),),
        scenario=ALL + REBOOT,
        image=SLOW,
    ),
    Case(
        "unit-is-late-once",
        "inconclusive",
        "one start of this machine is slow, and a unit misses its time in it; no other one is",
        "web01-late.*(failed|failing)|start took",
        packages=(site("1.1"),),
        scenario=ALL + REBOOT,
        image=LATE,
    ),
    Case(
        "restarts-itself-anyway",
        "inconclusive",
        "this machine restarts itself a while after that start, upgraded or not",
        "restarts by itself",
        packages=(site("1.1"),),
        scenario=ALL + REBOOT,
        image=RESTARTS,
        control=True,
    ),
    Case(
        "restarts-in-mid-upgrade-anyway",
        "inconclusive",
        "this machine restarts itself a while after its start, which a slow upgrade runs into",
        "restarts by itself",
        packages=(text("web01-tools", "2.0", live("sleep 240")),),
        image=EARLY,
        control=True,
    ),
    Case(
        "powers-off-anyway",
        "inconclusive",
        "this machine powers itself off a while after its start, which a slow upgrade runs into",
        "the control.*cannot be entered any more either",
        packages=(text("web01-tools", "2.0", live("sleep 240")),),
        image=ENDS,
        control=True,
    ),
    Case(
        "own-apt-busy",
        "inconclusive",
        "the machine's own package manager has the lock, and keeps it",
        "another package manager",
        packages=(site("1.1"),),
        scenario=ALL + "deadlines: {upgrade: 60}\n",
        image=BUSY,
    ),
    Case(
        "no-checks",
        "inconclusive",
        "nobody looks",
        "no check ran",
        packages=(site("1.1"),),
        scenario=ALL + "checks: {shared: []}\n",
    ),
    Case(
        "all-skipped",
        "inconclusive",
        "the only check skips itself",
        "skipped",
        packages=(site("1.1"),),
        scenario=ALL + "checks: {shared: []}\n",
        checks="import pytest\n\n\ndef test_nothing(host):\n    pytest.skip('not today')\n",
    ),
    Case(
        "check-does-not-compile",
        "inconclusive",
        "a slip of the pen in the scenario's check",
        "SyntaxError",
        packages=(site("1.1"),),
        checks="def test_nginx(host:\n    assert host\n",
    ),
    Case(
        "half-configured-before",
        "inconclusive",
        "a package was half-configured before; the upgrade even repairs that",
        "(?=.*web01-tools)(?=.*half-configured)",
        packages=(site("1.1"),),
        image=HALF,
    ),
    Case(
        "dpkg-interrupted-before",
        "inconclusive",
        "the machine's own dpkg was interrupted, so that no upgrade at all begins",
        "package manager was broken before",
        packages=(site("1.1"),),
        image=CUT,
    ),
    Case(
        "broken-package-before",
        "inconclusive",
        "a package that has nothing to do with the upgrade cannot be configured, as before it",
        "(?=.*web01-tools)(?=.*half-configured)",
        packages=(site("1.1"),),
        image=BROKEN,
    ),
    Case(
        "nothing-though-wanted",
        "inconclusive",
        "the scenario wants a change, and there is none",
        "nothing to upgrade",
        scenario=ALL + "expect: {nothing_to_upgrade: inconclusive}\n",
    ),
    Case(
        "no-such-package",
        "rejected",
        "the request has a typing error",
        "web01-shopp",
        packages=(site("1.1"),),
        scenario=install("web01-shopp"),
    ),
    Case(
        "mirror-down",
        "error",
        "the mirror answers nothing but 503",
        "503",
        packages=(site("1.1"),),
        mirror="down",
    ),
    Case(
        "mirror-flickers",
        "error",
        "the mirror gives its lists, and 503 for the package",
        "deb 503",
        packages=(site("1.1"),),
        mirror="flickers",
    ),
    Case(
        "mirror-is-slow",
        "error",
        "the mirror gives a byte of the package each second",
        "not fetched",
        packages=(site("1.1"),),
        scenario=ALL + "deadlines: {upgrade: 60}\n",
        mirror="slow",
    ),
    Case(
        "mirror-half-synchronised",
        "error",
        "the mirror's package is not the one that its list speaks of",
        "unexpected size",
        packages=(site("1.1"),),
        mirror="half synchronised",
    ),
)
