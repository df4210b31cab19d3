"""The preflight: its script in real shells and with a real apt, its parser on hostile output."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.core.deadline import Deadline
from sandbox.core.errors import GuestUnreachable
from sandbox.core.records import Start
from sandbox.managers import UpgradeRequest
from sandbox.managers.apt_parse import restarts_of
from sandbox.preflight.judge import judge
from sandbox.preflight.parse import GuestSurvey, parse, plan_of, services_in
from sandbox.preflight.points import Preflight, PreflightSeverity
from tests.support.fakes.apt_world import AptWorld
from tests.support.fakes.local_shell import LocalShell
from tests.support.fakes.preflight_world import (
    EVERYTHING,
    MARK,
    SCRIPT,
    SHELLS,
    asked,
    offered,
    parsed,
    refresh,
    topics,
)

# --- the script, on this machine and with real apt --------------------------------------------


@pytest.mark.parametrize("interpreter", SHELLS, ids=lambda argv: argv[0])
def test_this_machine(interpreter: tuple[str, ...]) -> None:
    shell = LocalShell(interpreter)
    answer = shell.run(SCRIPT, Deadline(60, "preflight"), args=(MARK, "script"))
    seen = parse(answer.stdout, MARK)
    assert (answer.status, answer.stderr) == (0, "")
    assert seen.kernel == platform.release()
    disk = os.statvfs("/var/cache/apt/archives")
    assert abs(seen.space["/var/cache/apt/archives"].free - disk.f_bavail * disk.f_frsize) < 1 << 30
    assert set(seen.disks) <= set(os.listdir("/sys/block"))
    assert not seen.asked, "a script is not simulated"


def listing(folder: Path) -> dict[str, tuple[object, ...]]:
    """All that is beneath a folder, content and times."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(folder.rglob("*")):
        facts = path.lstat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path)] = (facts.st_mode, facts.st_mtime_ns, facts.st_ctime_ns, content)
    return found


def notes(found: Preflight) -> list[str]:
    return [point.text for point in found.points if point.severity is PreflightSeverity.NOTE]


def test_apt_is_asked_and_nothing_of_the_guest_changes(open_world: AptWorld) -> None:
    offered(open_world)
    before = listing(open_world.root)
    shell = LocalShell(("sh",), env=open_world.env)
    found = asked(shell, EVERYTHING)
    assert listing(open_world.root) == before
    assert len(shell.scripts) == 1, "one round trip"
    assert not any(text.startswith("apt ran as root") for text in notes(found))
    assert [(c.name, c.old, c.new) for c in found.changes] == [
        ("lib", "1.0", "1.1"),
        ("newdep", None, "1"),
        ("web", "1.0", "2.0"),
    ]
    assert not found.blocked, found.points
    warnings = topics(found, PreflightSeverity.WARNING)
    assert warnings["held"] == "on hold, and not upgraded: pinned"
    assert "/etc/web.conf (web)" in warnings["conffiles"]
    assert not any("same.conf" in point.text for point in found.points)


def test_apt_writes_no_cache_even_where_it_has_none(open_world: AptWorld) -> None:
    offered(open_world)
    for cache in (open_world.root / "var/cache/apt").glob("*.bin"):
        cache.unlink()
    before = listing(open_world.root)
    assert asked(LocalShell(("sh",), env=open_world.env), EVERYTHING).changes
    assert listing(open_world.root) == before


def test_what_nobody_may_read_is_read_by_root_who_writes_nothing_either(
    open_world: AptWorld,
) -> None:
    """Package sources with a password in them, and an apt that has no cache."""
    offered(open_world)
    (open_world.root / "etc/apt/sources.list.d/guest.list").chmod(0o600)
    for cache in (open_world.root / "var/cache/apt").glob("*.bin"):
        cache.unlink()
    before = listing(open_world.root)
    found = asked(LocalShell(("sh",), env=open_world.env), EVERYTHING)
    assert [change.name for change in found.changes] == ["lib", "newdep", "web"], found.points
    assert listing(open_world.root) == before
    as_root = any(text.startswith("apt ran as root") for text in notes(found))
    assert as_root is (os.geteuid() == 0), found.points


def test_how_old_the_lists_are_is_said_by_when_they_were_fetched(open_world: AptWorld) -> None:
    """Not by the archive's own times, which in this world are years ago."""
    offered(open_world)
    found = asked(LocalShell(("sh",), env=open_world.env), EVERYTHING)
    assert not any(point.topic == "package lists" for point in found.points)
    seen = parsed(f"@now\n{10 * 86_400}\n@lists\n{7 * 86_400 + 5}\n@plan\n")
    (note,) = [p for p in judge(seen, "web01", EVERYTHING).points if p.topic == "package lists"]
    assert "2 days old" in note.text


