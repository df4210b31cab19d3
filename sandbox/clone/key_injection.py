"""Put a throw-away key into the clone's disk, for guests that accept none of ours.

libguestfs does it inside a small virtual machine of its own: a guest's filesystem is never
mounted by the host's kernel. Only the overlay is written; the report lists every change.

As root, libguestfs makes its sockets beneath /tmp whatever the environment says, and leaves them
there when it is killed. So it sees a /tmp of its own, which is in the clone's folder and is removed
with it.
"""

from __future__ import annotations

import os
from pathlib import Path

from sandbox.clone.ssh import GuestLogin
from sandbox.core.deadline import Deadline
from sandbox.core.errors import CommandFailed, RequestError
from sandbox.core.process import run
from sandbox.core.store import RunFolder
from sandbox.hosts.drivers.acceleration import acceleration

# Where the set-up script puts a kernel for libguestfs on hosts that have none in /boot.
_APPLIANCE_KERNEL = Path("/var/cache/upgrade-sandbox/appliance-kernel")
# $1: the new /tmp, $2: the state folder, which has to be seen even if it is beneath the old one.
_WITH_OWN_TMP = """set -e
case "$2" in /tmp/*)
  mkdir -p "$1${2#/tmp}"
  mount --bind "$2" "$1${2#/tmp}"
esac
mount --rbind "$1" /tmp
shift 2
exec "$@"
"""


def make_key(folder: RunFolder, deadline: Deadline) -> Path:
    """A key pair that lives as long as the clone."""
    key = folder.clone / "id_ed25519"
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", folder.id, "-f", str(key)], deadline)
    return key


def inject_key(
    login: GuestLogin, overlay: Path, folder: RunFolder, deadline: Deadline, wanted: bool
) -> tuple[str, ...]:
    """Let the login's public key into the clone's disk; returns the mutations for the report.

    Raises :class:`RequestError` when the disk holds no system that libguestfs knows.
    """
    if not wanted:
        return ()
    public = login.key.with_name(login.key.name + ".pub")
    try:
        run(
            [
                *with_own_tmp(folder),
                *("virt-customize", "--quiet", "--no-network", "--format", "qcow2"),
                *("-a", str(overlay), "--ssh-inject", f"{login.user}:file:{public}"),
            ],
            deadline,
            env=_environment(folder),
        )
    except CommandFailed as problem:
        raise RequestError(
            f"no key could be put into the clone's disk: {problem.tail}",
            "libguestfs must know the guest's system, and the login's user must exist in it",
        ) from problem
    home = "/root" if login.user == "root" else f"~{login.user}"
    return (f"{home}/.ssh/authorized_keys: this run's throw-away key added",)


def with_own_tmp(folder: RunFolder) -> tuple[str, ...]:
    """What to put before a command: in its mount namespace /tmp is in the clone's folder."""
    place = folder.clone.resolve()
    own = place / "tmp"
    own.mkdir(mode=0o700, exist_ok=True)
    return (
        *("unshare", "--mount", "--propagation", "private"),
        *("sh", "-c", _WITH_OWN_TMP, "sh", str(own), str(place.parent.parent)),
    )


def _environment(folder: RunFolder) -> dict[str, str]:
    cache = folder.clone.parent.parent / "guestfs"  # libguestfs' own appliance, built once
    cache.mkdir(mode=0o700, exist_ok=True)
    env = {
        "PATH": os.defpath + ":/usr/sbin:/sbin",
        "HOME": str(folder.clone),
        "LANG": "C.UTF-8",
        "LIBGUESTFS_BACKEND": "direct",
        "TMPDIR": str(folder.clone),
        "LIBGUESTFS_CACHEDIR": str(cache),
    }
    kernels = sorted((_APPLIANCE_KERNEL / "boot").glob("vmlinuz-*"))
    if acceleration() == "tcg":
        env["LIBGUESTFS_BACKEND_SETTINGS"] = "force_tcg"  # a /dev/kvm that hangs may be there
    if kernels and not any(Path("/boot").glob("vmlinuz-*")):
        release = kernels[-1].name.removeprefix("vmlinuz-")
        env["SUPERMIN_KERNEL"] = str(kernels[-1])
        env["SUPERMIN_MODULES"] = str(_APPLIANCE_KERNEL / "lib/modules" / release)
    return env
