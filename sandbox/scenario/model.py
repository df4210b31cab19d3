"""The shape of ``scenario.yaml``: strict, frozen sections whose descriptions fill the schema.

Validated from JSON text, so that strictness means YAML's own types: a list stays a list and
``"5"`` is no number. Paths are resolved against the :class:`Roots` given as context.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, PlainValidator, ValidationInfo, WithJsonSchema

from sandbox.checks import CheckSettings
from sandbox.core.config import scalars
from sandbox.core.config.files import expanded
from sandbox.core.config.section import (
    NUMBER_OR_TEXT,
    Duration,
    GuestName,
    HostName,
    Pause,
    Section,
    Size,
    schema,
)
from sandbox.core.errors import RequestError
from sandbox.core.records import Expectations
from sandbox.managers import UpgradeRequest, What
from sandbox.scenario import values
from sandbox.scenario.needed import Needed
from sandbox.scenario.paths import (
    KeyFile,
    MachineFile,
    PackageFile,
    Roots,
    ScenarioFilePath,
    roots_of,
)
from sandbox.scenario.schedule import Schedule

# What ships in scenarios/shared, for the schema where no folder is at hand.
SHARED_CHECKS = (
    *("boot", "filesystems", "http", "kernel", "kernel_log"),
    *("packages", "ports", "services", "units"),
)
ImageFormat = Literal["qcow2", "raw", "vmdk", "vhdx", "vpc"]
RebootPolicy = Literal["always", "if-needed", "never"]
ControlPolicy = Literal["auto", "always", "never"]
_DEFAULT_KEYS = ("id_ed25519", "id_ecdsa", "id_rsa")


def _shared_check(value: object, info: ValidationInfo) -> str:
    name, known = scalars.text(value), sorted(roots_of(info).shared)
    if name not in known:
        hint = scalars.did_you_mean(name, known) or "; the folder of shared checks is empty"
        raise ValueError(f"there is no shared check {scalars.shown(name)}{hint}")
    return name


def _repository(value: object) -> values.Repository:
    return value if isinstance(value, values.Repository) else values.repository(value)


UserName = Annotated[str, PlainValidator(values.user_name), schema(values.USER)]
PackageSpec = Annotated[
    str, PlainValidator(values.package_spec), schema(values.PACKAGE_SPEC, examples=["nginx"])
]
Codename = Annotated[str, PlainValidator(values.codename), schema(values.CODENAME)]
PackageGlob = Annotated[str, PlainValidator(values.package_glob), schema(values.PACKAGE_GLOB)]
RepositoryLine = Annotated[
    values.Repository, PlainValidator(_repository), schema(r"\s*deb\s+.*https?://\S+\s+.+")
]
SharedCheck = Annotated[
    str, PlainValidator(_shared_check), WithJsonSchema({"enum": list(SHARED_CHECKS)})
]
Url = Annotated[str, PlainValidator(values.http_url), schema("https?://.+")]
UnitGlob = Annotated[str, PlainValidator(scalars.text), schema()]
PortName = Annotated[
    str,
    PlainValidator(values.port),
    WithJsonSchema({**NUMBER_OR_TEXT, "maximum": 65535, "pattern": "^((tcp|udp)/)?[0-9]{1,5}$"}),
]
Regex = Annotated[str, PlainValidator(values.regular_expression), schema(format="regex")]
Kernel = Annotated[str, PlainValidator(values.kernel), schema(values.KERNEL)]


class ImageDisk(Section):
    """A disk image and its format."""

    path: MachineFile = Field(description="the image; relative to the scenario's folder")
    format: ImageFormat = Field(description="stated, never probed: a guest wrote this disk")


class Image(ImageDisk):
    """A disk image with a system on it, and the machine that this system expects."""

    disks: tuple[ImageDisk, ...] = Field(
        default=(), max_length=24, description="further disks, in order"
    )
    bases: tuple[MachineFile, ...] = Field(
        default=(), description="files in other folders that these images stand on"
    )
    memory: Size = Field(default=1 << 30, description="memory of the machine: 1GiB")
    cpus: int = Field(default=2, ge=1, le=64, description="virtual processors")
    firmware: Literal["bios", "uefi"] = Field(
        default="bios", description="what the image boots with"
    )
    machine: Literal["pc", "q35"] = Field(default="pc", description="QEMU's machine type")
    disk_bus: Literal["virtio", "sata", "scsi", "ide"] = Field(
        default="virtio", description="disk bus"
    )
    nic: Literal["virtio", "e1000"] = Field(default="virtio", description="network card")

    @property
    def files(self) -> tuple[tuple[Path, str], ...]:
        """(path, format) of every disk; the first one boots."""
        return tuple((disk.path, disk.format) for disk in (self, *self.disks))


class SourceSettings(Section):
    """What is cloned: exactly one of a libvirt guest and a disk image. Never modified."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": [name], "properties": {name: {"type": kind}}}
                for name, kind in (("guest", "string"), ("image", "object"))
            ]
        }
    )
    guest: GuestName | None = Field(default=None, description="name of the libvirt domain: web01")
    host: HostName | None = Field(
        default=None, description="with guest: its host's name in hosts.yaml; --host overrides it"
    )
    image: Image | None = Field(default=None, description="a disk image, instead of a guest")


