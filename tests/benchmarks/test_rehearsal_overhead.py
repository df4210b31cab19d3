"""A whole rehearsal against the least that a person could do by hand, with the same guest.

Both upgrade the demo's image with the security updates that really wait for it, a kernel
among them, through the same package proxy with the same warm cache: the network of this
machine takes no part in the comparison. By hand goes first, so that whatever it leaves warm
serves the product; what the product does beyond it (a look at the guest and its checks before
the upgrade, a simulation, thirteen shared checks, a second look, the report) has to fit into
a tenth of the time.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sandbox.core.deadline import Deadline
from sandbox.core.records import CheckEnd, RunRecord, Verdict
from sandbox.core.settings import Settings, read_settings, shipped_scenarios
from sandbox.core.store import Store
from sandbox.demo.image import DemoImage
from sandbox.demo.mirror import find_mirror
from sandbox.hosts.drivers import Hypervisor
from sandbox.hosts.source import ImageSpec
from sandbox.network.proxy.package_proxy import PackageProxy
from tests.support.benchmarks.by_hand import ByHand, essence, rehearse_by_hand
from tests.support.benchmarks.table import Measurement, Results

pytestmark = [pytest.mark.benchmark, pytest.mark.vm]

SCENARIO = shipped_scenarios() / "security"
MOST, MOST_WITH_CONTROL = 1.10, 1.4
HAND, PRODUCT = "by hand", "product"
TURNS = (HAND, PRODUCT, PRODUCT, HAND)  # what warms up is of use to both
SECONDS = 3600.0
# What a proxy with a warm cache fetches: answers to "has it changed?".
WARM_BYTES = 1 << 20


def test_whole_rehearsal_against_by_hand(
    results: Results, hypervisor: Hypervisor, base_image: DemoImage, state: Path
) -> None:
    read_once(base_image.path)
    hands, products = [], []
    for way in TURNS:
        if way == HAND:
            hands.append(by_hand_warm(hypervisor, base_image, state))
        else:
            products.append(by_product(base_image, state))
    for _total, record, machine in products:
        expect_the_same(record, machine, hands[0])
    total = statistics.mean(seconds for seconds, *_ in products)
    hand = statistics.mean(one.total for one in hands)
    each = {
        HAND: [one.total for one in hands],
        PRODUCT: [seconds for seconds, *_ in products],
    }
    said = "; ".join(
        f"{way} {' '.join(f'{t:.0f}' for t in found)} s" for way, found in each.items()
    )
    last = products[-1][1]
    phases = {f"product: {phase.phase}": phase.seconds for phase in last.phases}
    steps = {f"by hand: {step}": seconds for step, seconds in hands[-1].seconds.items()}
    checks = (last.facts.checks_before, last.facts.checks_after)
    results.add(
        Measurement(
            name="rehearsal-against-hand",
            what="a whole rehearsal (`sandbox run security`) against by hand",
            ratio=total / hand,
            most=MOST,
            seconds={PRODUCT: total, HAND: hand} | phases | steps,
            note=f"means of {len(hands)}, by turns ({said}); {hands[0].changed} packages; the"
            f" product's checks took {sum(session.seconds for session in checks if session):.1f} s",
        )
    )


def test_the_control_against_none(results: Results, base_image: DemoImage, state: Path) -> None:
    """A control boots, reboots and is checked on processors that its clone has else for itself."""
    read_once(base_image.path)
    by_product(base_image, state, "never")  # warms the packages up
    took: dict[str, list[float]] = {"never": [], "always": []}
    for control in ("never", "always", "always", "never"):
        seconds, record, _machine = by_product(base_image, state, control)
        took[control].append(seconds)
        assert record.decision is not None
        assert record.decision.verdict is Verdict.PASS, record.decision.reason
        control = record.facts.control
        assert (control is not None) is (control == "always")
        if control is not None:
            assert control.missing == ""
            assert len(control.checks_before) > 1
            assert control.checks_after
    alone, both = statistics.mean(took["never"]), statistics.mean(took["always"])
    each = "; ".join(
        f"{way} {' '.join(f'{t:.0f}' for t in found)} s" for way, found in took.items()
    )
    results.add(
        Measurement(
            name="rehearsal-with-control",
            what="a whole rehearsal with a control against one without",
            ratio=both / alone,
            most=MOST_WITH_CONTROL,
            seconds={"with a control": both, "without": alone},
            note=f"means of 2, by turns (control: {each}), on {os.cpu_count()} processors",
        )
    )


def expect_the_same(record: RunRecord, machine: str, hand: ByHand) -> None:
    """The same upgrade on the same machine, with all checks run."""
    assert record.decision is not None
    assert record.decision.verdict is Verdict.PASS, record.decision.reason
    assert record.facts.checks_after is not None
    assert record.facts.checks_after.end is CheckEnd.COMPLETE
    assert record.facts.upgrade is not None
    assert record.facts.upgrade.changes, "nothing was upgraded: nothing was measured"
    assert len(record.facts.upgrade.changes) == hand.changed, "not the same upgrade"
    assert essence(machine) == essence(hand.machine), "not the same machine"


def by_hand_warm(hypervisor: Hypervisor, image: DemoImage, state: Path) -> ByHand:
    """Once more where the packages still came from the network."""
    for _ in range(2):
        hand, fetched = by_hand(hypervisor, image, state)
        if fetched <= WARM_BYTES:
            return hand
        print(f"the package cache was cold ({fetched >> 20} MiB fetched): by hand once more")
    raise AssertionError("the packages come from the network each time: no comparison")


def read_once(path: Path) -> None:
    """Into the page cache, before anybody's clock runs."""
    with path.open("rb") as file:
        while file.read(1 << 24):
            continue


def by_hand(hypervisor: Hypervisor, image: DemoImage, state: Path) -> tuple[ByHand, int]:
    """The person's rehearsal, and how many bytes its packages came over the network."""
    settings, mirror = read_settings(), find_mirror()
    folder = state / "hand"
    folder.mkdir(exist_ok=True)
    with PackageProxy(
        [mirror.release_uri, mirror.security_uri],
        settings.cache / "packages",
        folder / "proxy.sock",
        operator_allowed=settings.proxy_allow,
        upstream_proxy=settings.upstream_proxy,
    ) as proxy:
        done = rehearse_by_hand(
            hypervisor,
            image,
            ImageSpec(disks=((image.path, "qcow2"),)),
            proxy.socket,
            SCENARIO / "test_security.py",
            folder,
            Deadline(SECONDS, "rehearsal by hand"),
        )
        return done, proxy.statistics.fetched


def by_product(
    image: DemoImage, state: Path, control: str = "never"
) -> tuple[float, RunRecord, str]:
    """The command as a user gives it: its wall-clock time, its record, the clone's XML.

    ``control``: whether there is a control. Nobody boots one by hand.
    """
    started = time.monotonic()
    subprocess.run(
        [
            *(str(Path(sys.executable).with_name("sandbox")), "run", str(SCENARIO)),
            *("--image", str(image.path), "--format", "qcow2", "--key", str(image.key)),
        ],
        env=os.environ
        | {
            "SANDBOX_STATE": str(state),
            "SANDBOX_CONTROL": control,
            "SANDBOX_WATCH": "0",  # by hand nobody waits either
        },
        timeout=SECONDS,
        check=False,  # the verdict, and with it the exit code, is in the record
    )
    seconds = time.monotonic() - started
    store = Store(Settings(state=state))
    folder = store.find("latest")
    return seconds, store.load(folder), (folder.artifacts / "clone.xml").read_text()
