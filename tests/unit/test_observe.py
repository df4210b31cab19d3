"""Observations: the script in real shells, its parser on real and hostile output."""

from __future__ import annotations

import string
from functools import cmp_to_key
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.core.errors import GuestUnreachable
from sandbox.core.records import Filesystem, Observation, Package, Port, Start
from sandbox.observe.observation_parse import compare_versions, kernels_of, parse
from tests.support.paths import DATA

MARK = "%%mark%%"
MINIMUM = f"{MARK} boot_id\n00000000-0000-4000-8000-000000000000\n{MARK} kernel\n6.1.0-37-amd64\n"


def parsed(sections: str, own_port: int = 0) -> Observation:
    """Sections written as "@name" lines, after the least that a guest says."""
    return parse(MINIMUM + sections.replace("@", f"{MARK} "), MARK, own_port=own_port)


# --- the script, on this machine ------------------------------------------------------------


# --- the parser -----------------------------------------------------------------------------


def test_a_real_guest() -> None:
    seen = parse((DATA / "observe-debian.txt").read_text(), MARK, own_port=43217)
    assert seen.kernels == ("6.1.0-9-cloud-amd64", "6.1.0-37-cloud-amd64")
    assert (seen.kernel, seen.reboot_required) == ("6.1.0-9-cloud-amd64", True)
    assert (seen.state, seen.target, seen.target_reached) == ("degraded", "graphical.target", True)
    assert seen.boot_seconds == pytest.approx(17.512345)
    assert seen.uptime == 71.33
    assert seen.packages["nginx:amd64"] == Package(version="1.22.1-9")
    assert seen.not_configured == ("broken:all",)
    assert seen.held == ("nginx",)
    assert seen.units["nginx.service"] == "active/running"
    assert seen.units["odd\\x2dname.service"] == "failed/failed"
    assert "missing.service" not in seen.units
    assert seen.failed_units == ("odd\\x2dname.service",)
    assert seen.ports == (
        Port(protocol="tcp", address="::", port=22, process="sshd"),
        Port(protocol="tcp", address="0.0.0.0", port=80, process="nginx"),
        Port(protocol="tcp", address="::", port=443, process="nginx"),
        Port(protocol="udp", address="127.0.0.53", port=53, process="systemd-resolve"),
        Port(protocol="udp", address="fe80::1", port=546, process=""),
    )
    assert seen.conffiles == {
        "/etc/gone.conf": "missing",
        "/etc/nginx/nginx.conf": "d41d8cd98f00b204e9800998ecf8427e",
        "/etc/with space": "c9f0f895fb98ab9159f51fd0297e236d",
    }
    assert seen.filesystems == (
        Filesystem(mount="/", size=3145728 * 1024, used=1048576 * 1024,
                   available=1992294 * 1024, inodes_percent=12),
        Filesystem(mount="/boot/efi", size=102400 * 1024, used=5120 * 1024,
                   available=97280 * 1024),
        Filesystem(mount="/srv/with space", size=1024000, used=512000, available=512000,
                   inodes_percent=1),
    )  # fmt: skip
    assert seen.kernel_errors == ("ACPI: bad table", "ata1: failed to resume link")
    assert seen.journal_errors == ("nginx: something broke",)
    assert seen.stale_processes == ("dbus-daemon", "nginx")


def test_a_socket_is_the_oldest_processes_and_not_systemds() -> None:
    seen = parsed("""\
@ss
tcp LISTEN 0 100 0.0.0.0:25 0.0.0.0:* users:(("smtpd",pid=900,fd=6),("master",pid=400,fd=13))
tcp LISTEN 0 100 0.0.0.0:631 0.0.0.0:* users:(("cupsd",pid=500,fd=3),("systemd",pid=1,fd=50))
tcp LISTEN 0 100 0.0.0.0:80 0.0.0.0:* users:(("systemd",pid=1,fd=51))
tcp LISTEN 0 100 0.0.0.0:81 0.0.0.0:* users:(("new",7,8),("b",9,9))
tcp LISTEN 0 100 0.0.0.0:82 0.0.0.0:* uid:33
""")
    assert {port.port: port.process for port in seen.ports} == {
        25: "master",
        80: "systemd",
        81: "new",
        82: "",
        631: "cupsd",
    }


