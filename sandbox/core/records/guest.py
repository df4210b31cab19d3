"""What is found in a guest: packages, units, checks, how an upgrade went. Frozen values."""

from __future__ import annotations

from enum import StrEnum

from sandbox.core.records.base import Record


class Package(Record):
    """An installed package as dpkg/rpm knows it."""

    version: str
    status: str = "installed"  # or "half-configured", "unpacked", ...


class PackageChange(Record):
    """A package that an upgrade changes: no ``old`` is an install, no ``new`` a removal."""

    name: str
    old: str | None = None
    new: str | None = None
    architecture: str = ""
    origin: str = ""  # "Debian-Security:12/oldstable-security"


class ConffileDecision(Record):
    """A configuration file for which an interactive upgrade would have asked."""

    path: str
    package: str = ""
    decision: str = "kept"  # "kept" | "replaced"
    diff: str = ""  # unified diff of this guest's file against the new version's


class Start(Record):
    """The last start of a service, in seconds since the boot; 0 is what systemd does not know."""

    stopped: float = 0.0  # when its last stop began
    began: float = 0.0
    ready: float = 0.0

    @property
    def seconds(self) -> float | None:
        """How long it took; None when systemd does not know."""
        return self.ready - self.began if 0 < self.began <= self.ready else None


class UpgradeStatus(StrEnum):
    APPLIED = "applied"
    NOTHING = "nothing"  # the guest already has everything that was asked for
    FAILED = "failed"  # the package manager, a maintainer script or the script failed
    UNAVAILABLE = "unavailable"  # mirror or proxy failed: not the upgrade's fault
    IMPOSSIBLE = "impossible"  # e.g. a named package or version that does not exist
    UNFIT = "unfit"  # the guest's package manager was broken before: nothing was changed


class UpgradeLog(Record):
    """What the package manager was asked, did and said."""

    manager: str  # "apt"
    status: UpgradeStatus
    requested: str  # "security updates", "nginx=1.22…"
    changes: tuple[PackageChange, ...] = ()  # from the simulation
    held: tuple[str, ...] = ()  # on hold by the administrator
    kept_back: tuple[str, ...] = ()  # upgradable but not in this set
    conffiles: tuple[ConffileDecision, ...] = ()
    download_bytes: int = 0
    error: str = ""  # the first line that explains a failure
    failed_package: str = ""
    not_configured: tuple[str, ...] = ()  # packages dpkg left half-way
    exit_status: int = 0
    log: str = ""  # the transcript's tail; the whole is an artifact
    seconds: float = 0.0
    restarts: dict[str, str] = {}  # running service -> package whose script restarts it
    stops: tuple[str, ...] = ()  # of these, those that are down while their package is unpacked
    starts: dict[str, Start] = {}  # of these, after the upgrade and before any reboot


class Port(Record):
    """A listening socket."""

    protocol: str  # tcp, udp
    address: str
    port: int
    process: str = ""


class Filesystem(Record):
    mount: str
    size: int
    used: int
    available: int
    inodes_percent: int = 0

    @property
    def percent(self) -> int:
        """Used share as df shows it: of what an unprivileged user can have."""
        total = self.used + self.available
        return 0 if total <= 0 else round(100 * self.used / total)


class Certificate(Record):
    """A server's certificate; what cannot be read is known by its fingerprint alone."""

    fingerprint: str  # SHA-256 of the whole, in hex
    subject: str = ""
    expires: float = 0.0  # Unix time; 0 when unknown


class Wide(Record):
    """What is looked at beside the checks, since it takes longer."""

    memory_used: int = 0  # bytes that are not available; 0 when unknown
    modes: dict[str, str] = {}  # beneath /etc, no links: path -> "640 root shadow"
    users: dict[str, str] = {}  # name -> "uid:gid:shell"
    groups: dict[str, str] = {}  # name -> "gid:member,member"
    modules: tuple[str, ...] = ()  # of the kernel, loaded
    settings: dict[str, str] = {}  # sysctl: "net.ipv4.ip_forward" -> "0"
    shipped: dict[str, str] = {}  # conffile -> md5 that its package ships
    certificates: dict[str, Certificate] = {}  # by path


