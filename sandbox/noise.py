"""What comes and goes in any guest by itself, and so says nothing of an upgrade."""

from __future__ import annotations

from fnmatch import fnmatchcase

# Units that come and go by themselves: login sessions, ours among them, and services that
# D-Bus or a socket starts on demand and that end when idle.
TRANSIENT_UNITS = (
    "user@*.service",
    "user-runtime-dir@*.service",
    "session-*.scope",
    "run-user-*.mount",
    "run-credentials-*.mount",
    "snap-*.mount",
    "proc-sys-fs-binfmt_misc.mount",
    "ssh@*.service",
    "sshd@*.service",
    "systemd-hostnamed.service",
    "systemd-timedated.service",
    "systemd-localed.service",
    # File systems are checked when they were not unmounted cleanly, as a running source's are.
    "systemd-fsck*",
    "e2scrub_reap.service",
    "systemd-firstboot.service",
    "systemd-machine-id-commit.service",
    "systemd-rfkill.service",
    "packagekit.service",
    "fwupd.service",
)


def comes_and_goes(unit: str) -> bool:
    """Whether a unit starts and ends on its own."""
    return any(fnmatchcase(unit, pattern) for pattern in TRANSIENT_UNITS)


# What a kernel says of the machine's clock when the host was busy at that moment of the start.
_BUSY_HOST = ("MP-BIOS bug: 8254 timer not connected",)


def tells_of_the_host(message: str) -> bool:
    """Whether a kernel message is about the host that the guest happened to start on."""
    return any(words in message for words in _BUSY_HOST)
