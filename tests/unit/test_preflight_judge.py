"""What a preflight makes of what a guest says: pure, one case a test."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox.cli.preflight_report import print_found
from sandbox.core.records import PackageChange, Start
from sandbox.managers import UpgradeRequest, What
from sandbox.preflight.judge import judge
from sandbox.preflight.parse import GuestSurvey, Space
from sandbox.preflight.points import Preflight, PreflightPoint, ServiceForecast
from sandbox.preflight.points import PreflightSeverity as Severity

OLD, NEW = "6.1.0-49-amd64", "6.1.0-51-amd64"
MIB = 1 << 20
NGINX = PackageChange(name="nginx", old="1.22.1-9", new="1.22.1-9+deb12u2")
KERNEL = PackageChange(name=f"linux-image-{NEW}", new="6.1.176-1")
META = PackageChange(name="linux-image-amd64", old="6.1.170-1", new="6.1.176-1")
DAY = 86_400
MODULES = tuple((kernel, driver) for kernel in (OLD, NEW) for driver in ("sd_mod", "virtio_blk"))


def spaces(**mib: int) -> dict[str, Space]:
    """Free MiB of each mount point of its own; "root" is /, others are named without slashes."""
    paths = {"root": "/", "boot": "/boot", "tmp": "/var/tmp", "usr": "/usr"}
    free = {paths[name]: Space(mount=paths[name], free=n * MIB) for name, n in mib.items()}
    return {"/var/cache/apt/archives": free["/"], "/usr": free["/"], **free}


def seen(**values: Any) -> GuestSurvey:
    """A guest in order, with an update of nginx; ``values`` say what is otherwise."""
    facts: dict[str, Any] = {
        "kernel": OLD,
        "kernels": (OLD,),
        "now": 30 * DAY,
        "lists": 30 * DAY - 60,
        "apt": True,
        "asked": True,
        "changes": (NGINX,),
        "space": spaces(root=5000, boot=300),
        "download": 30 * MIB,
        "growth": 10 * MIB,
        "kernel_size": 8 * MIB,
        "initrd_size": 40 * MIB,
        "disks": ("vda", "loop0"),
        "drivers": MODULES,
        "boot_seconds": 21.4,
    }
    return GuestSurvey(**(facts | values))


def judged(facts: GuestSurvey, what: What = "security", **values: Any) -> Preflight:
    return judge(facts, "web01", UpgradeRequest(what, **values))


def one(found: Preflight, severity: Severity, words: str) -> PreflightPoint:
    """The only point of that severity, which has these words."""
    points = [point for point in found.points if point.severity is severity]
    assert [words in point.text for point in points] == [True], points
    return points[0]


def test_a_guest_in_order_has_one_note() -> None:
    found = judged(seen())
    assert [point.text for point in found.points] == ["1 package would change, 30.0 MiB to fetch"]
    assert not found.blocked
    assert not found.reboot


def test_the_worst_comes_first() -> None:
    found = judged(seen(broken=("web",), held=("db",), lists=27 * DAY))
    ranks = [point.severity for point in found.points]
    assert ranks == [
        Severity.BLOCKER,
        Severity.WARNING,
        Severity.NOTE,
        Severity.NOTE,
    ]
    assert found.blocked


@pytest.mark.parametrize(
    ("values", "severity", "words"),
    [
        ({"space": spaces(root=30)}, Severity.BLOCKER, "/ has 30.0 MiB free"),
        ({"space": spaces(root=100)}, Severity.WARNING, "the upgrade needs 40.0 MiB there"),
        ({"space": spaces(root=160, usr=5)}, Severity.BLOCKER, "/usr has 5.0 MiB free"),
        ({"interrupted": True}, Severity.BLOCKER, "dpkg was interrupted"),
        ({"read_only": ("/",)}, Severity.BLOCKER, "/ is mounted read-only"),
        ({"read_only": ("/usr",), "remounted": ("/usr",)}, Severity.WARNING,
         "/usr is mounted read-only, and a hook of apt is to change that"),
        ({"space": {}, "df_error": "df: /boot: Stale file handle"}, Severity.WARNING,
         "whether the upgrade has room was not looked at: df: /boot: Stale file handle"),
        ({"kernels": (OLD, NEW)}, Severity.WARNING, f"{OLD} runs, and {NEW} is installed"),
        ({"reboot_required": True}, Severity.WARNING, "asks for a reboot already"),
        ({"stale": ("cron.service",)}, Severity.WARNING, "replaced: cron.service"),
        ({"users": ("cron.service",)}, Severity.WARNING, "1 service would go on with the old"),
        ({"apt": False, "changes": ()}, Severity.WARNING, "the guest has no apt"),
        ({"said": ("E: Unable to correct problems, you have held broken packages.",)}
         | {"changes": ()}, Severity.BLOCKER, "apt refuses: Unable to correct problems"),
        ({"space": {"/": Space(mount="/", free=5000 * MIB, inodes=40)}}, Severity.WARNING,
         "only 40 more files"),
    ],
)  # fmt: skip
def test_what_stands_in_the_way(values: dict[str, Any], severity: Severity, words: str) -> None:
    one(judged(seen(**values)), severity, words)


def test_what_root_asked_is_said() -> None:
    texts = [point.text for point in judged(seen(as_root=True)).points]
    assert texts[0].startswith("apt ran as root: the user nobody cannot read its sources")


def test_no_kernel_to_offer_is_a_blocker_and_not_nothing_to_upgrade() -> None:
    found = judged(seen(asked=False, changes=()), "kernel")
    one(found, Severity.BLOCKER, "not installed through a metapackage")
    assert not any("nothing to upgrade" in point.text for point in found.points)


def test_a_script_is_not_forecast() -> None:
    found = judged(seen(asked=False, changes=()), "script")
    assert [point.severity for point in found.points] == [Severity.NOTE]


# --- /boot and the boot chain -----------------------------------------------------------------


def with_kernel(**values: Any) -> GuestSurvey:
    return seen(**({"changes": (META, KERNEL, NGINX)} | values))


def test_a_kernel_that_fits_and_can_be_loaded_is_no_finding() -> None:
    found = judged(with_kernel())
    assert {point.severity for point in found.points} == {Severity.NOTE}
    assert (found.reboot, found.reboot_seconds) == (True, 21.4)


@pytest.mark.parametrize(("free", "severity"), [(40, Severity.BLOCKER), (60, Severity.WARNING)])
def test_boot_has_no_room_for_another_kernel(free: int, severity: Severity) -> None:
    found = judged(with_kernel(space=spaces(root=5000, boot=free)))
    one(found, severity, "a new kernel needs about 48.0 MiB there")


def test_an_initramfs_that_is_rebuilt_needs_room_beside_the_old_one() -> None:
    udev = PackageChange(name="udev", old="252.1", new="252.2")
    found = judged(seen(changes=(udev,), space=spaces(root=5000, boot=30)))
    one(found, Severity.BLOCKER, "a rebuilt initramfs needs about 40.0 MiB there")
    tmp = judged(seen(changes=(udev,), space=spaces(root=5000, tmp=100)))
    one(tmp, Severity.WARNING, "unpacked, about 200.0 MiB")


def test_a_kernel_without_the_disks_driver_blocks() -> None:
    """A guest moved to Xen whose next kernel has no driver for xvda."""
    drivers = ((OLD, "xen_blkfront"), (OLD, "sd_mod"), (NEW, "sd_mod"), (NEW, "virtio_blk"))
    found = judged(seen(kernels=(OLD, NEW), disks=("xvda",), drivers=drivers))
    point = one(found, Severity.BLOCKER, f"the kernel {NEW}, which the next reboot starts")
    assert "no driver xen_blkfront" in point.text


def test_an_initramfs_of_listed_modules_needs_the_disks_driver() -> None:
    values: dict[str, Any] = {"modules": "list", "initramfs_modules": ("ext4", "virtio_pci")}
    one(judged(with_kernel(**values)), Severity.BLOCKER, "virtio_blk is not listed")
    one(judged(seen(**values)), Severity.WARNING, "virtio_blk is not listed")
    values["initramfs_modules"] = ("virtio-blk",)
    assert not judged(with_kernel(**values)).blocked
    built_in = with_kernel(modules="list", built_in=((OLD, "virtio_blk"),))
    assert not judged(built_in).blocked


def test_a_scsi_disk_needs_its_controllers_driver_too() -> None:
    listed: dict[str, Any] = {"modules": "list", "disks": ("sda",), "hosts": {"sda": "virtio_scsi"}}
    found = judged(with_kernel(**listed, initramfs_modules=("sd_mod",)))
    one(found, Severity.BLOCKER, "virtio_scsi is not listed")
    assert not judged(with_kernel(**listed, initramfs_modules=("sd_mod", "virtio-scsi"))).blocked
    built_in = ((OLD, "virtio_scsi"),)
    both = with_kernel(**listed, initramfs_modules=("sd_mod",), built_in=built_in)
    assert not judged(both).blocked
    drivers = tuple((kernel, "sd_mod") for kernel in (OLD, NEW))
    moved = {"kernels": (OLD, NEW), "drivers": (*drivers, (OLD, "ahci")), "disks": ("sda",)}
    one(
        judged(seen(**moved, hosts={"sda": "ahci"})),
        Severity.BLOCKER,
        f"the kernel {NEW}, which the next reboot starts, has no driver ahci",
    )


def test_only_the_root_file_systems_disk_has_to_be_found() -> None:
    values: dict[str, Any] = {"modules": "list", "initramfs_modules": ("virtio_blk",)}
    values |= {"disks": ("sda", "vda"), "hosts": {"sda": "usb_storage"}}
    assert not judged(with_kernel(**values, root_disks=("vda",))).blocked
    assert judged(with_kernel(**values)).blocked, "which it is on is not known"


def test_an_initramfs_that_the_kernel_cannot_unpack_blocks() -> None:
    known = ((OLD, "MODULES"),)
    found = judged(with_kernel(compress="zstd", config=known, mkinitramfs_asks=False))
    one(found, Severity.BLOCKER, f"packs with zstd, which the kernel {OLD} cannot unpack")
    assert not judged(with_kernel(compress="zstd", config=(*known, (OLD, "RD_ZSTD")))).blocked
    assert not judged(with_kernel(compress="zstd", config=())).blocked, "nothing is known"
    assert not judged(with_kernel(compress="gzip", config=known)).blocked


def test_mkinitramfs_takes_gzip_by_itself_where_the_kernel_has_no_zstd() -> None:
    found = judged(with_kernel(compress="zstd", config=((OLD, "MODULES"),), mkinitramfs_asks=True))
    assert not found.blocked
    texts = [point.text for point in found.points if point.severity is Severity.NOTE]
    assert any("it will take gzip, which needs more room" in text for text in texts), texts


@pytest.mark.parametrize(("minor", "severity"), [("14", Severity.BLOCKER), ("17", None)])
def test_a_pv_kernel_is_unpacked_by_xen(minor: str, severity: Severity | None) -> None:
    xen = {"type": "xen", "guest_type": "PV", "version/major": "4", "version/minor": minor}
    facts = seen(kernels=(OLD, NEW), xen=xen, config=((NEW, "KERNEL_ZSTD"),))
    found = [p.severity for p in judged(facts).points if "packed with zstd" in p.text]
    assert found == ([severity] if severity else [])
    hvm = judged(seen(kernels=(OLD, NEW), xen=xen | {"guest_type": "HVM"}, config=facts.config))
    assert not hvm.blocked


def test_how_the_kernel_that_comes_is_packed_is_not_known_yet() -> None:
    xen = {"guest_type": "PV", "version/major": "4", "version/minor": "11"}
    one(
        judged(with_kernel(xen=xen)),
        Severity.WARNING,
        "Xen 4.11 cannot unpack a PV guest's",
    )


@pytest.mark.parametrize(
    ("name", "reboots"),
    [
        (f"linux-image-{OLD}", True),
        (f"linux-image-unsigned-{OLD}", True),
        (f"linux-image-{OLD}-unsigned", True),
        ("linux-image-5.10.0-30-amd64", False),  # an old one, which nobody boots any more
        (f"linux-headers-{OLD}", False),
    ],
)
def test_a_newer_build_of_the_kernel_that_runs_wants_a_reboot(name: str, reboots: bool) -> None:
    same = PackageChange(name=name, old="6.1.170-1", new="6.1.176-1")
    found = judged(seen(changes=(same,), users=("cron.service",)))
    assert found.reboot is reboots
    assert any("go on with the old" in point.text for point in found.points) is not reboots


# --- forecasts --------------------------------------------------------------------------------


def test_only_services_of_packages_that_change_are_forecast() -> None:
    found = judged(
        seen(
            restarts={"nginx.service": "nginx", "cron.service": "cron"},
            starts={"nginx.service": Start(began=2.0, ready=2.5)},
            users=("nginx.service",),
        )
    )
    assert found.services == (
        ServiceForecast(service="nginx.service", package="nginx", seconds=0.5),
    )
    assert not any("go on with the old" in point.text for point in found.points)


def test_a_service_that_is_stopped_first_is_down_for_longer_than_its_start(
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = "postgresql@15-main.service"
    database = PackageChange(name="postgresql-15", old="15.19-0", new="15.20-0")
    found = judged(
        seen(
            changes=(database,),
            restarts={name: database.name},
            stops=(name,),
            starts={name: Start(began=2.0, ready=3.5)},
            users=(name,),
        )
    )
    assert not any("go on with the old" in point.text for point in found.points)
    print_found(found, "security")
    assert (
        f"- {name} stops before postgresql-15 is unpacked, and starts when that is configured: "
        "down for that long, and 1.5 s\n"
    ) in capsys.readouterr().out


def test_old_programs_are_no_matter_when_a_reboot_comes_anyway() -> None:
    one(judged(seen(users=("cron.service",))), Severity.WARNING, "cron.service")
    found = judged(with_kernel(users=("cron.service",)))
    assert not any("cron" in point.text for point in found.points)