def test_only_security_updates_are_judged_when_only_they_are_asked_for(
    open_world: AptWorld,
) -> None:
    offered(open_world)
    # The archive's real lists have the suite in their names; this one has only its folder.
    assert list((open_world.root / "var/lib/apt/lists").glob("*security*Packages"))
    found = asked(LocalShell(("sh",), env=open_world.env), UpgradeRequest("security"))
    assert [change.name for change in found.changes] == ["lib", "newdep"]


def test_updates_that_are_no_security_updates_are_none_when_only_those_are_asked_for(
    open_world: AptWorld,
) -> None:
    open_world.install(open_world.build("web", "1.0"))
    open_world.offer(open_world.main, open_world.build("web", "2.0"))
    refresh(open_world)
    found = asked(LocalShell(("sh",), env=open_world.env), UpgradeRequest("security"))
    assert found.changes == ()
    assert "nothing to upgrade" in topics(found, PreflightSeverity.NOTE)["packages"]


def test_security_updates_are_found_in_compressed_lists_too(open_world: AptWorld) -> None:
    offered(open_world)
    lists = open_world.root / "var/lib/apt/lists"
    for file in lists.glob("*_Packages"):
        subprocess.run(["gzip", "-n", file], check=True)
    with (open_world.folder / "apt.conf").open("a") as conf:
        conf.write('Acquire::GzipIndexes "true";\n')
    found = asked(LocalShell(("sh",), env=open_world.env), UpgradeRequest("security"))
    assert [change.name for change in found.changes] == ["lib", "newdep"], found.points


def test_what_apt_refuses_blocks(open_world: AptWorld) -> None:
    offered(open_world)
    request = UpgradeRequest("packages", packages=("no-such-package",))
    found = asked(LocalShell(("sh",), env=open_world.env), request)
    assert found.blocked
    assert "no-such-package" in topics(found, PreflightSeverity.BLOCKER)["packages"]


def test_what_the_scenario_keeps_and_what_is_removed(open_world: AptWorld) -> None:
    offered(open_world)
    clash = open_world.build("clash", "1")
    control = open_world.debs / "clash-1" / "DEBIAN" / "control"
    control.write_text(control.read_text().replace("Description", "Conflicts: web\nDescription"))
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-b", open_world.debs / "clash-1", clash],
        check=True,
        capture_output=True,
    )
    open_world.offer(open_world.main, clash)
    refresh(open_world)
    request = UpgradeRequest("packages", packages=("clash",))
    found = asked(LocalShell(("sh",), env=open_world.env), request, keep=("we*",))
    assert (
        topics(found, PreflightSeverity.WARNING)["removed"] == "the upgrade removes 1 package: web"
    )
    assert "the scenario keeps web" in topics(found, PreflightSeverity.BLOCKER)["packages"]


def test_a_guest_without_lists_is_not_called_up_to_date(open_world: AptWorld) -> None:
    open_world.install(open_world.build("web", "1.0"))
    found = asked(LocalShell(("sh",), env=open_world.env), EVERYTHING)
    assert "no package lists" in topics(found, PreflightSeverity.WARNING)["package lists"]
    assert not any("nothing to upgrade" in point.text for point in found.points)


def test_a_package_left_half_way_blocks(open_world: AptWorld) -> None:
    broken = open_world.build("broken", "1.0", postinst="exit 1\n")
    with pytest.raises(subprocess.CalledProcessError):
        open_world.install(broken)
    found = asked(LocalShell(("sh",), env=open_world.env), EVERYTHING)
    assert (
        topics(found, PreflightSeverity.BLOCKER)["dpkg"] == "dpkg left 1 package half-way: broken"
    )


def test_a_service_that_a_script_restarts_is_named(open_world: AptWorld) -> None:
    """The services of this machine's systemd, if any, are others: the text alone is tried here."""
    script = "#!/bin/sh\ndeb-systemd-invoke $_dh_action 'web.service' >/dev/null || true\n"
    open_world.install(open_world.build("web", "1.0", postinst=f"exit 0\n{script}"))
    open_world.offer(open_world.main, open_world.build("web", "2.0"))
    refresh(open_world)
    shell = LocalShell(("sh",), env=open_world.env)
    answer = shell.run(SCRIPT, Deadline(60, "preflight"), args=(MARK, "all"))
    lines = [line for line in answer.stdout.splitlines() if ".postinst:" in line]
    assert restarts_of(lines, ["web.service"]) == {"web.service": "web"}


# --- the parser -------------------------------------------------------------------------------


