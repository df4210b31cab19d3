"""web01's disk: a small Debian server with its own kernel, boot loader, nginx and sshd.

It is built from the release's main suite only, so that the packages of the security suite are
a real upgrade that waits. Measured on 2 cores: 38 s for the tree, 8 s for the disk.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

from sandbox.core.deadline import Deadline
from sandbox.core.errors import HostError
from sandbox.core.process import run
from sandbox.demo import disk
from sandbox.demo.broken import DATA, build_site
from sandbox.demo.mirror import Mirror, find_mirror

CACHE = Path("/var/cache/upgrade-sandbox")
HOSTNAME = "web01"
SIZE = 2 * 1024**3
BUILD_SECONDS = 1200
# Our files whose text does not shape the image; what mirror.py finds is hashed by its value.
NOT_BUILDING = ("guest.py", "mirror.py", "show.py", "picture.py", "site-2.0.conf")
PACKAGES = (
    "dbus",
    "e2fsprogs",
    "grub-pc",
    "initramfs-tools",
    "iproute2",
    "kmod",
    "linux-image-cloud-amd64",
    "netbase",
    "nginx",
    "openssh-server",
    "procps",
    "python3",
    "systemd-sysv",
    "udev",
    "usr-is-merged",
)
# A rehearsal reads none of this, and dpkg would unpack it again with every upgrade.
NOT_UNPACKED = (
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
)
# Laid into the tree before its packages are configured: they shape the first initramfs.
EARLY_FILES = {
    "etc/default/grub.d/web01.cfg": "grub-defaults.cfg",
    "etc/initramfs-tools/conf.d/web01.conf": "initramfs.conf",
    "usr/share/initramfs-tools/modules.d/web01": "initramfs-modules",
    "etc/ssh/sshd_config.d/web01.conf": "sshd.conf",
    "etc/systemd/network/wired.network": "wired.network",
}
# While building only: usrmerge would bring all of Perl; usr-is-merged does for a new system, which
# has /bin and its like as links from the start.
MERGED_USR = "/usr/share/mmdebstrap/hooks/merged-usr"
BUILD_PREFERENCES = "etc/apt/preferences.d/build"
NO_USRMERGE = "Package: usrmerge\nPin: release *\nPin-Priority: -1\n"
UNITS = "/usr/lib/systemd/system"
LINKS = {
    "etc/systemd/system/multi-user.target.wants/systemd-networkd.service": (
        f"{UNITS}/systemd-networkd.service"
    ),
    "etc/systemd/system/sockets.target.wants/systemd-networkd.socket": (
        f"{UNITS}/systemd-networkd.socket"
    ),
    # A production that upgrades itself while it is rehearsed proves nothing.
    "etc/systemd/system/apt-daily.timer": "/dev/null",
    "etc/systemd/system/apt-daily-upgrade.timer": "/dev/null",
    # It looks for snapshots of volumes that are not there, for a quarter of an emulated start.
    "etc/systemd/system/e2scrub_reap.service": "/dev/null",
    # Nothing waits for an address: a clone is alone and may never get one.
    "etc/systemd/system/systemd-networkd-wait-online.service": "/dev/null",
}


@dataclass(frozen=True)
class DemoImage:
    """A read-only qcow2 disk and the private key that its root user accepts."""

    path: Path
    key: Path


def build_image(
    progress: Callable[[str], None],
    *,
    extra_packages: Sequence[str] = (),
    without: Sequence[str] = (),
    customise: Callable[[Path], None] | None = None,
    variant: str = HOSTNAME,
    size: int = SIZE,
    cache: Path = CACHE,
) -> DemoImage:
    """Return web01's image, built once for each point release and version of this builder.

    ``extra_packages`` come from the release too; of those that it has anyway, ``without`` are left
    out. ``customise`` gets the finished tree and may change any file of it; as its code cannot be
    hashed, name what it makes with ``variant``.
    Raises :class:`HostError` when the packages cannot be had.
    """
    mirror = find_mirror()
    key = ensure_key(cache)
    packages = sorted({*PACKAGES, *extra_packages} - {*without})
    identity = _identity(mirror, packages, size, key)
    path = cache / "images" / f"{variant}-{identity}.qcow2"
    with build_folder(path, progress) as folder:
        if folder is None:
            progress(f"image {path.name} is cached")
            return DemoImage(path, key)
        deadline = Deadline(BUILD_SECONDS, "building the demo's image")
        tree = folder / "tree"
        progress(f"unpacking {mirror.codename} with {len(packages)} packages (about a minute)")
        _build_tree(tree, folder, mirror, packages, deadline)
        uuid = uuid4()
        _finish_tree(tree, folder, mirror, uuid, key, deadline)
        if customise is not None:
            customise(tree)
        progress("writing the disk and its boot loader")
        disk.write_disk(tree, folder / "raw", size, uuid, deadline)
        disk.to_qcow2(folder / "raw", folder / "qcow2", deadline)
        _publish(folder / "qcow2", path)
    progress(f"image {path.name} is ready")
    return DemoImage(path, key)


def derive_image(
    base: DemoImage,
    variant: str,
    progress: Callable[[str], None],
    *,
    files: Mapping[str, str | bytes] | None = None,
    executable: Sequence[str] = (),
    links: Mapping[str, str] | None = None,
    remove: Sequence[str] = (),
    cache: Path = CACHE,
) -> DemoImage:
    """A variant of ``base`` with other files, made in seconds without booting it; cached.

    ``files`` maps paths in the guest to contents, ``links`` paths to the targets of symbolic
    links; files named in ``executable`` get mode 0755.
    """
    contents = {
        path: text.encode() if isinstance(text, str) else text
        for path, text in (files or {}).items()
    }
    identity = digest(
        base.path.name,
        *(f"{path}={digest(content)}" for path, content in sorted(contents.items())),
        *(f"{path}->{target}" for path, target in sorted((links or {}).items())),
        *sorted(executable),
        *remove,
    )
    path = cache / "images" / f"{variant}-{identity}.qcow2"
    with build_folder(path, progress) as folder:
        if folder is not None:
            deadline = Deadline(300, f"making the image {variant}")
            local = {}
            for number, (inside, content) in enumerate(contents.items()):
                local[inside] = folder / f"file{number}"
                local[inside].write_bytes(content)
                local[inside].chmod(0o755 if inside in executable else 0o644)
            disk.to_raw(base.path, folder / "raw", deadline)
            disk.edit_disk(folder / "raw", deadline, files=local, links=links or {}, remove=remove)
            disk.to_qcow2(folder / "raw", folder / "qcow2", deadline)
            _publish(folder / "qcow2", path)
    return DemoImage(path, base.key)


def ensure_key(cache: Path = CACHE) -> Path:
    """The key pair that opens the demo's guests; made once."""
    key = cache / "keys" / "demo_ed25519"
    if not key.exists():
        key.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        run(
            [
                *("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "upgrade-sandbox demo"),
                *("-f", str(key)),
            ],
            Deadline(30, "making the demo's key"),
        )
    return key


def _build_tree(
    tree: Path, folder: Path, mirror: Mirror, packages: Sequence[str], deadline: Deadline
) -> None:
    early, first = folder / "early", folder / "first"
    write(first / BUILD_PREFERENCES, NO_USRMERGE)
    for inside, data in EARLY_FILES.items():
        write(early / inside, (DATA / data).read_text())
    for inside, target in LINKS.items():
        (early / inside).parent.mkdir(parents=True, exist_ok=True)
        (early / inside).symlink_to(target)
    for made in [early, first, *early.rglob("*"), *first.rglob("*")]:
        if made.is_dir():
            made.chmod(0o755)  # the umask must not decide who may enter the guest's /etc
    options = {
        "APT::Install-Recommends": "false",
        "APT::Install-Suggests": "false",
        "Acquire::Retries": "3",
    } | mirror.options
    run(
        [
            *("mmdebstrap", "--quiet", "--mode=root", "--variant=apt", "--format=directory"),
            *(f'--aptopt={key} "{value}"' for key, value in options.items()),
            *(f"--dpkgopt={option}" for option in NOT_UNPACKED),
            f"--hook-dir={MERGED_USR}",
            *(f"--setup-hook=sync-in {first} /", f"--essential-hook=sync-in {early} /"),
            f"--include={','.join(packages)}",
            *("--components=main", mirror.codename, str(tree), mirror.release_uri),
        ],
        deadline,
        hint="the mirror must answer: try apt-get update",
    )


def _finish_tree(
    tree: Path, folder: Path, mirror: Mirror, uuid: UUID, key: Path, deadline: Deadline
) -> None:
    """Everything that makes the tree this one machine; no first boot is needed."""
    write(tree / "etc/apt/sources.list", mirror.sources())
    (tree / BUILD_PREFERENCES).unlink()
    # mmdebstrap's own settings are for building (and name the host's proxy).
    (tree / "etc/apt/apt.conf.d/99mmdebstrap").unlink(missing_ok=True)
    write(
        tree / "etc/apt/apt.conf.d/90web01",
        f'APT::Install-Recommends "false";\n{mirror.guest_options()}',
    )
    write(tree / "etc/hostname", f"{HOSTNAME}\n")
    write(tree / "etc/hosts", f"127.0.0.1 localhost\n127.0.1.1 {HOSTNAME}\n::1 localhost\n")
    write(tree / "etc/resolv.conf", "# no name server: this network has none\n")
    write(tree / "etc/machine-id", f"{uuid4().hex}\n")
    # Its journal is enough: the programs of a check would be copied into every new initramfs.
    write(tree / "etc/fstab", f"UUID={uuid} / ext4 errors=remount-ro 0 0\n")
    write(tree / "root/.ssh/authorized_keys", key.with_suffix(".pub").read_text())
    (tree / "root/.ssh").chmod(0o700)
    # As the installer leaves it: without, a new GRUB does not know where to install itself.
    answer = "grub-pc grub-pc/install_devices multiselect /dev/vda\n"
    run(["chroot", tree, "debconf-set-selections"], deadline, input=answer.encode())
    write(tree / "boot/grub/grub.cfg", (DATA / "grub.cfg").read_text().replace("@UUID@", str(uuid)))
    (tree / "etc/nginx/sites-enabled/default").unlink(missing_ok=True)
    site = build_site("1.0", folder)
    shutil.copyfile(site, tree / "site.deb")
    run(["chroot", tree, "dpkg", "--install", "/site.deb"], deadline)
    (tree / "site.deb").unlink()


def write(path: Path, text: str) -> None:
    """A file of a tree, readable by all; its folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # it may be a link that leads out of the tree
    path.write_text(text)
    path.chmod(0o644)


def _identity(mirror: Mirror, packages: Sequence[str], size: int, key: Path) -> str:
    """Changes when an image built now would differ: packages, our files, release, key."""
    sources = [*sorted(DATA.iterdir()), *sorted(Path(__file__).parent.glob("*.py"))]
    return digest(
        repr(mirror),
        *packages,
        str(size),
        key.with_suffix(".pub").read_text(),
        *(
            path.read_bytes()
            for path in sources
            if path.is_file() and path.name not in NOT_BUILDING
        ),
    )


def digest(*parts: str | bytes) -> str:
    """A short name for contents; where one part ends and the next begins counts."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:12]


@contextmanager
def build_folder(path: Path, progress: Callable[[str], None]) -> Iterator[Path | None]:
    """A temporary folder to build ``path`` in, or None when it is there already.

    One build of each variant at a time, so that no other image waits for the lab, whose first start
    takes minutes; what a killed build left is removed by the next one.
    """
    images = path.parent
    images.mkdir(parents=True, exist_ok=True)
    variant = path.name.rpartition("-")[0]
    with (images / f".{variant}.lock").open("w") as lock:
        _wait_for(lock.fileno(), progress)
        if path.exists():
            yield None
            return
        begin = f"build-{variant}@"
        for stale in images.glob(f"{begin}*"):
            shutil.rmtree(stale)
        with tempfile.TemporaryDirectory(prefix=begin, dir=images) as folder:
            Path(folder).chmod(0o755)  # apt leaves root's rights to download
            yield Path(folder)


def _wait_for(lock: int, progress: Callable[[str], None]) -> None:
    deadline = Deadline(BUILD_SECONDS, "waiting for another build of the image")
    told = False
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not told:
                progress("another build of the image runs: waiting for it")
                told = True
            deadline.sleep(0.5)
        else:
            return


def _publish(built: Path, path: Path) -> None:
    """Rename into place, read-only: guests write to overlays, never to the image."""
    if built.stat().st_size == 0:
        raise HostError(f"{built} is empty", "is the disk full?")
    built.chmod(0o444)
    built.rename(path)
