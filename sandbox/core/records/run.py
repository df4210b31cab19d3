"""A rehearsal from its request to its verdict: the source, the phases, the facts. Frozen values."""

from __future__ import annotations

from enum import StrEnum

from pydantic import AliasChoices, Field

from sandbox.core.records.base import Record
from sandbox.core.records.guest import (
    Autopsy,
    CheckSession,
    Observation,
    Reboot,
    SecondStart,
    UpgradeLog,
)


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


class Control(Record):
    """The clone of the same instant that is not upgraded: rebooted and checked as the other was.

    Its checks run several times over, so that it is known which of them are flaky.
    """

    missing: str = ""  # why there was none, or why it says nothing
    before: Observation | None = None
    checks_before: tuple[CheckSession, ...] = ()
    reboot: Reboot | None = None  # None: the control was not rebooted either
    after: Observation | None = None
    checks_after: tuple[CheckSession, ...] = ()
    restarted: bool = False  # by itself, while the control was watched
    gone: bool = False  # let us in before, and does not any more


class Watch(Record):
    """The upgraded clone was in order at the first look, and was watched from there on."""

    seconds: float
    restarts: dict[str, int] = {}  # Observation.restarts of the first look
    restarted: bool = False  # by itself, which ended it


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
    # By the control, at any time. Records of version 0.x call it "twin".
    control: int = Field(default=0, validation_alias=AliasChoices("control", "twin"))

    @property
    def is_new(self) -> bool:
        return self.after > 0 and self.before == 0 and self.control == 0


class Ledger(Record):
    """What the clone tried to reach."""

    missing: str = ""  # why no listener ran, or not to the end
    destinations: tuple[Destination, ...] = ()  # new ones first
    whole: bool = True  # False: there were more than can be kept
    # False: there was a control, and not all that it tried was heard.
    control_known: bool = Field(
        default=True, validation_alias=AliasChoices("control_known", "twin_known")
    )

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
    restarted: bool = False  # the clone, by itself
    gone: bool = False  # the clone let us in before, and does not any more


class Past(Record):
    """How often a check held in earlier runs where nothing was upgraded."""

    held: int
    asked: int


class Facts(Record):
    """Everything the verdict is decided on."""

    expectations: Expectations = Expectations()
    booted: bool = False  # the clone was reached before the upgrade
    first_login: float = 0.0  # seconds from its start until it let us in; 0 when unknown
    before: Observation | None = None
    checks_before: CheckSession | None = None
    upgrade: UpgradeLog | None = None
    reboot: Reboot | None = None  # None: no reboot was wanted
    after: Observation | None = None
    checks_after: CheckSession | None = None
    watched: Watch | None = None  # None: it was not
    checks_again: tuple[CheckSession, ...] = ()  # those that broke, asked again
    second_start: SecondStart | None = None  # before the last of these
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