def test_a_plan_with_versions() -> None:
    changes, kept_back = plan_of(PLAN.splitlines())
    assert [(c.name, c.architecture, c.old, c.new) for c in changes] == [
        ("gone", "", "0.9", None),
        ("libfoo", "i386", "1.0", "1.1"),
        ("linux-image-6.1.0-56-amd64", "", None, "6.1.192-2"),
        ("nginx", "", "1.22.1-9", "1.22.1-9+deb12u2"),
        ("older", "", "2.0", "1.0"),
        ("purged", "", "1", None),
    ]
    assert kept_back == ("stays",)


PLAN = """\
Reading package lists...
Calculating upgrade...
The following packages were automatically installed and are no longer required:
   unneeded (1.0)
Use 'apt autoremove' to remove it.
The following packages will be REMOVED:
   gone (0.9)
   purged* (1)
The following NEW packages will be installed:
   linux-image-6.1.0-56-amd64 (6.1.192-2)
The following packages have been kept back:
   stays (1.0 => 2.0)
The following packages will be upgraded:
   libfoo:i386 (1.0 => 1.1)
   nginx (1.22.1-9 => 1.22.1-9+deb12u2)
The following packages will be DOWNGRADED:
   older (2.0 => 1.0)
2 upgraded, 1 newly installed, 1 downgraded, 2 to remove and 1 not upgraded.
Need to get 39.7 MB of archives.
After this operation, 1,308 kB of additional disk space will be used.
'http://deb.example.org/nginx.deb' nginx_1.deb 532468 
"""  # noqa: W291 - so apt ends its lines


def test_sizes_are_read_from_the_same_plan() -> None:
    seen = parsed("@lists\n1\n@plan\n" + PLAN)
    assert (seen.download, seen.growth) == (532468, 1_308_000)
    freed = parsed("@plan\nAfter this operation, 12.5 MB disk space will be freed.\n")
    assert freed.growth == -12_500_000
    assert not any("http://" in line for line in seen.said)


def test_a_mkinitramfs_that_asks_for_the_kernels_zstd_is_known(tmp_path: Path) -> None:
    """As initramfs-tools 0.142 does, and 0.140 did not."""
    (tmp_path / "usr/sbin").mkdir(parents=True)
    (tmp_path / "boot").mkdir()
    (tmp_path / "boot/config-6.1.0").write_text("CONFIG_MODULES=y\n# CONFIG_RD_ZSTD is not set\n")
    shell = LocalShell(("sh",), env={"DPKG_ROOT": str(tmp_path)})
    for line, asks in (("zstd)\tkconfig_sym=CONFIG_RD_ZSTD ;;", True), ("zstd) level=9", False)):
        (tmp_path / "usr/sbin/mkinitramfs").write_text(line + "\n")
        answer = shell.run(SCRIPT, Deadline(60, "preflight"), args=(MARK, "script"))
        seen = parse(answer.stdout, MARK)
        assert (seen.config, seen.mkinitramfs_asks) == ((("6.1.0", "MODULES"),), asks)


def test_a_df_that_fails_for_one_path_hides_no_lack_of_room_silently() -> None:
    row = "/dev/vda1 1000 900 100 90% /\n"
    whole = parsed(f"@paths\n/\n/usr\n@df\n{row}{row}")
    assert (set(whole.space), whole.df_error) == ({"/", "/usr"}, "")
    stale = parsed(f"@paths\n/\n/boot\n@df\n{row}df: /boot: Stale file handle\n")
    assert (stale.space, stale.df_error) == ({}, "df: /boot: Stale file handle")
    assert parsed(f"@paths\n/\n/boot\n@df\n{row}").df_error == "df said 1 lines of 2"


def test_a_hook_of_apt_that_remounts_is_for_its_own_mount_point() -> None:
    mounts = "/dev/a / ext4 ro,x 0 0\n/dev/b /usr ext4 ro 0 0\n/dev/c /var ext4 rw 0 0\n"
    hook = 'DPkg::Pre-Invoke:: "mount -o remount,rw /usr; true";\n'
    seen = parsed(f'@mounts\n{mounts}@hooks\nDPkg::Pre-Invoke "";\n{hook}')
    assert (seen.read_only, seen.remounted) == (("/", "/usr"), ("/usr",))
    other = parsed(f'@mounts\n{mounts}@hooks\nDPkg::Pre-Invoke:: "etckeeper pre /usr";\n')
    assert other.remounted == ()


