"""What is reported as changed between two observations, and what became of each check."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.core.records import (
    CheckResult,
    CheckSession,
    Filesystem,
    Observation,
    Outcome,
    Package,
    PackageChange,
    Port,
    Wide,
)
from sandbox.core.wording import short
from sandbox.verdict.diff import Differences, Effect, compare, compare_checks, without_drift
from sandbox.verdict.diff_kinds import Change, ConffileChange, Fate

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
        (
            "no /dev/disk/by-uuid/3f2a9b7e-5a0e-4f5a-a8e0-9b1b1e1c7a31",
            "no /dev/disk/by-uuid/c0ffeebc-aaaa-bbbb-cccc-ddddeeeeffff",
            (),
        ),
        ("52:54:00:ab:cd:ef is gone", "0a:bb:cc:dd:ee:ff is gone", ()),
        ("peer fe80::1 is gone", "peer 2001:db8:a::beef is gone", ()),
        ("container 3f2a9b7 died", "container c0ffee12 died", ()),
        ("module a::b failed", "module c::d failed", ()),
        ("std::bad_alloc", "std::bad_cast", ("std::bad_cast",)),
        ("disk is fine", "[ 1.0] disk is broken", ("[ 1.0] disk is broken",)),
    ],
)
def test_a_log_line_is_new_by_what_it_says(before: str, after: str, new: tuple[str, ...]) -> None:
    difference = compare(seen(kernel_errors=(before,)), seen(kernel_errors=(after, after)))
    assert difference.kernel_errors == new


# --- who listens ------------------------------------------------------------------------------


def tcp(process: str, number: int = 80, address: str = "0.0.0.0") -> Port:
    return Port(protocol="tcp", address=address, port=number, process=process)


def test_a_port_of_another_program_is_a_difference() -> None:
    packages = {"nginx:amd64": Package(version="1.22"), "apache2:amd64": Package(version="2.4")}
    before = seen(ports=(tcp("nginx"),), packages=packages)
    found = compare(before, seen(ports=(tcp("apache2"),), packages=packages))
    assert found.ports_taken == (Change(name="tcp 0.0.0.0:80", before="nginx", after="apache2"),)
    assert (found.ports_opened, found.ports_closed, found.listening) == ((), (), ())
    assert without_drift(found, found).ports_taken == ()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("nginx", "nginx: master"),
        ("php-fpm8.2", "php-fpm8.4"),
        ("python3.11", "python3.13"),
        ("mysqld", "mariadbd"),
        ("", "nginx"),  # without ss nobody knows
        ("nginx", ""),
        ("systemd", "cupsd"),  # which opened it for cupsd
        ("cupsd", "systemd"),
    ],
)
def test_the_same_program_by_another_name_has_its_port_still(before: str, after: str) -> None:
    assert compare(seen(ports=(tcp(before),)), seen(ports=(tcp(after),))).ports_taken == ()


def test_a_port_that_was_numbered_at_random_is_nobodys() -> None:
    here = seen(ports=(tcp("rpc.statd", 41000),))
    assert compare(here, seen(ports=(tcp("rpc.mountd", 41000),))).ports_taken == ()


@pytest.mark.parametrize(
    ("process", "package"),
    [
        ("postgres", "postgresql-15"),
        ("rsyslogd", "rsyslog"),
        ("docker-proxy", "docker-ce"),
        ("php-fpm8.2", "php8.2-fpm"),
        ("systemd-resolve", "systemd-resolved"),
        ("systemd-resolve", "systemd"),
        ("exim4", "exim4-daemon-heavy"),
        ("sshd", "openssh-server"),
        ("nginx", "nginx"),
    ],
)
def test_a_listening_programs_package(process: str, package: str) -> None:
    def side(version: str) -> Observation:
        others = dict.fromkeys(("postgresql-15-postgis-3:amd64", "a:all"), Package(version="1"))
        of_it = {f"{package}:amd64": Package(version=version)}
        return seen(ports=(tcp(process),), packages=others | of_it)

    (change,) = compare(side("1"), side("2")).listening
    assert change == Change(name=f"{process} on tcp 0.0.0.0:80", before="1", after="2")


def test_versions_of_what_is_there_several_times_and_of_what_follows_it() -> None:
    def side(process: str, **versions: str) -> Observation:
        packages = {f"{n.replace('_', '-')}:amd64": Package(version=v) for n, v in versions.items()}
        return seen(ports=(tcp(process),), packages=packages)

    old, new = {"postgresql_13": "13.10"}, {"postgresql_13": "13.14", "postgresql_15": "15.6"}
    (change,) = compare(side("postgres", **old), side("postgres", **new)).listening
    assert (change.before, change.after) == ("13.10", "13.14")
    php = {"php8.2_fpm": "8.2.1"}, {"php8.2_fpm": "8.2.1", "php8.4_fpm": "8.4.0"}
    (change,) = compare(side("php-fpm8.2", **php[0]), side("php-fpm8.4", **php[1])).listening
    assert (change.before, change.after) == ("8.2.1", "8.4.0")
    assert compare(side("*", a="1"), side("*", a="2")).listening == (), "a name is no pattern"


# --- what a kernel computes -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "before", "after", "told"),
    [
        ("fs.inotify.max_user_watches", "14000", "15000", False),
        ("fs.inotify.max_user_watches", "524288", "14000", True),
        ("net.ipv4.tcp_rmem", "4096 131072 6291456", "4096 131072 6000000", False),
        ("net.ipv4.tcp_rmem", "4096 131072 6291456", "4096 131072 33554432", True),
        ("net.ipv4.tcp_rmem", "4096 131072 6291456", "4096 131072", True),
        ("vm.min_free_kbytes", "65536", "5000", True),
        ("net.ipv4.ip_forward", "100", "101", True),
    ],
)
def test_a_setting_that_follows_the_memory_is_told_when_it_differs_by_much(
    name: str, before: str, after: str, told: bool
) -> None:
    old, new = (seen(wide=Wide(settings={name: value})) for value in (before, after))
    found = compare(old, new)
    assert [change.name for change in found.settings] == ([name] if told else [])
    assert without_drift(found, found).settings == ()


def test_a_setting_that_is_about_the_same_on_the_control_is_left_out() -> None:
    def side(value: int) -> Observation:
        return seen(wide=Wide(settings={"fs.file-max": str(value), "vm.swappiness": str(value)}))

    left = without_drift(compare(side(1000), side(2000)), compare(side(1010), side(2020)))
    assert [change.name for change in left.settings] == ["vm.swappiness"]


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("tmpfs rw,size=816404k,nr_inodes=204101", "tmpfs rw,size=816200k,nr_inodes=204050", False),
        ("tmpfs rw,size=816404k,mode=755", "tmpfs rw,size=408202k,mode=755", True),
        ("tmpfs rw,size=816404k", "tmpfs rw,size=816404m", True),
        ("tmpfs rw,size=816404k,nosuid", "tmpfs rw,size=816200k,noexec", True),
        ("tmpfs rw,size=816404k", "tmpfs rw", True),
        ("odd rw,size=816404k", "odd rw,size=816200k", True),
        ("tmpfs rw,mode=755", "tmpfs rw,mode=754", True),
    ],
)
def test_a_file_system_in_memory_may_be_a_bit_smaller(before: str, after: str, told: bool) -> None:
    found = compare(seen(mounts={"/tmp": before}), seen(mounts={"/tmp": after}))
    assert bool(found.mounts) == told


# --- the control ---------------------------------------------------------------------------------


def drifted(before: Observation, after: Observation, *control: Observation) -> Differences:
    return without_drift(compare(before, after), compare(*control), control)


@pytest.mark.parametrize("kind", ["kernel_errors", "journal_errors"])
def test_an_error_that_the_control_had_at_any_time_is_not_new(kind: str) -> None:
    noise, ours = "app[7]: lost 3 packets", "app: cannot start"
    after = seen(**{kind: (noise, ours)})
    for control in ((noise,), (noise,)), ((noise,), ()), ((), (noise,)):
        sides = [seen(**{kind: lines}) for lines in control]
        assert getattr(drifted(seen(), after, *sides), kind) == (ours,)


def test_what_came_and_went_on_the_control_comes_and_goes() -> None:
    calm = seen(
        units={"a.service": "inactive/dead", "b.service": "active/running"},
        mounts={"/": "ext4 rw"},
    )
    busy = seen(
        units={"a.service": "active/running", "b.service": "active/running"},
        mounts={"/": "ext4 rw", "/net/nas": "nfs4 rw"},
        ports=(tcp("a"),),
        failed_units=("c.service",),
    )
    worse = busy.model_copy(update={"units": busy.units | {"b.service": "inactive/dead"}})
    left = drifted(calm, worse, busy, calm)
    assert [unit.name for unit in left.units] == ["b.service"]
    assert (left.mounts, left.ports_opened, left.failed_units, left.drift) == ((), (), (), 4)


@pytest.mark.parametrize(
    ("control", "told"), [(80, True), (85, True), (92, False), (95, False), (70, True)]
)
def test_a_file_system_that_grew_as_much_on_the_control_is_left_out(
    control: int, told: bool
) -> None:
    def side(used: int) -> Observation:
        free = (100 - used) * MIB * 10
        disk = Filesystem(mount="/", size=1000 * MIB, used=used * MIB * 10, available=free)
        return seen(filesystems=(disk,))

    left = drifted(side(80), side(92), side(80), side(control))
    assert bool(left.filesystems) == told
    assert left.drift == (not told)


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
