"""Whether what an upgrade brings to /boot fits there, and whether it can be loaded. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from sandbox.core.wording import size
from sandbox.managers.kernels import is_kernel
from sandbox.preflight.parse import GuestSurvey
from sandbox.preflight.points import PreflightPoint, PreflightSeverity

MIB = 1 << 20
UNPACKS = "/var/tmp"  # noqa: S108 - the guest's: it is asked how much is free there
SPARE = 20 * MIB  # that should be left in /boot
# A new initramfs is put together unpacked, in /var/tmp: this many times its packed size.
UNPACKED = 5
ZSTD_BY_XEN = (4, 15)  # since then it unpacks PV kernels that are packed with zstd
_ONE_KERNEL = re.compile(r"[a-z-]+-\d.*")  # linux-image-6.1.0-37-amd64, no metapackage
_REBUILDS = re.compile(
    r"initramfs-tools.*|firmware-.*|kmod|udev|busybox(-initramfs)?|cryptsetup-initramfs|lvm2|mdadm"
    r"|(amd64|intel)-microcode|.*-dkms"
)
_DRIVERS = {"xvd": "xen_blkfront", "vd": "virtio_blk", "nvme": "nvme", "sd": "sd_mod"}
_DISK = re.compile(r"(xvd|vd|nvme|sd)[a-z0-9]+")


def new_kernels(seen: GuestSurvey) -> list[str]:
    """Packages that bring one more kernel."""
    return [
        change.name
        for change in seen.changes
        if change.new and not change.old and is_kernel(change.name)
        and _ONE_KERNEL.fullmatch(change.name)
    ]  # fmt: skip


def brings_kernel(seen: GuestSurvey) -> bool:
    """Whether the next reboot starts another kernel: a new one, or a newer build of the same."""
    booted = (f"-{seen.kernel}", f"-{_newest(seen)}")
    return bool(new_kernels(seen)) or any(
        change.old and change.new and is_kernel(change.name)
        and any(kernel in change.name for kernel in booted)
        for change in seen.changes
    )  # fmt: skip


def renews_initramfs(seen: GuestSurvey) -> bool:
    """Whether an initramfs is built, for a new kernel or anew for an old one."""
    return any(
        change.new and (is_kernel(change.name) or _REBUILDS.fullmatch(change.name))
        for change in seen.changes
    )


def boot_points(seen: GuestSurvey) -> Iterator[PreflightPoint]:
    """Room in /boot and /var/tmp, the kernel that the next reboot starts, its initramfs."""
    yield from _room(seen)
    yield from _pending(seen)
    yield from _initramfs(seen)
    yield from _loader(seen)


def _room(seen: GuestSurvey) -> Iterator[PreflightPoint]:
    if not renews_initramfs(seen) or not seen.initrd_size:
        return
    kernels = len(new_kernels(seen))
    # A rebuilt initramfs lies beside the old one until it is whole.
    need = kernels * seen.kernel_size + max(kernels, 1) * seen.initrd_size
    boot, unpacked = seen.space.get("/boot"), seen.space.get(UNPACKS)
    if boot is not None and boot.free < need + SPARE:
        full = boot.free < need
        yield PreflightPoint(
            severity=PreflightSeverity.BLOCKER if full else PreflightSeverity.WARNING,
            topic="/boot",
            text=f"/boot has {size(boot.free)} free, and {_brought(kernels)} "
            f"{'need' if kernels > 1 else 'needs'} about {size(need)} there",
            hint="remove kernels that are no longer booted: apt autoremove --purge",
        )
    if unpacked is not None and unpacked.free < UNPACKED * seen.initrd_size:
        yield PreflightPoint(
            severity=PreflightSeverity.WARNING,
            topic="initramfs",
            text=f"{UNPACKS} has {size(unpacked.free)} free; an initramfs is put together there "
            f"unpacked, about {size(UNPACKED * seen.initrd_size)}",
            hint="make room there before the upgrade",
        )


def _brought(kernels: int) -> str:
    if not kernels:
        return "a rebuilt initramfs"
    return "a new kernel" if kernels == 1 else f"{kernels} new kernels"


def _pending(seen: GuestSurvey) -> Iterator[PreflightPoint]:
    """A reboot that is due already: what it brings would be taken for the upgrade's doing."""
    newest = _newest(seen)
    if newest != seen.kernel:
        yield PreflightPoint(
            severity=PreflightSeverity.WARNING,
            topic="kernel",
            text=f"{seen.kernel} runs, and {newest} is installed: a reboot is due before the "
            "upgrade",
            hint="the next reboot brings this kernel, too: reboot first, or rehearse with it",
        )
    elif seen.reboot_required:
        yield PreflightPoint(
            severity=PreflightSeverity.WARNING,
            topic="kernel",
            text="the guest asks for a reboot already, for an earlier upgrade",
            hint="the next reboot brings that, too: reboot first, or rehearse with it",
        )


