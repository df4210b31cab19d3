"""The facts of a rehearsal: frozen, typed, and written to the run's ``run.json`` as they are.

Request -> Plan -> Clone -> UpgradeLog + Observations + CheckResults -> Decision -> Report.
Nothing here does anything; times are seconds, sizes bytes, instants Unix time (UTC).
"""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """A frozen value; an unknown key in a stored file is an error, not a surprise later."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Verdict(StrEnum):
    """The five answers. Exit codes are part of the interface: CI gates depend on them."""

    PASS = "pass"  # noqa: S105 - no password
    FAIL = "fail"
    REJECTED = "rejected"
    INCONCLUSIVE = "inconclusive"
    ERROR = "error"

    @property
    def exit_code(self) -> int:
        return {"pass": 0, "fail": 1, "rejected": 2, "inconclusive": 3, "error": 4}[self.value]


class Phase(StrEnum):
    """The steps of the recipe, in order."""

    PLAN = "plan"
    CLONE = "clone"
    BOOT = "boot"
    BASELINE = "baseline"  # observation + checks before the upgrade
    UPGRADE = "upgrade"
    REBOOT = "reboot"
    VERIFY = "verify"  # observation + checks after it
    CLEANUP = "cleanup"


class PhaseTime(Record):
    """How long a phase took and how it ended; ``note`` is one human line ("21 packages")."""

    phase: Phase
    started: float
    seconds: float
    ok: bool
    note: str = ""


class Disk(Record):
    """One disk of the source, as its XML (or the scenario) states it."""

    target: str  # vda
    format: str  # qcow2, raw, vmdk, vhdx, vpc: always stated, never probed
    path: str
    size: int
    store: str = "file"  # or "lvm"
    chain: tuple[str, ...] = ()  # of an image: the files that its header names, and they in turn


class SourceFacts(Record):
    """Where the clone came from and how faithful it is."""

    name: str  # guest name, or the image's path
    kind: str  # "running guest" | "stopped guest" | "image"
    host: str  # libvirt URI
    disks: tuple[Disk, ...]
    method: str  # "backup export" | "read-only export"
    consistency: str  # "crash-consistent" | "frozen" | "clean"
    paused_ms: float = 0.0
    dropped: tuple[str, ...] = ()  # devices that the clone did not get, and why
    changed: tuple[str, ...] = ()  # what differs from the source: listed, never silent
    warnings: tuple[str, ...] = ()  # what the clone costs production
    mutations: tuple[str, ...] = ()  # what inject did to the clone's disk
    untouched: tuple[str, ...] = ()  # proofs: "XML unchanged", "uptime went on", ...


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

    stopped: float = 0.0  # it was down from then on
    began: float = 0.0
    ready: float = 0.0


class UpgradeStatus(StrEnum):
    APPLIED = "applied"
    NOTHING = "nothing"  # the guest already has everything that was asked for
    FAILED = "failed"  # the package manager, a maintainer script or the script failed
    UNAVAILABLE = "unavailable"  # mirror or proxy failed: not the upgrade's fault
    IMPOSSIBLE = "impossible"  # e.g. a named package or version that does not exist


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
    message: str = ""  # why not: "kernel panic", "initramfs shell", "no answer in 300 s"


class Control(Record):
    """The clone's twin from the same instant, not upgraded: rebooted and checked as the clone was.

    Its checks run several times over, so that it is known which of them are flaky.
    """

    missing: str = ""  # why there was none, or why it says nothing
    before: Observation | None = None
    checks_before: tuple[CheckSession, ...] = ()
    reboot: Reboot | None = None  # None: its twin was not rebooted either
    after: Observation | None = None
    checks_after: tuple[CheckSession, ...] = ()


class UnitTrace(Record):
    """A unit that stopped running: what it is made of, and what it said."""

    unit: str
    result: str = ""  # systemd's word: "exit-code", "signal", "timeout"
    status: int = 0  # of its main process
    state: str = ""  # "masked", "not-found", "disabled"; "" for what may run
    files: tuple[str, ...] = ()  # its unit file and drop-ins
    programs: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()  # that they load
    log: tuple[str, ...] = ()  # since the boot, the last lines


class Watch(Record):
    """The upgraded clone was in order at the first look, and was watched from there on."""

    seconds: float
    restarts: dict[str, int] = {}  # Observation.restarts of the first look


class Autopsy(Record):
    """What was found out, after the upgrade, about units that do not run any more."""

    units: tuple[UnitTrace, ...] = ()
    owners: dict[str, str] = {}  # path -> package


class Cause(Record):
    """A likely reason why something does not work any more; ``text`` is one sentence."""

    text: str
    unit: str = ""
    package: str = ""  # of the upgrade; "" when none can be named
    evidence: tuple[str, ...] = ()


class Destination(Record):
    """Something that the clone tried to reach, and how often. From its bridge nothing leads out."""

    kind: str  # "tcp", "udp", "ping", "name" (asked of a name server), "neighbour" (on its link)
    address: str  # or the name
    port: int = 0
    before: int = 0
    after: int = 0  # since the upgrade began
    twin: int = 0  # by the twin, at any time

    @property
    def is_new(self) -> bool:
        return self.after > 0 and self.before == 0 and self.twin == 0


class Ledger(Record):
    """What the clone tried to reach."""

    missing: str = ""  # why nobody listened, or not to the end
    destinations: tuple[Destination, ...] = ()  # new ones first
    whole: bool = True  # False: there were more than can be kept

    @property
    def new(self) -> tuple[Destination, ...]:
        return tuple(one for one in self.destinations if one.is_new)


class Dependency(Record):
    """A service elsewhere that the guest needs to start, and that is answered for it."""

    kind: str  # "http" (an empty 200), "tcp" (accepts and holds), "smtp" (takes mail, drops it)
    host: str  # a name, or an IPv4 address
    port: int


class Expectations(Record):
    """What the scenario demands of the upgrade's result."""

    kernel: str | None = None  # "newest" | "unchanged" | an exact release | None: no demand
    must_change: tuple[str, ...] = ()
    must_not_change: tuple[str, ...] = ()
    allow_nothing: bool = True  # nothing to upgrade is a pass


