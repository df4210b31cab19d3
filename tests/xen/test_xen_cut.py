"""A hostile clone whose host is out of reach for minutes in the middle of its upgrade.

`make test` proves on Xen that nothing leaves a clone's bridge (the kernel's rehearsal, and the one
with a control), that reflinked copies are faithful, and that an upgrade outlives its connection.
This is all of it at once, on a stopped guest: one more boot, and a wait. It is for
`make test-all`.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sandbox.clone.reaper import remove_run
from sandbox.core.progress import Silent
from sandbox.core.records import Outcome, Verdict
from sandbox.core.store import Store
from sandbox.network.isolation import names
from tests.support.xen.wire import CHECK, CUT_SECONDS, Cut, Seen, cut, expect_nothing_on
from tests.support.xen.xenlab import GUEST, STOPPED, Host, Xen, reason, verdict

pytestmark = pytest.mark.xen

BY_SCRIPT = "upgrade: {what: script, script: upgrade.sh}\nreboot: never\n"
AT_WORK = "at-work"


class Cutter(Silent):
    """Cuts the way to the host when the upgrade says that it is at work."""

    def __init__(self, cut: Cut) -> None:
        self._cut = cut

    def detail(self, text: str, percent: float | None = None) -> None:
        if AT_WORK in text and not self._cut.ways:
            self._cut.now()


def test_a_hostile_clone_of_a_stopped_guest_on_a_file_system_with_reflinks(
    xen: Xen, host: Host, capture: Callable[[], Seen]
) -> None:
    """Nothing leaves its bridge. Its upgrade fails while the way to the host is cut for longer
    than a connection lives: the verdict is of the upgrade, or else an error of ours."""
    (disk,) = host.disks(STOPPED)
    facts = f"stat -c '%i %Y %s' {disk.path}; sha256sum {disk.path}"
    before = host.run(facts)
    scenario = xen.scenario(BY_SCRIPT, test_attack=CHECK)
    (scenario / "upgrade.sh").write_text(
        f"#!/bin/sh\necho {AT_WORK}\nsleep {CUT_SECONDS + 10}\nexit 3\n"
    )
    with cut() as way:
        xen.progress = Cutter(way)
        record = xen.run(scenario, STOPPED)
    assert way.ways, "nothing was cut: this proves nothing"
    print(f"cut for {CUT_SECONDS:.0f} s in the upgrade: {verdict(record)}, {reason(record)}")
    if verdict(record) is Verdict.ERROR:
        # Where its own clean-up could not reach the host.
        assert remove_run(host.shell, Store(xen.settings).folder(record.id)).failed == ()
    else:
        assert verdict(record) is Verdict.FAIL, reason(record)
        assert "status 3" in reason(record)
    assert record.facts.checks_before is not None
    (attack,) = (c for c in record.facts.checks_before.results if "nothing_is_reached" in c.name)
    assert attack.outcome is Outcome.PASSED, attack.detail
    assert record.source is not None
    assert record.source.method == "reflink copy"
    assert record.source.consistency == "clean"
    assert host.run(facts) == before
    expect_nothing_on(names(record.id).bridge, capture(), host.bridge(GUEST))
