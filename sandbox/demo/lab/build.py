"""The lab's disks: a Debian dom0 with Xen and libvirt, and production guests on LVM thin.

What needs no Xen is built on this machine (packages, initramfs, guest images); what needs a
device mapper is done by the new dom0 itself at its first start, by ``provision.sh``. The result
is cached; every start of the lab runs on overlays of it.
"""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sandbox.core.deadline import Deadline
from sandbox.core.errors import HostError
from sandbox.core.process import run
from sandbox.demo import disk
from sandbox.demo.image import (
    CACHE,
    MERGED_USR,
    NOT_UNPACKED,
    DemoImage,
    build_folder,
    build_image,
    digest,
    write,
)
from sandbox.demo.mirror import Mirror, find_mirror

DATA = Path(__file__).with_name("data")
HOSTNAME = "xen-lab"
BUILD_SECONDS = 2400
ROOT_SIZE, DATA_SIZE = 4 << 30, 16 << 30
PACKAGES = (
    *("xen-system-amd64", "xenstore-utils", "grub-xen-host", "linux-image-amd64"),
    *("libvirt-daemon-system", "libvirt-daemon-driver-xen", "libvirt-clients"),
    *("qemu-system-xen", "qemu-utils", "dnsmasq-base", "nftables", "iproute2", "bridge-utils"),
    *("tcpdump", "lvm2", "thin-provisioning-tools", "xfsprogs", "e2fsprogs"),
    *("openssh-server", "systemd-sysv", "systemd-timesyncd", "dbus", "udev", "kmod", "netbase"),
    *("initramfs-tools", "procps", "python3", "python3-minimal", "usr-is-merged"),
)
FILES = {
    "etc/systemd/network/wired.network": "wired.network",
    "etc/systemd/network/xenbr0.netdev": "xenbr0.netdev",
    "etc/systemd/network/xenbr0.network": "xenbr0.network",
    "etc/ssh/sshd_config.d/lab.conf": "sshd.conf",
    "usr/share/initramfs-tools/modules.d/lab": "initramfs-modules",
    "etc/initramfs-tools/conf.d/lab.conf": "initramfs.conf",
    "usr/local/sbin/lab-provision": "provision.sh",
    "etc/systemd/system/dom0-weight.service": "dom0-weight.service",
    "etc/systemd/system/libvirtd.service.d/after-xen.conf": "libvirtd-after-xen.conf",
    "etc/upgrade-sandbox-lab/web01.xml": "web01.xml",
    "etc/upgrade-sandbox-lab/db01.xml": "db01.xml",
}
UNITS = "/usr/lib/systemd/system"
WANTS = "etc/systemd/system/multi-user.target.wants"
LINKS = {
    f"{WANTS}/systemd-networkd.service": f"{UNITS}/systemd-networkd.service",
    f"{WANTS}/dom0-weight.service": "/etc/systemd/system/dom0-weight.service",
    "etc/systemd/system/apt-daily.timer": "/dev/null",
    "etc/systemd/system/apt-daily-upgrade.timer": "/dev/null",
    # It would delay an emulated start for snapshots, and the lab makes none.
    "etc/systemd/system/e2scrub_reap.service": "/dev/null",
    "etc/systemd/system/systemd-networkd-wait-online.service": "/dev/null",
    # It saves and restores guests by itself: libvirt does what has to be done.
    "etc/systemd/system/xendomains.service": "/dev/null",
    "etc/systemd/system/libvirt-guests.service": "/dev/null",
}
# libvirt's Xen driver wants a CPU model that fits; the emulated processor has none of the flag
# vme, and Xen hides sep: no model of libvirt's does without both.
CPU_MODEL = "x86_upgrade-sandbox-lab.xml"
CPU_MAP = "usr/share/libvirt/cpu_map"


@dataclass(frozen=True)
class LabImages:
    """Read-only parts of the lab; ``provisioned`` is false before the first start."""

    hypervisor: Path  # Xen, unpacked: QEMU's multiboot loader reads no gzip
    kernel: Path
    initrd: Path
    root: Path
    data: Path
    key: Path


def build_lab(
    progress: Callable[[str], None],
    first_start: Callable[[LabImages, Path], None],
    *,
    cache: Path = CACHE,
) -> LabImages:
    """Return the lab's images, built once for each version of this builder.

    ``first_start`` boots what was built, with the guests' image as a further disk, has it
    provision itself, and leaves the images alone from then on. Raises :class:`HostError`.
    """
    mirror = find_mirror()
    base = build_image(
        progress,
        extra_packages=("tiny-initramfs",),
        without=("initramfs-tools",),
        customise=_as_pv_guest,
        variant=f"web01-pv-{digest(Path(__file__).read_bytes())}",
        cache=cache,
    )
    target = cache / "images" / f"lab-{_identity(mirror, base)}"
    images = _images_in(target, base.key)
    with build_folder(target, progress) as folder:
        if folder is None:
            progress(f"lab {target.name} is cached")
            return images
        deadline = Deadline(BUILD_SECONDS, "building the lab")
        made = folder / "lab"
        made.mkdir()
        tree = folder / "tree"
        progress(f"unpacking {mirror.codename} with Xen (two minutes)")
        _build_tree(tree, folder, mirror, deadline)
        _finish_tree(tree, base)
        _take_boot_files(tree, made)
        progress("writing dom0's disk")
        _write_disk(tree, folder, made / "root.qcow2", deadline)
        shutil.rmtree(tree)
        run(
            ["qemu-img", "create", "-q", "-f", "qcow2", made / "data.qcow2", str(DATA_SIZE)],
            deadline,
        )
        progress("first start: dom0 makes its volumes and guests (some minutes under emulation)")
        first_start(_images_in(made, base.key), base.path)
        for path in made.iterdir():
            path.chmod(0o444)
        made.rename(target)
    progress(f"lab {target.name} is ready")
    return images


