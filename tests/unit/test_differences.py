"""What is reported as changed between two observations, and what became of each check."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.changes import Change, ConffileChange, Fate
from sandbox.differences import Effect, compare, compare_checks
from sandbox.records import (
    CheckResult,
    CheckSession,
    Filesystem,
    Observation,
    Outcome,
    Package,
    PackageChange,
    Port,
)
from sandbox.wording import short

MIB = 1024 * 1024


def seen(**values: Any) -> Observation:
    return Observation(boot_id="b", kernel=values.pop("kernel", "6.1.0-1"), **values)


def checks(**outcomes: str) -> CheckSession:
    return CheckSession(
        results=tuple(CheckResult(name=n, outcome=Outcome(o)) for n, o in outcomes.items())
    )


def test_the_same_observation_has_no_differences() -> None:
    one = seen(packages={"a:amd64": Package(version="1")}, units={"a.service": "active/running"})
    difference = compare(one, one)
    assert not difference.packages
    assert not difference.units
    assert difference.kernel is None


def test_packages_installed_removed_and_changed() -> None:
    before = {"a:amd64": Package(version="1"), "b:amd64": Package(version="1")}
    after = {"a:amd64": Package(version="2"), "c:all": Package(version="3")}
    difference = compare(seen(packages=before), seen(packages=after))
    assert difference.packages == (
        PackageChange(name="a", old="1", new="2", architecture="amd64"),
        PackageChange(name="b", old="1", new=None, architecture="amd64"),
        PackageChange(name="c", old=None, new="3", architecture="all"),
    )
    assert [p.name for p in difference.upgraded] == ["a"]
    assert [p.name for p in difference.removed] == ["b"]
    assert [p.name for p in difference.installed] == ["c"]


def test_a_package_with_only_its_configuration_left_counts_as_removed() -> None:
    before = {"a:amd64": Package(version="1")}
    after = {"a:amd64": Package(version="1", status="config-files")}
    assert compare(seen(packages=before), seen(packages=after)).packages[0].new is None


def test_newly_half_configured_packages_are_told_from_old_ones() -> None:
    before = {"a:amd64": Package(version="1", status="half-configured")}
    after = before | {"b:amd64": Package(version="1", status="unpacked")}
    assert compare(seen(packages=before), seen(packages=after)).half_configured == ("b:amd64",)


def test_units_change_fail_recover_and_logins_do_not_count() -> None:
    before = seen(
        units={"a.service": "active/running", "session-1.scope": "active/running"},
        failed_units=("old.service",),
    )
    after = seen(
        units={"a.service": "failed/failed", "user@0.service": "active/running"},
        failed_units=("a.service",),
    )
    difference = compare(before, after)
    assert difference.units == (
        Change(name="a.service", before="active/running", after="failed/failed"),
    )
    assert difference.failed_units == ("a.service",)
    assert difference.recovered_units == ("old.service",)


def test_ports_open_and_close_whoever_listens() -> None:
    web = Port(protocol="tcp", address="0.0.0.0", port=80, process="nginx")
    other = web.model_copy(update={"process": "nginx: master"})
    admin = web.model_copy(update={"port": 8080})
    difference = compare(seen(ports=(web,)), seen(ports=(other, admin)))
    assert difference.ports_opened == (admin,)
    assert difference.ports_closed == ()
    assert compare(seen(ports=(web,)), seen()).ports_closed == (web,)


@pytest.mark.parametrize(
    ("before", "after", "new"),
    [
        ("[    3.41] nginx[612]: bad", "[    9.02] nginx[77]: bad", ()),
        ("at 0xdeadbeef", "at 0xcafe0001", ()),
        ("disk is fine", "[ 1.0] disk is broken", ("[ 1.0] disk is broken",)),
    ],
)
def test_a_log_line_is_new_by_what_it_says(before: str, after: str, new: tuple[str, ...]) -> None:
    difference = compare(seen(kernel_errors=(before,)), seen(kernel_errors=(after, after)))
    assert difference.kernel_errors == new


def test_kernel_conffiles_boot_time_and_reboot_request() -> None:
    before = seen(kernel="1", kernels=("1",), conffiles={"/etc/a": "x"}, boot_seconds=20)
    after = seen(
        kernel="2",
        kernels=("1", "2"),
        conffiles={"/etc/a": "missing"},
        boot_seconds=30,
        reboot_required=True,
    )
    difference = compare(before, after)
    assert difference.kernel == Change(name="kernel", before="1", after="2")
    assert difference.kernels_installed == ("2",)
    assert difference.conffiles == (
        ConffileChange(name="/etc/a", before="x", after="missing", fate=Fate.GONE),
    )
    assert (difference.boot_seconds_before, difference.boot_seconds_after) == (20, 30)
    assert difference.reboot_required


def test_filesystems_count_when_they_grow_by_more_than_noise() -> None:
    def root(used: int) -> Observation:
        free = 100 * MIB - used
        return seen(filesystems=(Filesystem(mount="/", size=100 * MIB, used=used, available=free),))

    assert compare(root(50 * MIB), root(50 * MIB + 4096)).filesystems == ()
    (change,) = compare(root(50 * MIB), root(60 * MIB)).filesystems
    assert (change.grown, change.percent_before, change.percent_after) == (10 * MIB, 50, 60)


@pytest.mark.parametrize(
    ("before", "after", "effect"),
    [
        ("passed", "passed", Effect.HOLDS),
        ("passed", "failed", Effect.BROKE),
        ("passed", "error", Effect.BROKE),
        ("passed", "skipped", Effect.LOST),
        ("passed", None, Effect.LOST),
        ("failed", "passed", Effect.WAS_BROKEN),
        ("failed", "failed", Effect.WAS_BROKEN),
        ("failed", None, Effect.WAS_BROKEN),
        ("error", "passed", Effect.WAS_BROKEN),
        ("skipped", "failed", Effect.UNPROVEN),
        (None, "failed", Effect.UNPROVEN),
        (None, "error", Effect.UNPROVEN),
        ("skipped", "passed", Effect.UNJUDGED),
        ("skipped", "skipped", Effect.UNJUDGED),
        (None, "passed", Effect.UNJUDGED),
    ],
)
def test_the_effect_on_a_check(before: str | None, after: str | None, effect: Effect) -> None:
    (change,) = compare_checks(
        checks(a=before) if before else None, checks(a=after) if after else None
    )
    assert change.effect is effect


def test_a_check_reported_twice_counts_with_its_worst_outcome() -> None:
    passed = CheckResult(name="a", outcome=Outcome.PASSED)
    failed = CheckResult(name="a", outcome=Outcome.FAILED)
    for results in ((passed, failed), (failed, passed)):
        (change,) = compare_checks(checks(a="passed"), CheckSession(results=results))
        assert change.effect is Effect.BROKE


versions = st.dictionaries(st.sampled_from("abcd"), st.sampled_from(["1", "2", "3"]))


@given(versions, versions)
def test_package_changes_lead_from_one_set_to_the_other(
    before: dict[str, str], after: dict[str, str]
) -> None:
    packages = [{n: Package(version=v) for n, v in d.items()} for d in (before, after)]
    result = dict(before)
    for change in compare(seen(packages=packages[0]), seen(packages=packages[1])).packages:
        assert result.pop(change.name, None) == change.old
        assert change.old != change.new
        if change.new is not None:
            result[change.name] = change.new
    assert result == after


def test_a_checks_short_name_keeps_an_ipv6_address() -> None:
    assert short("shared/test_ports.py::test_still_listens[tcp/[::]:80]") == (
        "test_still_listens[tcp/[::]:80]"
    )
    assert short("test_web.py::TestSite::test_answers") == "test_answers"
