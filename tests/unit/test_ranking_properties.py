"""Whatever two observations hold: the same twice is nothing, and the list is whole and short."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sandbox.core.records import Certificate, Filesystem, Observation, Package, Port, Wide
from sandbox.verdict.diff import Differences, compare, without_drift
from sandbox.verdict.severity import DiffSeverity, ranked

HIGH, MEDIUM, LOW = DiffSeverity

names = st.sampled_from(["a.service", "b.timer", "root", "sudo", "/etc/shadow", "/etc/x", "{}", ""])
texts = st.text(max_size=8) | names
some = st.lists(names, max_size=6, unique=True).map(tuple)


def mapping(values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(names, values, max_size=6)


certificates = st.builds(
    Certificate,
    fingerprint=st.sampled_from("ab"),
    subject=texts,
    expires=st.floats(allow_nan=False, allow_infinity=False) | st.just(1e9),
)
wides = st.builds(
    Wide,
    memory_used=st.integers(0, 1 << 40),
    modes=mapping(st.sampled_from(["644 root root", "666 a b", "4755 root root", "x", ""])),
    users=mapping(st.sampled_from(["0:0:/bin/sh", "1:1:/usr/sbin/nologin", "", ":"])),
    groups=mapping(st.sampled_from(["27:a,b", "27:", ""])),
    modules=some,
    settings=mapping(texts),
    shipped=mapping(st.sampled_from("ab")),
    certificates=mapping(certificates),
)
ports = st.builds(
    Port,
    protocol=st.sampled_from(["tcp", "udp"]),
    address=st.sampled_from(["0.0.0.0", "127.0.0.1", "::", "192.0.2.1"]),
    port=st.sampled_from([22, 80, 40000]),
    process=names,
)
observations = st.builds(
    Observation,
    boot_id=st.just("b"),
    kernel=st.sampled_from("12"),
    kernels=some,
    boot_seconds=st.floats(0, 1e5),
    state=st.sampled_from(["running", "degraded"]),
    packages=mapping(st.builds(Package, version=st.sampled_from("12"))),
    units=mapping(st.sampled_from(["active/running", "failed/failed", "inactive/dead"])),
    failed_units=some,
    enabled=some,
    masked=some,
    ports=st.lists(ports, max_size=5).map(tuple),
    conffiles=mapping(st.sampled_from(["a", "b", "missing"])),
    filesystems=st.builds(
        Filesystem,
        mount=names,
        size=st.just(1 << 30),
        used=st.integers(0, 1 << 30),
        available=st.just(1 << 20),
    ).map(lambda one: (one,)),
    mounts=mapping(texts),
    kernel_errors=some,
    journal_errors=some,
    reboot_required=st.booleans(),
    stale_processes=some,
    wide=st.none() | wides,
)
FEW = 40  # kinds of lines in the worst case, each at most three times


@given(observations)
def test_the_same_twice_is_no_difference(one: Observation) -> None:
    found = compare(one, one)
    facts = found.model_dump(exclude={"boot_seconds_before", "boot_seconds_after",
                                      "memory_before", "memory_after"})  # fmt: skip
    empty = Differences(unseen=one.wide is None).model_dump()
    assert facts == {name: empty[name] for name in facts}
    assert len(ranked(found)) == (1 if one.wide is None else 0)


@given(observations, observations)
def test_the_list_is_whole_ordered_and_short(before: Observation, after: Observation) -> None:
    found = compare(before, after)
    lines = ranked(found)
    assert lines == ranked(found)
    severities = [(HIGH, MEDIUM, LOW).index(line.severity) for line in lines]
    assert severities == sorted(severities)
    assert len(lines) <= 3 * FEW
    assert sum(len(line.items) or 1 for line in lines) >= _size(found)
    assert all(not line.items or len(line.items) > 3 for line in lines)


def _size(found: Differences) -> int:
    """How many differences have to be in the list, each as a line or as an item of one."""
    listed = (
        found.half_configured, found.failed_units, found.recovered_units, found.ports_opened,
        found.ports_closed, found.ports_taken, found.conffiles, found.enabled, found.disabled,
        found.masked,
        found.mounts, found.listening, found.modes, found.users, found.groups,
        found.modules_loaded, found.modules_gone, found.settings, found.certificates,
        found.kernels_installed, found.kernels_removed, found.kernel_errors,
        found.journal_errors, found.filesystems, found.stale_processes, found.removed,
    )  # fmt: skip
    told = {*found.failed_units, *found.recovered_units}
    units = [unit for unit in found.units if unit.name not in told]
    single = (found.kernel, found.state, found.reboot_required, found.one_sided, found.unseen)
    return sum(map(len, listed)) + len(units) + sum(map(bool, single))


@given(observations, observations)
def test_what_the_control_shows_too_is_no_line(before: Observation, after: Observation) -> None:
    found = compare(before, after)
    left = without_drift(found, found)
    kinds = ("units", "enabled", "mounts", "modes", "users", "groups", "modules_gone", "settings",
             "certificates", "listening", "journal_errors", "filesystems",
             "ports_taken")  # fmt: skip
    assert all(getattr(left, kind) == () for kind in kinds)