def _images_in(folder: Path, key: Path) -> LabImages:
    names = ("xen", "vmlinuz", "initrd.img", "root.qcow2", "data.qcow2")
    hypervisor, kernel, initrd, root, data = (folder / name for name in names)
    return LabImages(hypervisor, kernel, initrd, root, data, key)


def _build_tree(tree: Path, folder: Path, mirror: Mirror, deadline: Deadline) -> None:
    early = folder / "early"
    for inside, data in FILES.items():
        write(early / inside, (DATA / data).read_text())
    for inside, target in LINKS.items():
        (early / inside).parent.mkdir(parents=True, exist_ok=True)
        (early / inside).symlink_to(target)
    (early / "usr/local/sbin/lab-provision").chmod(0o755)
    for made in [early, *early.rglob("*")]:
        if made.is_dir():
            made.chmod(0o755)
    options = {"APT::Install-Recommends": "false", "Acquire::Retries": "3"} | mirror.options
    run(
        [
            *("mmdebstrap", "--quiet", "--mode=root", "--variant=apt", "--format=directory"),
            *(f'--aptopt={key} "{value}"' for key, value in options.items()),
            *(f"--dpkgopt={option}" for option in NOT_UNPACKED),
            f"--hook-dir={MERGED_USR}",
            f"--essential-hook=sync-in {early} /",
            f"--include={','.join(PACKAGES)}",
            *("--components=main", mirror.codename, str(tree), mirror.release_uri),
        ],
        deadline,
        hint="the mirror must answer: try apt-get update",
    )


def _finish_tree(tree: Path, base: DemoImage) -> None:
    write(tree / "etc/hostname", f"{HOSTNAME}\n")
    write(tree / "etc/hosts", f"127.0.0.1 localhost {HOSTNAME}\n::1 localhost\n")
    write(tree / "etc/resolv.conf", "# no name server: the lab has no uplink\n")
    write(tree / "etc/fstab", "/dev/nvme0n1 / ext4 defaults 0 1\n")
    write(tree / "root/.ssh/authorized_keys", base.key.with_suffix(".pub").read_text())
    (tree / "root/.ssh").chmod(0o700)
    (tree / "etc/apt/apt.conf.d/99mmdebstrap").unlink(missing_ok=True)
    write(tree / CPU_MAP / CPU_MODEL, (DATA / "cpu-model.xml").read_text())
    index = tree / CPU_MAP / "index.xml"
    first = "<include filename='x86_features.xml'/>"
    text = index.read_text()
    if first not in text:
        raise HostError("libvirt's CPU map looks different from what the lab knows", "report it")
    write(index, text.replace(first, f"{first}\n    <include filename='{CPU_MODEL}'/>", 1))


def _take_boot_files(tree: Path, made: Path) -> None:
    boot = tree / "boot"
    hypervisors = sorted(boot.glob("xen-*-amd64.gz"))
    kernels, initrds = sorted(boot.glob("vmlinuz-*")), sorted(boot.glob("initrd.img-*"))
    if not (hypervisors and kernels and initrds):
        raise HostError(f"no Xen, kernel or initramfs in {boot}", "did the packages install?")
    with gzip.open(hypervisors[-1]) as packed, (made / "xen").open("wb") as unpacked:
        shutil.copyfileobj(packed, unpacked)
    shutil.copyfile(kernels[-1], made / "vmlinuz")
    shutil.copyfile(initrds[-1], made / "initrd.img")


def _write_disk(tree: Path, folder: Path, root: Path, deadline: Deadline) -> None:
    """dom0's disk: a file system without partitions, since Xen and kernel come from QEMU."""
    raw = folder / "root.raw"
    with raw.open("wb") as file:
        file.truncate(ROOT_SIZE)
    options = "lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0"
    run(["mke2fs", "-q", "-F", "-t", "ext4", "-d", tree, "-E", options, raw], deadline)
    disk.to_qcow2(raw, root, deadline)
    raw.unlink()


def _as_pv_guest(tree: Path) -> None:
    """The demo's web01 with its console where Xen has it, and with a small initramfs.

    initramfs-tools starts a thousand programs for a new kernel: in an emulated PV guest that took
    two thirds of the upgrade's time. A boot took a fifth more with what it makes.
    """
    for inside in ("boot/grub/grub.cfg", "etc/default/grub.d/web01.cfg"):
        text = (tree / inside).read_text()
        changed = text.replace("console=tty0 console=ttyS0", "console=hvc0 mitigations=off")
        if changed == text:
            raise HostError(f"/{inside} of web01 names no console", "report it")
        write(tree / inside, changed)
    modules = (tree / "usr/share/initramfs-tools/modules.d/web01").read_text().split()
    # Left to itself it looks for the disk of the machine that builds the image.
    config = f"AUTO_MODULES=no\nINCLUDE_MODULES={','.join(modules)}\nMICROCODE=no\n"
    write(tree / "etc/tiny-initramfs/tiny-initramfs.conf", config)
    run(["chroot", tree, "update-tirfs"], Deadline(300, "making web01's initramfs"))


def _identity(mirror: Mirror, base: DemoImage) -> str:
    sources = [*sorted(DATA.iterdir()), Path(__file__)]
    return digest(
        repr(mirror), base.path.name, *(path.read_bytes() for path in sources if path.is_file())
    )
