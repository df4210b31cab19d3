"""What the shared checks decide, on observations alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.checks.compare import (
    covers,
    describe_lost_units,
    fullness,
    left_behind,
    listeners,
    lost_units,
    new_failed_units,
    new_kernel_errors,
    newer_kernel,
    parse_listening,
    parse_unit_states,
    port_problem,
    real_filesystems,
    slower_start,
    started_again,
    state_worse,
)
from sandbox.core.noise import normalised
from sandbox.core.records import Filesystem, Port, Start
from tests.support.fakes.check_samples import filesystem, seen, tcp

# --- units ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "patterns", "lost"),
    [
        ({"enabled": ("nginx.service",)}, (), []),
        ({"enabled": ()}, (), ["nginx.service"]),
        ({"enabled": ("nginx.service",), "masked": ("nginx.service",)}, (), ["nginx.service"]),
        ({"enabled": (), "masked": ("old.service",)}, (), ["nginx.service"]),
        ({"enabled": ()}, ("ng*",), []),
        ({"enabled": (), "boot_id": "another"}, (), []),
    ],
)
def test_what_the_next_start_will_be_without(
    now: dict[str, object], patterns: tuple[str, ...], lost: list[str]
) -> None:
    before = seen(
        enabled=("nginx.service", "dead.service", "apt-daily.timer"),
        masked=("old.service",),
        units={
            "nginx.service": "active/running",
            "dead.service": "inactive/dead",
            "apt-daily.timer": "active/waiting",
        },
    )
    assert left_behind(before, seen(**now), patterns) == lost


@pytest.mark.parametrize(
    ("before", "now", "sentence"),
    [
        ("active/running", "active/running", ""),
        ("active/running", "failed/failed", "a.service was active before and is failed now"),
        ("active/running", "inactive/dead", "a.service was active before and is inactive now"),
        ("active/running", None, "a.service was active before and is gone now"),
        (
            "active/running",
            "activating/auto-restart",
            "a.service was active before and is activating (auto-restart) now",
        ),
        (
            "active/running",
            "active/exited",
            "a.service was active before and is active without a process now",
        ),
        ("active/exited", "active/exited", ""),
        ("active/waiting", "active/elapsed", ""),
        ("active/running", "reloading/reload", ""),
        ("inactive/dead", "failed/failed", ""),
        ("activating/start", None, ""),
    ],
)
def test_a_service_that_stopped_is_named_with_its_state(
    before: str, now: str | None, sentence: str
) -> None:
    after = {} if now is None else {"a.service": now}
    assert describe_lost_units(lost_units({"a.service": before}, after, [])) == sentence


def test_several_lost_units_are_one_sentence() -> None:
    lost = lost_units({"b.service": "active/running", "a.socket": "active/listening"}, {}, [])
    assert describe_lost_units(lost) == (
        "2 units were active before and are not now: a.socket (gone), b.service (gone)"
    )


@pytest.mark.parametrize(
    "unit",
    ["user@0.service", "session-3.scope", "run-user-0.mount", "systemd-hostnamed.service", "my-x"],
)
def test_units_that_come_and_go_and_ignored_ones_do_not_count(unit: str) -> None:
    assert lost_units({unit: "active/running"}, {}, ["my-*"]) == []


def test_only_new_failures_that_nobody_ignores_count() -> None:
    before, now = seen(failed_units=("old.service",)), seen(failed_units=("old.service", "n.timer"))
    assert new_failed_units(before, now, []) == ["n.timer"]
    assert new_failed_units(before, now, ["n.*"]) == []
    assert new_failed_units(now, now, []) == []


states = st.sampled_from(
    ["active/running", "active/exited", "failed/failed", "inactive/dead", "activating/start"]
)


@given(st.dictionaries(st.sampled_from(["a.service", "b.socket", "c.timer"]), states))
def test_nothing_is_lost_when_nothing_changed(units: dict[str, str]) -> None:
    assert lost_units(units, units, []) == []


def test_unit_states_come_back_in_the_order_they_were_asked_for() -> None:
    shown = (
        "LoadState=loaded\nActiveState=active\nSubState=running\n\n"
        "LoadState=not-found\nActiveState=inactive\nSubState=dead\n\n"
        "SubState=failed\nLoadState=loaded\nActiveState=failed\n"
    )
    assert parse_unit_states(["a", "b", "c"], shown) == {
        "a": "active/running",
        "c": "failed/failed",
    }
    assert parse_unit_states(["a"], "") == {}


@pytest.mark.parametrize(
    ("before", "now", "excused", "worse"),
    [
        ("running", "running", False, False),
        ("running", "degraded", False, True),
        ("running", "degraded", True, False),
        ("degraded", "degraded", False, False),
        ("degraded", "running", False, False),
        ("degraded", "maintenance", True, True),
        ("unknown", "unknown", False, False),
        ("unknown", "running", False, False),
        ("running", "unknown", True, True),
        ("maintenance", "degraded", False, False),
    ],
)
def test_the_system_may_not_get_worse(before: str, now: str, excused: bool, worse: bool) -> None:
    assert state_worse(before, now, excused) is worse


@pytest.mark.parametrize(
    ("before", "now", "boot", "again"),
    [
        ({}, {"a.service": 1}, "b", {"a.service": 1}),
        ({"a.service": 1}, {"a.service": 1}, "b", {}),
        ({"a.service": 1}, {"a.service": 3}, "b", {"a.service": 3}),
        ({"a.service": 1}, {"a.service": 3}, "another", {}),
        ({}, {"a.service": 3}, "another", {"a.service": 3}),
        ({}, {"ignored.service": 3}, "b", {}),
    ],
)
def test_what_systemd_had_to_start_again(
    before: dict[str, int], now: dict[str, int], boot: str, again: dict[str, int]
) -> None:
    after = seen(restarts=now, boot_id=boot)
    assert started_again(seen(restarts=before), after, ["ign*"]) == again


@pytest.mark.parametrize(
    ("before", "now", "slower"),
    [
        (20, 80, False),
        (20, 81, True),
        (100, 300, False),
        (100, 301, True),
        (0, 500, False),
        (500, 0, False),
    ],
)
def test_a_start_is_much_slower_when_it_takes_thrice_as_long_and_a_minute_more(
    before: float, now: float, slower: bool
) -> None:
    first, second = seen(boot_seconds=before), seen(boot_seconds=now, boot_id="another")
    assert bool(slower_start(first, second)) is slower
    assert not slower_start(first, seen(boot_seconds=now)), "no other start"


def start_of(**seconds: float) -> dict[str, Start]:
    return {
        f"{name}.service".replace("_", "-"): Start(began=10, ready=10 + took)
        for name, took in seconds.items()
    }


USUAL = {"nginx": 4.0, "ssh": 6.0, "dbus": 3.0, "shop": 9.0}


@pytest.mark.parametrize(
    ("now", "took", "unit"),
    [
        ({"warmup": 91}, 118, "warmup.service"),
        ({"shop": 95}, 140, "shop.service"),
        ({"warmup": 91, "shop": 120}, 150, "shop.service"),
        ({"warmup": 40}, 100, ""),
        ({"warmup": 91}, 70, ""),  # nothing waited for it
        ({"systemd_fsck_root": 91}, 118, ""),
        ({name: 2.5 * took for name, took in USUAL.items()} | {"warmup": 91}, 160, ""),
        ({name: 2.5 * took for name, took in USUAL.items()}, 140, ""),
        ({name: took / 2 for name, took in USUAL.items()} | {"warmup": 91}, 118, "warmup.service"),
    ],
)
def test_one_service_may_be_what_makes_a_start_slower(
    now: dict[str, float], took: float, unit: str
) -> None:
    """Told apart from a busy host, where every service takes longer."""
    first = seen(boot_id="1", boot_seconds=56, starts=start_of(**USUAL))
    second = seen(boot_id="2", boot_seconds=took, starts=start_of(**{**USUAL, **now}))
    said = slower_start(first, second)
    if unit:
        alone = second.starts[unit].seconds
        assert said == f"the start took {took} s, and 56 s before: {unit} alone took {alone:.0f} s"
    else:
        assert said == ""


# --- ports ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "now", "problem"),
    [
        (tcp(80), [tcp(80)], ""),
        (tcp(80), [tcp(80, "::")], ""),
        (tcp(80, "10.0.0.5"), [tcp(80)], ""),
        (tcp(80, "::1"), [tcp(80, "[::]")], ""),
        (tcp(80, "*"), [tcp(80, "::")], ""),
        (tcp(80, process="nginx"), [tcp(81)], "nothing listens on port 80/tcp of nginx any more"),
        (tcp(80, "10.0.0.5"), [], "nothing listens on port 80/tcp on 10.0.0.5 any more"),
        (tcp(53), [tcp(53, protocol="udp")], "nothing listens on port 53/tcp any more"),
        (
            tcp(80),
            [tcp(80, "127.0.0.1")],
            "port 80/tcp listened on 0.0.0.0 before and on 127.0.0.1 now",
        ),
        (tcp(80, "::"), [tcp(80)], "port 80/tcp listened on :: before and on 0.0.0.0 now"),
    ],
)
def test_a_port_must_stay_as_reachable_as_it_was(
    before: Port, now: list[Port], problem: str
) -> None:
    assert port_problem(before, now) == problem


addresses = st.sampled_from(["0.0.0.0", "::", "*", "127.0.0.1", "::1", "10.0.0.5", "fe80::1"])


@given(addresses, addresses, addresses)
def test_covering_is_reflexive_and_transitive(a: str, b: str, c: str) -> None:
    assert covers(tcp(1, a), tcp(1, a))
    if covers(tcp(1, a), tcp(1, b)) and covers(tcp(1, b), tcp(1, c)):
        assert covers(tcp(1, a), tcp(1, c))


def test_sockets_at_random_ports_and_ignored_ones_are_left_out() -> None:
    ports = [
        tcp(80, process="nginx"),
        tcp(80, process="nginx"),
        tcp(80, "::", process="nginx"),
        tcp(50000, process="java"),
        tcp(41000, process="rpc.statd"),
        tcp(867, "127.0.0.1", "rpc.statd", "udp"),
        tcp(923, process="rpcbind", protocol="udp"),
        tcp(43217, "127.0.0.1", process="sshd"),
        tcp(68, protocol="udp", process="dhclient"),
        tcp(45000, protocol="udp", process="avahi-daemon"),
        tcp(5353, protocol="udp"),
        tcp(5353),
        tcp(9000),
    ]
    assert list(listeners(ports, ["udp/5353", 9000])) == [
        "tcp/0.0.0.0:50000",
        "tcp/0.0.0.0:5353",
        "tcp/0.0.0.0:80",
        "tcp/[::]:80",
    ]


def test_listening_sockets_are_read_from_testinfras_list() -> None:
    listed = ["tcp://0.0.0.0:22", "tcp://:::80", "udp://127.0.0.53%lo:53", "unix:///run/x", "odd"]
    assert parse_listening(listed) == [
        tcp(22),
        tcp(80, "::"),
        tcp(53, "127.0.0.53%lo", protocol="udp"),
    ]
    assert not port_problem(tcp(53, "127.0.0.53", protocol="udp"), parse_listening(listed))


# --- filesystems, kernel -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        (filesystem("/", 95), ""),
        (filesystem("/", 96), "/ is 96 % full (38 MiB free), more than 95 %"),
        (filesystem("/", 9, inodes=99), "/ has 99 % of its inodes used, more than 95 %"),
        (None, "/ was mounted before and is not now"),
    ],
)
def test_a_filesystem_must_have_room(found: Filesystem | None, problem: str) -> None:
    assert fullness(found, "/", 95) == problem


def test_images_and_pseudo_filesystems_are_always_full_and_left_out() -> None:
    observation = seen(
        filesystems=(
            filesystem("/", 1),
            filesystem("/snap/core/1", 100),
            filesystem("/run", 1),
            filesystem("/runner", 1),
            Filesystem(mount="/empty", size=0, used=0, available=0),
        )
    )
    assert list(real_filesystems(observation)) == ["/", "/runner"]


@pytest.mark.parametrize(
    ("running", "installed", "pending"),
    [
        ("6.1.0-31-amd64", (), ""),
        ("6.1.0-31-amd64", ("6.1.0-9-amd64", "6.1.0-31-amd64"), ""),
        ("6.1.0-9-amd64", ("6.1.0-9-amd64", "6.1.0-31-amd64"), "6.1.0-31-amd64"),
        ("6.1.0-31-cloud-amd64", ("6.1.0-31-cloud-amd64", "6.1.0-31-amd64"), ""),
        ("6.1.0-30-cloud-amd64", ("6.1.0-30-cloud-amd64", "6.1.0-31-amd64"), "6.1.0-31-amd64"),
        ("6.8.0-host", ("6.1.0-31-amd64",), ""),
    ],
)
def test_a_pending_kernel_is_named(running: str, installed: tuple[str, ...], pending: str) -> None:
    assert newer_kernel(seen(kernel=running, kernels=installed)) == pending


# --- kernel log ----------------------------------------------------------------------------


@given(st.lists(st.text(max_size=40), max_size=8), st.lists(st.text(max_size=40), max_size=8))
def test_only_messages_of_a_new_kind_are_new(before: list[str], now: list[str]) -> None:
    fresh = new_kernel_errors(before, now, [])
    kinds = [normalised(message) for message in fresh]
    assert len(set(kinds)) == len(kinds)
    assert not set(kinds) & {normalised(message) for message in before}
    assert new_kernel_errors([*before, *fresh], now, []) == []


def test_ignored_kernel_messages_do_not_count() -> None:
    assert new_kernel_errors([], ["nvme0: timeout", "oops"], [r"^nvme\d"]) == ["oops"]


def test_what_a_kernel_says_of_a_busy_host_is_not_the_upgrades() -> None:
    late = "..MP-BIOS bug: 8254 timer not connected to IO-APIC"
    assert new_kernel_errors([], [late, "oops"], []) == ["oops"]