class LoginSettings(Section):
    """How the clone is entered: over SSH, as a user that the guest already accepts."""

    user: UserName = Field(default="root", description="root, or a user with passwordless sudo")
    key: KeyFile | None = Field(
        default=None,
        description="private key that the guest accepts; default: the usual ones in ~/.ssh",
    )
    port: int = Field(default=22, ge=1, le=65535, description="port of the guest's sshd")
    inject: bool = Field(
        default=False,
        description="put a throw-away key into the clone's disk; no key of yours is needed",
    )

    def private_key(self) -> Path | None:
        """The key to use: the stated one or the first usual one; None when one is injected.

        Raises :class:`RequestError` where there is none.
        """
        if self.inject or self.key is not None:
            return None if self.inject else self.key
        for name in _DEFAULT_KEYS:
            usual = expanded(f"~/.ssh/{name}")
            if usual.is_file():
                return usual
        raise RequestError(
            "there is no private key to enter the guest with",
            "state login.key in the scenario, or login.inject: true for a throw-away key",
        )


def _only_with(key: str, what: list[str], required: list[str]) -> dict[str, Any]:
    """A JSON Schema rule: ``key`` only with these kinds, which need one of ``required``."""
    kind = {"properties": {"what": {"enum": what}}, "required": ["what"]}
    filled = [{"required": [n], "properties": {n: {"minLength": 1}}} for n in required]
    return {
        "if": kind,
        "then": {"anyOf": filled} if filled else True,
        "else": {"properties": {key: {"maxItems": 0, "type": ["array", "null"]}}},
    }


class Upgrade(Section):
    """What is rehearsed."""

    model_config = ConfigDict(
        json_schema_extra={
            "allOf": [
                _only_with("packages", ["packages"], ["packages", "files"]),
                _only_with("script", ["script"], ["script"]),
                _only_with("release", ["release"], ["release"]),
            ]
        }
    )
    what: What = Field(
        description="all updates, security updates only, the kernel, named packages, the next "
        "release of the distribution, or a script"
    )
    packages: tuple[PackageSpec, ...] = Field(
        default=(), description="with what: packages: names, or name=version"
    )
    repositories: tuple[RepositoryLine, ...] = Field(
        default=(),
        description="package sources proposed for this rehearsal, in apt's one-line form",
    )
    files: tuple[PackageFile, ...] = Field(
        default=(), description="package files to install as well, beneath the scenario's folder"
    )
    release: Codename | None = Field(
        default=None, description="with what: release: its code name, as in trixie"
    )
    script: ScenarioFilePath | None = Field(
        default=None, description="with what: script: run in the clone as root"
    )

    def request(self) -> UpgradeRequest:
        """The same for the upgraders."""
        lines = tuple(map(str, self.repositories))
        release = self.release or ""
        return UpgradeRequest(self.what, self.packages, lines, self.files, self.script, release)


class Ignore(Section):
    """What the shared checks may overlook."""

    units: tuple[UnitGlob, ...] = Field(
        default=(), description="units that may stop or fail: 'apt-*'"
    )
    ports: tuple[PortName, ...] = Field(default=(), description="ports that may close: udp/68")
    kernel_log: tuple[Regex, ...] = Field(
        default=(), description="regular expressions of kernel messages that do not matter"
    )