def test_restarts_by_systemd_itself() -> None:
    seen = parsed("""\
@restarts
Id=a.service
NRestarts=3
NRestarts=0
Id=b.service
NRestarts=2
Id=c.service
Id=d.socket
NRestarts=9
Id=e.service
""")
    assert seen.restarts == {"a.service": 3, "c.service": 2}


def test_when_services_were_started_last() -> None:
    seen = parsed("""\
@restarts
Id=a.service
NRestarts=0
InactiveExitTimestampMonotonic=14000000
ActiveEnterTimestampMonotonic=14500000
ActiveExitTimestampMonotonic=0
Id=b.service
ActiveEnterTimestampMonotonic=0
Id=c.socket
ActiveEnterTimestampMonotonic=5
Id=d.service
ActiveEnterTimestampMonotonic=n/a
""")
    assert seen.starts == {"a.service": Start(stopped=0.0, began=14.0, ready=14.5)}


def test_links_tell_what_is_enabled_and_masked() -> None:
    seen = parsed("""\
@links
/etc/systemd/system/multi-user.target.wants/nginx.service
/etc/systemd/system/a.service.requires/b.socket
/etc/systemd/system/c.timer
/etc/systemd/system/odd
""")
    assert seen.enabled == ("b.socket", "nginx.service")
    assert seen.masked == ("c.timer",)


def test_sockets_from_proc() -> None:
    seen = parsed("""\
@net_tcp
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1
   1: 0100007F:9C40 0100007F:0016 01 00000000:00000000 00:00000000 00000000     0        0 2
@net_tcp6
   0: 000080FE00000000FF005450563412FE:0050 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0
   1: 00000000000000000000000000000000:01BB 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0
@net_udp
   7: 00000000:0044 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 3
""")
    assert seen.ports == (
        Port(protocol="tcp", address="127.0.0.1", port=22),
        Port(protocol="tcp", address="fe80::5054:ff:fe12:3456", port=80),
        Port(protocol="tcp", address="::", port=443),
        Port(protocol="udp", address="0.0.0.0", port=68),
    )


def test_mounts_that_somebody_made() -> None:
    seen = parsed("""\
@mounts
/dev/vda1 / ext4 rw,relatime 0 0
tmpfs /run tmpfs rw,size=5k 0 0
tmpfs /run/lock tmpfs rw 0 0
tmpfs /tmp tmpfs rw,nosuid 0 0
proc /proc proc rw 0 0
nas:/a /srv/with\\040space nfs4 rw 0 0
odd
""")
    assert seen.mounts == {
        "/": "ext4 rw,relatime",
        "/tmp": "tmpfs rw,nosuid",
        "/srv/with space": "nfs4 rw",
    }


def test_rpm_keeps_several_versions_of_one_name() -> None:
    seen = parsed(
        "@rpm\nkernel\tx86_64\t5.14-2\tinstalled\tinstall\n"
        "kernel\tx86_64\t5.14-1\tinstalled\tinstall\n"
    )
    assert seen.packages == {"kernel:x86_64": Package(version="5.14-1 5.14-2")}


def test_reboot_required() -> None:
    assert not parsed("@kernels\nvmlinuz-6.1.0-37-amd64\nvmlinuz-6.1.0-9-amd64\n").reboot_required
    assert parsed("@kernels\nvmlinuz-6.1.0-38-amd64\n").reboot_required
    assert parsed("@reboot_required\nyes\n").reboot_required
    assert not parsed("").reboot_required