class Observation(Record):
    """What was measured inside the clone, in one round trip; what is ``wide`` in a second one."""

    boot_id: str
    kernel: str  # uname -r
    kernels: tuple[str, ...] = ()  # installed, newest last
    uptime: float = 0.0
    boot_seconds: float = 0.0  # kernel + initrd + userspace, 0 when unknown
    state: str = "unknown"  # systemctl is-system-running
    target: str = ""  # default target
    target_reached: bool = True
    packages: dict[str, Package] = {}  # "name:arch"
    held: tuple[str, ...] = ()
    units: dict[str, str] = {}  # unit -> "active/running"; services, sockets, timers, mounts
    failed_units: tuple[str, ...] = ()
    restarts: dict[str, int] = {}  # how often systemd by itself started a service again; none is 0
    starts: dict[str, Start] = {}  # of running services
    enabled: tuple[str, ...] = ()  # units that the administrator's links start at boot
    masked: tuple[str, ...] = ()
    ports: tuple[Port, ...] = ()
    conffiles: dict[str, str] = {}  # path -> md5, or "missing"
    filesystems: tuple[Filesystem, ...] = ()
    mounts: dict[str, str] = {}  # mount point -> "ext4 rw,relatime"
    kernel_errors: tuple[str, ...] = ()
    journal_errors: tuple[str, ...] = ()
    reboot_required: bool = False
    stale_processes: tuple[str, ...] = ()  # still map a deleted library: need a restart
    wide: Wide | None = None  # None: it was not looked at, or did not answer

    @property
    def not_configured(self) -> tuple[str, ...]:
        """Packages that dpkg left half-way."""
        return tuple(
            sorted(
                name
                for name, package in self.packages.items()
                if package.status not in ("installed", "config-files", "not-installed")
            )
        )


class Outcome(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    ERROR = "error"  # a fixture or the check's own code broke before it could judge
    SKIPPED = "skipped"


class CheckResult(Record):
    """One testinfra test in one phase. ``name`` is stable across phases."""

    name: str  # "test_web.py::test_answers[http]" or "shared/ports.py::test_…"
    outcome: Outcome
    seconds: float = 0.0
    message: str = ""  # one line for people
    detail: str = ""  # traceback and output, capped


class CheckEnd(StrEnum):
    """How a session of checks ended."""

    COMPLETE = "complete"
    TIMEOUT = "timeout"  # a check hung
    DIED = "died"  # the checks' process ended early (os._exit, a crash)
    CONNECTION_LOST = "connection-lost"
    BROKEN = "broken"  # the checks cannot be collected (syntax error, missing fixture)


class CheckSession(Record):
    results: tuple[CheckResult, ...]
    end: CheckEnd = CheckEnd.COMPLETE
    message: str = ""
    seconds: float = 0.0


class Reboot(Record):
    """Whether the guest came back after its upgrade; proved by the boot id."""

    happened: bool  # a new boot id was seen
    boot_id_before: str = ""
    boot_id_after: str = ""
    seconds: float = 0.0
    away: float = 0.0  # of these, how long no login was possible
    message: str = ""  # why not: "kernel panic", "initramfs shell", "no answer in 300 s"


class SecondStart(Record):
    """The clone's start after its upgrade took much longer than the one before, and something was
    broken after it: it was started once more. In seconds, of its own count."""

    first: float
    second: float


STARTING = "starting"  # a unit that has neither come up nor failed yet


class UnitTrace(Record):
    """A unit that stopped running: what it is made of, and what it said."""

    unit: str
    result: str = ""  # systemd's word: "exit-code", "signal", "timeout"
    status: int = 0  # of its main process
    state: str = ""  # "masked", "not-found", "disabled", "starting"; "" for what may run
    files: tuple[str, ...] = ()  # its unit file and drop-ins
    programs: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()  # that they load
    log: tuple[str, ...] = ()  # since the boot, the last lines


class Autopsy(Record):
    """What was found out, after the upgrade, about units that do not run any more."""

    units: tuple[UnitTrace, ...] = ()
    owners: dict[str, str] = {}  # path -> package