class Checks(Section):
    """What must hold before and after, beside the scenario's own test_*.py."""

    shared: tuple[SharedCheck, ...] | None = Field(
        default=None, description="shared checks by name; default: all of them"
    )
    http: tuple[Url, ...] = Field(
        default=(),
        description="URLs asked inside the guest; default: every port that answers HTTP before",
    )
    filesystems_max_percent: int = Field(
        default=95, ge=1, le=100, description="how full a filesystem may be after the upgrade"
    )
    ignore: Ignore = Field(default=Ignore(), description="what the shared checks may overlook")

    def settings(self, *, sudo: bool = False) -> CheckSettings:
        """The same for the checks."""
        return CheckSettings(
            http=self.http,
            filesystems_max_percent=self.filesystems_max_percent,
            ignore_units=self.ignore.units,
            ignore_ports=self.ignore.ports,
            ignore_kernel_log=self.ignore.kernel_log,
            sudo=sudo,
        )


class Deadlines(Section):
    """How long a phase may take: seconds, or 10m, 1h30m."""

    clone: Duration = Field(default=60, description="making the clone")
    boot: Duration = Field(default=300, description="from its start until it can be entered")
    baseline: Duration = Field(default=300, description="observation and checks before the upgrade")
    upgrade: Duration = Field(default=3600, description="the upgrade itself, downloads included")
    reboot: Duration = Field(default=600, description="the reboot after it")
    verify: Duration = Field(default=300, description="observation and checks after it")


class Expect(Section):
    """What the upgrade must achieve, beside breaking nothing."""

    kernel: Kernel | None = Field(
        default=None, description="the kernel that runs afterwards: newest, unchanged or a release"
    )
    change: tuple[PackageGlob, ...] = Field(default=(), description="packages that must change")
    keep: tuple[PackageGlob, ...] = Field(default=(), description="packages that must not change")
    nothing_to_upgrade: Literal["pass", "inconclusive"] = Field(
        default="pass", description="the verdict when the guest already has everything"
    )

    def expectations(self, kernel: str | None) -> Expectations:
        """The same for the verdict, with the kernel that was stated or follows."""
        return Expectations(
            kernel=kernel,
            must_change=self.change,
            must_not_change=self.keep,
            allow_nothing=self.nothing_to_upgrade == "pass",
        )


class ScenarioFile(Section):
    """A rehearsal: which guest, which upgrade, and what must still hold afterwards."""

    description: str = Field(
        default="", max_length=500, description="one line for lists and reports"
    )
    source: SourceSettings | None = Field(
        default=None, description="what is cloned; when absent, --guest or --image must be given"
    )
    login: LoginSettings = Field(default=LoginSettings(), description="how the clone is entered")
    upgrade: Upgrade = Field(description="what is rehearsed, e.g. {what: security}")
    reboot: RebootPolicy | None = Field(
        default=None, description="default if-needed; with what: kernel always"
    )
    control: ControlPolicy | None = Field(
        default=None,
        description="a clone of the same instant that is not upgraded, to tell what the upgrade "
        "did from what happens anyway; default: where the host has the memory",
    )
    watch: Pause | None = Field(
        default=None, description="how long a clone in order is watched for what dies late: 10m, 0"
    )
    checks: Checks = Field(default=Checks(), description="what must hold before and after")
    dependencies: tuple[Needed, ...] = Field(
        default=(), max_length=20, description="services elsewhere that are answered for the clone"
    )
    deadlines: Deadlines = Field(default=Deadlines(), description="how long each phase may take")
    expect: Expect = Field(default=Expect(), description="what the upgrade must achieve")
    memory: Size | None = Field(
        default=None, description="memory of the clone; default: as much as the source has"
    )
    schedule: Schedule | None = Field(
        default=None, description="when the service runs it by itself, and for which guests"
    )


def validate(data: Mapping[str, Any], roots: Roots) -> ScenarioFile:
    """Plain data to the typed file; raises pydantic's ValidationError with every problem."""
    return ScenarioFile.model_validate_json(json.dumps(data), context=roots)