def _newest(seen: GuestSurvey) -> str:
    """The kernel that the next reboot starts; the running one where /boot does not tell."""
    return seen.kernels[-1] if seen.kernel in seen.kernels else seen.kernel


def _initramfs(seen: GuestSurvey) -> Iterator[PreflightPoint]:
    newest = _newest(seen)
    needing = seen.root_disks or seen.disks
    drivers = sorted(
        {_DRIVERS[match[1]] for d in needing if (match := _DISK.fullmatch(d))}
        | {seen.hosts[d].replace("-", "_") for d in needing if d in seen.hosts}
    )
    known = {kernel for kernel, _driver in seen.drivers}
    for driver in drivers:
        if newest in known and newest != seen.kernel and (newest, driver) not in seen.drivers:
            yield PreflightPoint(
                severity=PreflightSeverity.BLOCKER,
                topic="boot chain",
                text=f"the kernel {newest}, which the next reboot starts, has no driver {driver} "
                "for this machine's disk",
                hint="install a kernel that has it: not every flavour is for every hypervisor",
            )
        listed = {name.replace("-", "_") for name in seen.initramfs_modules}
        built_in = (newest, driver) in seen.built_in
        if seen.modules == "list" and driver not in listed and not built_in:
            yield PreflightPoint(
                severity=PreflightSeverity.BLOCKER
                if renews_initramfs(seen)
                else PreflightSeverity.WARNING,
                topic="boot chain",
                text=f"initramfs-tools takes only listed modules (MODULES=list), and {driver} is "
                "not listed: an initramfs that is built now does not find this machine's disk",
                hint=f"add {driver} to /etc/initramfs-tools/modules",
            )
    if seen.modules == "dep" and renews_initramfs(seen):
        yield PreflightPoint(
            severity=PreflightSeverity.NOTE,
            topic="boot chain",
            text="the new initramfs gets only the drivers of the present hardware (MODULES=dep): "
            "it will not start on another hypervisor",
        )
    packed_anew = renews_initramfs(seen) or newest != seen.kernel
    can = (newest, "RD_ZSTD") in seen.config
    if seen.compress == "zstd" and packed_anew and _has_config(seen, newest) and not can:
        asks = seen.mkinitramfs_asks
        text = f"initramfs-tools packs with zstd, which the kernel {newest} cannot unpack"
        yield PreflightPoint(
            severity=PreflightSeverity.NOTE if asks else PreflightSeverity.BLOCKER,
            topic="boot chain",
            text=f"{text}: it will take gzip, which needs more room" if asks else text,
            hint="set COMPRESS=gzip in /etc/initramfs-tools/initramfs.conf",
        )


def _loader(seen: GuestSurvey) -> Iterator[PreflightPoint]:
    """A PV guest's kernel is unpacked by Xen's tools, not by itself."""
    version = _xen_version(seen)
    if seen.xen.get("guest_type") != "PV" or version is None or version >= ZSTD_BY_XEN:
        return
    newest, xen = _newest(seen), ".".join(map(str, version))
    if newest != seen.kernel and (newest, "KERNEL_ZSTD") in seen.config:
        yield PreflightPoint(
            severity=PreflightSeverity.BLOCKER,
            topic="boot chain",
            text=f"the kernel {newest} is packed with zstd, which Xen {xen} cannot unpack for a "
            "PV guest: the next reboot ends before the kernel",
            hint="keep a kernel that is packed otherwise as the default, or move to Xen 4.15",
        )
    elif new_kernels(seen) and (seen.kernel, "KERNEL_ZSTD") not in seen.config:
        yield PreflightPoint(
            severity=PreflightSeverity.WARNING,
            topic="boot chain",
            text=f"Xen {xen} cannot unpack a PV guest's kernel that is packed with zstd, as "
            "Ubuntu's are since 21.10; how the new one is packed is not known before it is there",
            hint="rehearse it on a host with the same Xen: the clone's boot tells",
        )


def _has_config(seen: GuestSurvey, kernel: str) -> bool:
    return (kernel, "MODULES") in seen.config


def _xen_version(seen: GuestSurvey) -> tuple[int, int] | None:
    words = (seen.xen.get("version/major", ""), seen.xen.get("version/minor", ""))
    if not all(word.isascii() and word.isdigit() and len(word) < 5 for word in words):
        return None
    return int(words[0]), int(words[1])