def test_a_guest_still_starting() -> None:
    seen = parsed(
        "@manager\nSystemState=starting\n@target\nId=multi-user.target\nActiveState=inactive"
    )
    assert (seen.state, seen.target_reached, seen.boot_seconds) == ("starting", False, 0.0)


@pytest.mark.parametrize(
    "text",
    ["", "junk", f"{MARK} boot_id\nnot a uuid\n{MARK} kernel\n6.1\n", f"{MARK} kernel\n6.1\n",
     MINIMUM.replace("6.1.0", "6.1\x1b[0m;0")],
)  # fmt: skip
def test_an_answer_that_is_none(text: str) -> None:
    with pytest.raises(GuestUnreachable, match="did not answer"):
        parse(text, MARK)


def test_hostile_values_are_cleaned_and_limited() -> None:
    seen = parsed(
        "@stale\n\x1b[31mred\x07\n" + "x" * 100_000 + "\n@journal\n"
        + "".join(f"error {n}\n" for n in range(5000))
        + "@units\nevil.service loaded active running\x1b]0;title\x07\n"
    )  # fmt: skip
    assert seen.stale_processes == ("red", "x" * 500)
    assert len(seen.journal_errors) == 200
    assert seen.journal_errors[-1] == "error 4999"
    assert seen.units == {"evil.service": "active/running]0;title"}


WORDS = st.sampled_from(
    ["@units\n", "@ss\n", "@dpkg\n", "@df\n", "@inodes\n", "@mounts\n", "@net_tcp6\n",
     "@md5sums\n", "@conffiles\n", "@kernels\n", "@manager\n", "@uptime\n", "@kernel_log\n",
     "@journal\n", "tcp ", "LISTEN ", "0 ", "1:99999 ", "[::]:", "a.service ", "loaded ", "\t",
     "\n", "/", "%", "-", "9" * 30, "²", "FinishTimestampMonotonic=", "vmlinuz-", "0: ", "0" * 32,
     ":", "0050 ", "0A ", "=", "\\040", "\\999", "\x00", "\ud800", "users:((\"x\"", "~", "rc"]
)  # fmt: skip


@given(st.lists(st.one_of(WORDS, st.text(max_size=10)), max_size=60).map("".join))
def test_junk_never_breaks_the_parser(junk: str) -> None:
    seen = parsed(junk)
    seen.model_dump_json()
    assert seen.kernel == "6.1.0-37-amd64"


@given(st.text(max_size=400))
def test_junk_without_a_mark_is_unreachable(junk: str) -> None:
    with pytest.raises(GuestUnreachable):
        parse(junk, MARK)


# --- kernel versions ------------------------------------------------------------------------


def test_kernels_newest_last() -> None:
    names = [
        "vmlinuz-6.1.0-37-amd64", "vmlinuz-6.1.0-9-amd64", "vmlinuz-6.12.38+deb13-amd64",
        "vmlinuz-6.1.0-37-cloud-amd64", "vmlinuz-5.10.0-20-amd64", "vmlinuz-6.2.0-rc1",
        "vmlinuz-6.2.0", "vmlinuz-0-rescue-abc", "vmlinuz-6.1.0-37-amd64.old", "vmlinuz-",
    ]  # fmt: skip
    assert kernels_of(names) == (
        "5.10.0-20-amd64", "6.1.0-9-amd64", "6.1.0-37-amd64", "6.1.0-37-cloud-amd64", "6.2.0-rc1",
        "6.2.0", "6.12.38+deb13-amd64",
    )  # fmt: skip


@given(st.lists(st.text(string.ascii_lowercase + "0123456789.-~rc", max_size=8), max_size=6))
def test_the_order_is_an_order(versions: list[str]) -> None:
    once = sorted(versions, key=cmp_to_key(compare_versions))
    backwards = list(reversed(once))
    assert sorted(backwards, key=cmp_to_key(compare_versions)) == once
    for older, newer in pairwise(once):
        assert compare_versions(older, newer) <= 0