@pytest.mark.parametrize(
    ("disks", "mounts", "expected"),
    [
        ("sda sdb", "/dev/sda2 / ext4 rw 0 0", ("sda",)),
        ("nvme0n1 vda", "/dev/nvme0n1p2 / ext4 rw 0 0\n/dev/vda1 /usr ext4 rw 0 0", None),
        ("xvda1 xvdb", "/dev/xvda1 / ext4 rw 0 0", ("xvda1",)),
        ("sda", "/dev/mapper/vg-root / ext4 rw 0 0", ()),
        ("vda", "/dev/vda1 / ext4 rw 0 0\n/dev/mapper/usr /usr ext4 rw 0 0", ()),
        ("vda", "overlay / overlay rw 0 0", ()),
    ],
)
def test_which_disks_the_root_is_on(
    disks: str, mounts: str, expected: tuple[str, ...] | None
) -> None:
    names = disks.split()
    seen = parsed("@disks\n" + "\n".join(names) + f"\n@mounts\n{mounts}\n")
    assert seen.root_disks == (tuple(names) if expected is None else expected)


def test_services_of_processes() -> None:
    groups = ["0::/system.slice/nginx.service", "0::/user.slice/u-0.slice/user@0.service/x.scope"]
    groups += ["1:name=systemd:/system.slice/system-getty.slice/getty@tty1.service", "0::/init"]
    assert services_in(groups) == ("getty@tty1.service", "nginx.service")


def test_only_restarts_are_downtime() -> None:
    lines = [
        "/var/lib/dpkg/info/web.postinst:  systemctl reload nginx.service || true",
        "/var/lib/dpkg/info/php.postinst: deb-systemd-invoke $_dh_action 'php8.2-fpm.service'",
        "/var/lib/dpkg/info/site.postinst:    systemctl try-restart cron",
        "/var/lib/dpkg/info/libc6:amd64.postinst: invoke-rc.d ${service} restart",
        "no postinst at all restart nginx.service",
    ]
    running = ["nginx.service", "php8.2-fpm.service", "cron.service"]
    assert restarts_of(lines, running) == {"php8.2-fpm.service": "php", "cron.service": "site"}


def test_what_is_stopped_first_is_known() -> None:
    seen = parsed(
        "@scripts\n/i/mail.preinst:invoke-rc.d mail stop\n/i/mail.postinst:invoke-rc.d mail start\n"
        "/i/web.postinst:systemctl restart web\n@starts\nId=mail.service\n"
        "ActiveEnterTimestampMonotonic=5\n\nId=web.service\nActiveEnterTimestampMonotonic=5\n"
    )
    assert seen.restarts == {"mail.service": "mail", "web.service": "web"}
    assert seen.stops == ("mail.service",)


def test_starts_are_measured_between_systemds_two_instants() -> None:
    seen = parsed(
        "@starts\nId=nginx.service\nInactiveExitTimestampMonotonic=1000000\n"
        "ActiveEnterTimestampMonotonic=1250000\nActiveEnterTimestampMonotonic=0\nId=x.service\n"
        "InactiveExitTimestampMonotonic=5\n@manager\nFinishTimestampMonotonic=21400000\n"
    )
    assert seen.starts == {"nginx.service": Start(began=1.0, ready=1.25)}
    assert seen.boot_seconds == 21.4


def test_an_answer_that_is_none_is_ours() -> None:
    with pytest.raises(GuestUnreachable) as caught:
        parse("bash: sh: command not found", MARK)
    assert "command not found" in caught.value.hint


SECTIONS = """
    now kernel xen paths df inodes mounts boot initramfs disks drivers config states
    interrupted lists plan conffiles ucf missing md5sums hooks hosts as_root scripts starts
    users manager stale
"""
NAMES = st.sampled_from(SECTIONS.split())
FRAGMENTS = st.sampled_from(
    (
        *(
            "The following packages will be upgraded:",
            "   a (1 => 2)",
            "E: no",
            "/ /usr",
            "\t\thold",
        ),
        *("/dev/vda1 1 2 3 4% /", "Id=a.service", "After this operation, 9,9.9 TB disk space will"),
        *("9" * 40, "/x.postinst: restart a", "0::/a/b.service", " /etc/a " + "0" * 32),
    )
)


@given(st.lists(st.tuples(NAMES, st.lists(st.text() | FRAGMENTS))), st.binary())
def test_whatever_a_guest_says_is_parsed_or_refused(
    said: list[tuple[str, list[str]]], rest: bytes
) -> None:
    body = "".join(f"{MARK} {name}\n" + "\n".join(lines) + "\n" for name, lines in said)
    for text in (body + rest.decode(errors="replace"), f"{MARK} kernel\n6.1\n{body}"):
        try:
            assert isinstance(parse(text, MARK), GuestSurvey)
        except GuestUnreachable:
            continue
