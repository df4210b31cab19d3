"""What matters comes first: each kind of difference, its severity, and its one sentence."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox.core.records import (
    Certificate,
    Observation,
    Package,
    PackageChange,
    Port,
    Wide,
)
from sandbox.verdict.diff import Differences, compare, without_drift
from sandbox.verdict.diff_kinds import (
    CertificateChange,
    Change,
    ConffileChange,
    Fate,
    FilesystemChange,
)
from sandbox.verdict.severity import DiffSeverity, GradedLine, ranked, tally

HIGH, MEDIUM, LOW = DiffSeverity


def seen(**values: Any) -> Observation:
    """With nothing to be seen beside the checks, unless told otherwise."""
    return Observation(boot_id="b", **({"kernel": "6.1", "wide": Wide()} | values))


def wide(**values: Any) -> Observation:
    return seen(wide=Wide(**values))


def told(before: Observation, after: Observation) -> list[tuple[DiffSeverity, str]]:
    return [(line.severity, line.text) for line in ranked(compare(before, after))]


def port(address: str, number: int = 80, protocol: str = "tcp", process: str = "nginx") -> Port:
    return Port(protocol=protocol, address=address, port=number, process=process)


# --- one of each kind ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "severity", "text"),
    [
        ({}, {"failed_units": ("a.service",)}, HIGH, "a.service failed"),
        (
            {"units": {"a.service": "active/running"}},
            {"units": {"a.service": "inactive/dead"}},
            HIGH,
            "a.service is inactive/dead, before active/running",
        ),
        (
            {"units": {"a.timer": "active/waiting"}},
            {},
            MEDIUM,
            "a.timer is absent, before active/waiting",
        ),
        (
            {"units": {"a.service": "inactive/dead"}},
            {"units": {"a.service": "active/running"}},
            LOW,
            "a.service is active/running, before inactive/dead",
        ),
        ({"enabled": ("a.timer",)}, {}, MEDIUM, "a.timer is not enabled any more"),
        ({}, {"enabled": ("a.timer",)}, MEDIUM, "a.timer is enabled now"),
        ({}, {"masked": ("a.timer",)}, MEDIUM, "a.timer is masked now"),
        ({"state": "running"}, {"state": "degraded"}, MEDIUM,
         "the system's state is degraded, before running"),
        ({"ports": (port("0.0.0.0"),)}, {}, HIGH, "port tcp 0.0.0.0:80 (nginx) is closed now"),
        ({}, {"ports": (port("::"),)}, HIGH,
         "port tcp :::80 (nginx) is open now, on all addresses"),
        ({}, {"ports": (port("127.0.0.1"),)}, LOW, "port tcp 127.0.0.1:80 (nginx) is open now"),
        ({}, {"ports": (port("192.0.2.1"),)}, MEDIUM, "port tcp 192.0.2.1:80 (nginx) is open now"),
        ({}, {"ports": (port("::", 40000, "udp"),)}, LOW,
         "port udp :::40000 (nginx) is open now"),
        ({}, {"ports": (port("::", 41000, process="rpc.statd"),)}, LOW,
         "port tcp :::41000 (rpc.statd) is open now"),
        ({"ports": (port("0.0.0.0", 41000, process=""),)}, {}, LOW,
         "port tcp 0.0.0.0:41000 is closed now"),
        ({}, {"ports": (port("::", 41000, process="java"),)}, HIGH,
         "port tcp :::41000 (java) is open now, on all addresses"),
        ({"ports": (port("::"),)}, {"ports": (port("::", process="apache2"),)}, HIGH,
         "port tcp :::80 is apache2's now, nginx's before"),
        (
            {"ports": (port("::"),), "packages": {"nginx:amd64": Package(version="1.22")}},
            {"ports": (port("::"),), "packages": {"nginx:amd64": Package(version="1.26")}},
            LOW,
            "nginx on tcp :::80 is 1.26 now, before 1.22",
        ),
        ({"packages": {"a:all": Package(version="1")}}, {}, HIGH, "a 1 was removed"),
        (
            {},
            {"packages": {"a:all": Package(version="1", status="unpacked")}},
            HIGH,
            "a:all is half-configured",
        ),
        (
            {"mounts": {"/": "ext4 rw", "/srv": "nfs4 rw"}},
            {"mounts": {"/": "ext4 rw"}},
            HIGH,
            "/srv is not mounted any more (nfs4 rw)",
        ),
        (
            {"mounts": {"/": "ext4 rw"}},
            {"mounts": {"/": "ext4 ro"}},
            MEDIUM,
            "/ is mounted as ext4 ro, before ext4 rw",
        ),
        ({"boot_seconds": 20}, {"boot_seconds": 31}, MEDIUM, "the boot takes 31 s, before 20 s"),
        ({"kernel": "1"}, {"kernel": "2"}, LOW, "kernel 2 runs, before 1"),
        ({}, {"kernel_errors": ("bad",)}, MEDIUM, "new kernel error: bad"),
        ({}, {"journal_errors": ("bad",)}, LOW, "new log error: bad"),
        ({}, {"reboot_required": True}, MEDIUM, "the guest asks for a reboot"),
        ({}, {"stale_processes": ("cron",)}, MEDIUM, "cron still runs old libraries"),
    ],
)  # fmt: skip
def test_what_every_guest_tells(
    before: dict[str, Any], after: dict[str, Any], severity: DiffSeverity, text: str
) -> None:
    assert told(seen(**before), seen(**after)) == [(severity, text)]


CERTIFICATE = Certificate(fingerprint="a", subject="CN=web", expires=2335219200.0)
SOONER = CERTIFICATE.model_copy(update={"fingerprint": "b", "expires": 2240611200.0})


@pytest.mark.parametrize(
    ("before", "after", "severity", "text"),
    [
        ({"users": {}}, {"users": {"eve": "0:0:/bin/sh"}}, HIGH,
         "user eve is new: it has the rights of root (uid 0)"),
        ({"users": {}}, {"users": {"deploy": "1000:1000:/bin/bash"}}, HIGH,
         "user deploy is new and can log in (/bin/bash)"),
        ({"users": {"www": "33:33:/usr/sbin/nologin"}}, {"users": {"www": "33:33:/bin/sh"}}, HIGH,
         "user www is 33:33:/bin/sh, before 33:33:/usr/sbin/nologin and can log in (/bin/sh)"),
        ({"users": {}}, {"users": {"_apt": "42:1:/usr/sbin/nologin"}}, LOW,
         "user _apt is new, without a login"),
        ({"users": {"a": "9:9:/bin/sh"}}, {"users": {}}, MEDIUM, "user a is gone"),
        ({"groups": {"sudo": "27:"}}, {"groups": {"sudo": "27:eve"}}, HIGH,
         "group sudo has new members: eve"),
        ({"groups": {}}, {"groups": {"games": "60:"}}, LOW, "group games is new"),
        ({"groups": {"www": "33:ann,bob"}}, {"groups": {"www": "34:bob,eve"}}, LOW,
         "group www has the number 34, before 33 and has new members: eve "
         "and has lost members: ann"),
        ({"groups": {"www": "33:ann,bob"}}, {"groups": {"www": "33:bob,ann"}}, LOW,
         "group www names its members in another way"),
        ({"modes": {"/etc/shadow": "640 root shadow"}}, {"modes": {"/etc/shadow": "644 root root"}},
         HIGH, "/etc/shadow is 644 root root, before 640 root shadow"),
        ({"modes": {"/etc/a": "644 root root"}}, {"modes": {"/etc/a": "666 root root"}},
         HIGH, "/etc/a is 666 root root, before 644 root root"),
        ({"modes": {"/etc/a": "644 root root"}}, {"modes": {"/etc/a": "644 www root"}},
         MEDIUM, "/etc/a is 644 www root, before 644 root root"),
        ({"modes": {"/etc/a": "640 root root"}}, {"modes": {"/etc/a": "644 root root"}},
         MEDIUM, "/etc/a is 644 root root, before 640 root root"),
        ({"modes": {"/etc/a": "644 root root"}}, {"modes": {"/etc/a": "640 root root"}},
         LOW, "/etc/a is 640 root root, before 644 root root"),
        ({}, {"modes": {"/etc/sudoers.d/eve": "440 root root", "/etc/new": "644 root root"}},
         HIGH, "/etc/sudoers.d/eve is new (440 root root)"),
        ({"modules": ("virtio_net",)}, {}, MEDIUM,
         "kernel module virtio_net is not loaded any more"),
        ({"modules": ("pcspkr",)}, {}, LOW, "kernel module pcspkr is not loaded any more"),
        ({}, {"modules": ("pcspkr",)}, LOW, "kernel module pcspkr is loaded now"),
        ({"settings": {"net.ipv4.ip_forward": "0", "gone": "1"}},
         {"settings": {"net.ipv4.ip_forward": "1", "new": "1"}}, MEDIUM,
         "net.ipv4.ip_forward is 1, before 0"),
        ({"certificates": {"/a": CERTIFICATE}}, {"certificates": {"/a": SOONER}}, HIGH,
         "certificate /a was replaced (CN=web, valid until 2041-01-01, "
         "sooner than before: 2044-01-01)"),
        ({"certificates": {"/a": CERTIFICATE}}, {}, HIGH, "certificate /a is gone"),
        ({}, {"certificates": {"/a": CERTIFICATE}}, LOW,
         "certificate /a is new (CN=web, valid until 2044-01-01)"),
        ({"memory_used": 400 << 20}, {"memory_used": 600 << 20}, MEDIUM,
         "600 MiB of memory are in use, before 400 MiB"),
    ],
)  # fmt: skip
def test_what_is_told_beside_the_checks(
    before: dict[str, Any], after: dict[str, Any], severity: DiffSeverity, text: str
) -> None:
    assert told(wide(**before), wide(**after)) == [(severity, text)]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"memory_used": 20 << 20}, {"memory_used": 40 << 20}),
        ({"memory_used": 400 << 20}, {"memory_used": 480 << 20}),
        ({"memory_used": 0}, {"memory_used": 600 << 20}),
        ({"modes": {"/etc/a": "644 root root"}}, {}),
        ({}, {"modes": {"/etc/a": "644 root root"}}),
    ],
)
def test_what_is_not_worth_a_line(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert told(wide(**before), wide(**after)) == []


def test_a_slow_boot_and_much_memory_on_the_control_too_are_not_the_upgrades() -> None:
    before = wide(memory_used=400 << 20).model_copy(update={"boot_seconds": 20})
    after = wide(memory_used=600 << 20).model_copy(update={"boot_seconds": 40})
    found = compare(before, after)
    assert len(ranked(found)) == 2
    assert ranked(without_drift(found, compare(before, before))) == ranked(found)
    assert ranked(without_drift(found, found)) == ()


@pytest.mark.parametrize("before", [wide(users={"a": "0:0:/bin/sh"}), seen(wide=None)])
def test_what_was_not_seen_twice_is_not_compared_and_that_is_said(before: Observation) -> None:
    assert told(seen(), seen()) == []
    ((severity, text),) = told(before, seen(wide=None))
    assert severity is LOW
    assert "not compared" in text
    assert ("both times" in text) == (before.wide is not None)


# --- three sides of a configuration file -------------------------------------------------------


def test_what_ucf_puts_beside_a_file_lies_there_too() -> None:
    def side(package: str, *names: str) -> Observation:
        modes = dict.fromkeys(names, "644 root root")
        return seen(
            conffiles={"/etc/f": "mine"}, wide=Wide(modes=modes, shipped={"/etc/f": package})
        )

    (change,) = compare(side("a"), side("b", "/etc/f.ucf-dist")).conffiles
    assert change.fate is Fate.KEPT


@pytest.mark.parametrize(
    ("shipped", "here", "beside", "fate", "severity"),
    [
        (("a", "b"), ("a", "b"), False, Fate.UPDATED, LOW),
        (("a", "b"), ("mine", "b"), False, Fate.REPLACED, MEDIUM),
        (("a", "b"), ("mine", "mine"), True, Fate.KEPT, MEDIUM),
        (("a", "b"), ("mine", "mine"), False, Fate.BEHIND, LOW),
        (("a", "b"), ("b", "b"), False, Fate.AHEAD, LOW),
        (("a", "b"), ("b", "b"), True, Fate.AHEAD, LOW),
        (("a", "a"), ("a", "odd"), False, Fate.SCRIPT, MEDIUM),
        (("a", "b"), ("mine", "odd"), True, Fate.SCRIPT, MEDIUM),
        ((None, "b"), (None, "b"), False, Fate.NEW, LOW),
        (("a", None), ("a", None), False, Fate.GONE, MEDIUM),
        (("a", "b"), ("a", "missing"), False, Fate.GONE, MEDIUM),
        ((None, None), ("a", "b"), False, Fate.CHANGED, MEDIUM),
        (("a", "a"), ("mine", "mine"), True, None, None),
        ((None, "b"), ("a", "a"), False, None, None),
    ],
)
def test_a_conffile_as_shipped_and_as_it_is_here(
    shipped: tuple[str | None, str | None],
    here: tuple[str | None, str | None],
    beside: bool,
    fate: Fate | None,
    severity: DiffSeverity | None,
) -> None:
    def side(number: int) -> Observation:
        modes = {"/etc/f.dpkg-dist": "644 root root"} if beside and number else {}
        package, content = shipped[number], here[number]
        return seen(
            conffiles={"/etc/f": content} if content else {},
            wide=Wide(modes=modes, shipped={"/etc/f": package} if package else {}),
        )

    found = compare(side(0), side(1))
    assert [change.fate for change in found.conffiles] == ([fate] if fate else [])
    assert [line.severity for line in ranked(found)] == ([severity] if severity else [])


def test_what_changed_a_file_on_the_control_too_is_left_out_whatever_its_package_ships() -> None:
    def side(content: str, package: str) -> Observation:
        return seen(conffiles={"/etc/f": content}, wide=Wide(shipped={"/etc/f": package}))

    found = compare(side("a", "x"), side("b", "y"))
    assert found.conffiles
    assert without_drift(found, compare(side("a", "x"), side("b", "x"))).conffiles == ()


# --- the list ----------------------------------------------------------------------------------


def test_many_of_a_kind_share_a_line_that_names_each() -> None:
    paths = [f"/etc/ssl/certs/{n}.pem" for n in range(37)]
    before = wide(modes=dict.fromkeys(paths, "644 root root"))
    after = wide(modes=dict.fromkeys(paths, "600 root root"))
    (line,) = ranked(compare(before, after))
    assert line.text == "37 files beneath /etc/ssl/certs have another mode"
    assert set(line.items) == set(paths)


def test_a_lost_mount_is_told_once() -> None:
    before = seen(
        mounts={"/": "ext4 rw", "/srv/a-b": "ext4 rw", "/opt": "ext4 rw"},
        units={
            "srv-a\\x2db.mount": "active/mounted",
            "opt.mount": "active/mounted",
            "-.mount": "active/mounted",
        },
    )
    after = seen(mounts={"/": "ext4 rw"}, units={"-.mount": "active/mounted"})
    assert told(before, after) == [
        (HIGH, "/opt is not mounted any more (ext4 rw)"),
        (HIGH, "/srv/a-b is not mounted any more (ext4 rw)"),
    ]


def test_the_tally() -> None:
    lines = [GradedLine(severity=s, text="x") for s in (HIGH, LOW, LOW)]
    assert tally(lines) == "1 high, 2 low"
    assert tally([]) == ""


def test_every_kind_of_change_has_a_sentence_for_many() -> None:
    many = range(5)
    found = Differences(
        packages=tuple(PackageChange(name=f"p{n}", old="1") for n in many),
        conffiles=tuple(
            ConffileChange(name=f"/etc/{fate}/{n}", fate=fate) for fate in Fate for n in many
        ),
        filesystems=tuple(
            FilesystemChange(
                mount=f"/{n}", used_before=0, used_after=1, percent_before=0, percent_after=1
            )
            for n in many
        ),
        users=tuple(Change(name=f"u{n}", after="0:0:/bin/sh") for n in many),
        certificates=tuple(CertificateChange(path=f"/{n}", after=CERTIFICATE) for n in many),
    )
    lines = ranked(found)
    assert len(lines) == 4 + len(Fate)
    assert all(line.text.startswith("5 ") and "{" not in line.text for line in lines)