class Trouble(Record):
    """Why the recipe ended early. ``blame`` is the verdict that this alone would give."""

    blame: Verdict
    phase: Phase
    message: str
    hint: str = ""
    no_room: bool = False  # the host is full: waiting helps


class Past(Record):
    """How often a check held in earlier runs where nothing was upgraded."""

    held: int
    asked: int


class Facts(Record):
    """Everything the verdict is decided on."""

    expectations: Expectations = Expectations()
    booted: bool = False  # the clone was reached before the upgrade
    before: Observation | None = None
    checks_before: CheckSession | None = None
    upgrade: UpgradeLog | None = None
    reboot: Reboot | None = None  # None: no reboot was wanted
    after: Observation | None = None
    checks_after: CheckSession | None = None
    watched: Watch | None = None  # None: it was not
    checks_again: tuple[CheckSession, ...] = ()  # those that broke, asked again
    control: Control | None = None  # None: the scenario wants none
    autopsy: Autopsy | None = None  # None: no unit stopped running
    ledger: Ledger | None = None  # None: there was no clone to listen to
    trouble: Trouble | None = None
    past: dict[str, Past] = {}  # of checks that failed before now, by trust.kept_name


class Decision(Record):
    """The answer: ``reason`` is one line a person would write, ``findings`` the evidence."""

    verdict: Verdict
    reason: str
    findings: tuple[str, ...] = ()
    hint: str = ""
    causes: tuple[Cause, ...] = ()  # the likeliest first


class Artifact(Record):
    """A file kept in the run's folder; may hold the guest's secrets (mode 0600)."""

    name: str  # relative path in the run's folder
    title: str


class RunRecord(Record):
    """One rehearsal, as ``run.json`` keeps it."""

    id: str
    tool_version: str
    scenario: str
    scenario_path: str = ""
    guest: str
    started: float
    finished: float = 0.0
    state: str = "running"  # running | finished | kept
    phase: Phase = Phase.PLAN  # the one that it is in, or ended in
    source: SourceFacts | None = None
    phases: tuple[PhaseTime, ...] = ()
    facts: Facts = Facts()
    decision: Decision | None = None
    artifacts: tuple[Artifact, ...] = ()
    ssh_command: str = ""  # when the clone was kept
    left_behind: tuple[str, ...] = ()  # what clean-up could not remove
