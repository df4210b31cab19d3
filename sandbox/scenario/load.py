"""From a folder on disk, or words on the command line, to typed values."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from sandbox.core.config import scalars, strict_yaml
from sandbox.core.config.files import existing_file
from sandbox.core.config.problems import Problem, shape_problems
from sandbox.core.errors import RequestError
from sandbox.core.records import Dependency, Expectations
from sandbox.managers import What
from sandbox.scenario import values
from sandbox.scenario.model import (
    SHARED_CHECKS,
    Checks,
    ControlPolicy,
    Deadlines,
    Expect,
    Image,
    ImageFormat,
    LoginSettings,
    RebootPolicy,
    ScenarioFile,
    SourceSettings,
    Upgrade,
    validate,
)
from sandbox.scenario.paths import Roots, beneath
from sandbox.scenario.problems import rule_problems, scenario_error
from sandbox.scenario.schedule import Schedule

FILE_NAME = "scenario.yaml"
_KEYWORDS = ("all", "security", "kernel")
_RELEASE = "release="  # --upgrade release=trixie
_ROOTED = ("kernel", "release")  # upgrades that mean nothing without a start of the new kernel


@dataclass(frozen=True)
class Scenario:
    """A rehearsal that is ready to be planned. Paths are absolute and were there when read."""

    name: str  # the folder's
    path: Path  # of the YAML file
    folder: Path
    description: str
    source: SourceSettings | None  # None: the command line names it
    login: LoginSettings
    upgrade: Upgrade
    stated_reboot: RebootPolicy | None
    checks: Checks
    deadlines: Deadlines
    expect: Expect
    memory: int | None  # bytes; None: as much as the source has
    own_checks: tuple[Path, ...]
    shared_checks: tuple[Path, ...]
    schedule: Schedule | None = None  # for the service: when it runs by itself
    control: ControlPolicy | None = None  # None: as the settings have it
    watch: int | None = None  # seconds; None: as the settings have it
    dependencies: tuple[Dependency, ...] = ()

    @property
    def reboot(self) -> RebootPolicy:
        """As stated; else a kernel is always rebooted into, and anything else if needed."""
        implied: RebootPolicy = "always" if self.upgrade.what in _ROOTED else "if-needed"
        return self.stated_reboot or implied

    @property
    def expectations(self) -> Expectations:
        """For the verdict. Those of a kernel or a release are expected to end in the newest."""
        follows = self.upgrade.what in _ROOTED and self.reboot != "never"
        return self.expect.expectations(self.expect.kernel or ("newest" if follows else None))

    def with_upgrade(self, upgrade: Upgrade) -> Scenario:
        """The same rehearsal of another upgrade, as `--upgrade` asks for."""
        return replace(self, upgrade=upgrade)

    def with_source(self, source: SourceSettings) -> Scenario:
        """The same rehearsal of another guest, as `--guest` and `--image` ask for."""
        return replace(self, source=source)


def load_scenario(path: Path, *, shared: Path, require_source: bool = False) -> Scenario:
    """Read the scenario in a folder (or its YAML file); ``shared`` holds the shared checks.

    Raises :class:`ScenarioError` with every problem, or :class:`RequestError` for a file that
    is no YAML; ``require_source`` makes a missing source one of the problems.
    """
    document = strict_yaml.load(_scenario_file(path))
    folder = document.path.parent.resolve()
    roots = Roots(folder, shared_checks(shared))
    problems = list(rule_problems(document.data))
    parsed = None
    try:
        parsed = validate(document.data, roots)
    except ValidationError as invalid:
        problems += shape_problems(invalid, ScenarioFile)
    if require_source and document.data.get("source") is None:
        problems.append(Problem(("source",), "is required: {guest: NAME}, or an image"))
    problems += _check_file_problems(folder)
    if parsed is None or problems:
        raise scenario_error(document, problems)
    names = roots.shared if parsed.checks.shared is None else parsed.checks.shared
    return Scenario(
        name=folder.name,
        path=document.path.absolute(),
        folder=folder,
        description=parsed.description,
        source=parsed.source,
        login=parsed.login,
        upgrade=parsed.upgrade,
        stated_reboot=parsed.reboot,
        checks=parsed.checks,
        deadlines=parsed.deadlines,
        expect=parsed.expect,
        memory=parsed.memory,
        own_checks=tuple(_own_checks(folder)),
        shared_checks=tuple(dict.fromkeys(roots.shared[name] for name in names)),
        schedule=parsed.schedule,
        control=parsed.control,
        watch=parsed.watch,
        dependencies=tuple(one.stated() for one in parsed.dependencies),
    )


def shared_checks(folder: Path) -> Mapping[str, Path]:
    """The shared checks by name: ``ports`` is ``test_ports.py``."""
    files = sorted(file for file in folder.glob("test_*.py") if file.is_file())
    return {file.stem.removeprefix("test_"): file.resolve() for file in files}


def _scenario_file(path: Path) -> Path:
    """The YAML file meant by ``path``; a wrong name is answered with the nearest right one."""
    try:
        file = path / FILE_NAME if path.is_dir() else path
        if file.is_file():
            return file
        if path.is_dir():
            raise RequestError(
                f"{path} holds no {FILE_NAME}", "`sandbox init` writes one for a guest"
            )
        around = path.parent if path.suffix not in (".yaml", ".yml") else path.parent.parent
        known = sorted(found.parent.name for found in around.glob(f"*/{FILE_NAME}"))
    except OSError as problem:
        raise RequestError(f"{path}: {problem.strerror}", "check the path") from problem
    best = difflib.get_close_matches(path.stem, known, n=1)
    hint = f"did you mean {str(around / best[0])!r}?" if best else "give a scenario's folder"
    raise RequestError(f"there is no scenario at {path}", hint)


def _own_checks(folder: Path) -> Iterator[Path]:
    yield from sorted(folder.glob("test_*.py"))


def _check_file_problems(folder: Path) -> Iterator[Problem]:
    for file in _own_checks(folder):
        try:
            beneath(folder, file.name)
        except ValueError as problem:
            yield Problem((file.name,), str(problem))


def parse_upgrade(text: str) -> Upgrade:
    """What `--upgrade` asks for: ``all``, ``security``, ``kernel``, ``release=…``, or packages.

    Packages are a comma list of names, ``name=version`` and package files (``./x.deb``), which
    may lie anywhere: the command line is the user's own. Raises :class:`RequestError`.
    """
    items = [item.strip() for item in text.split(",") if item.strip()]
    if not items:
        hint = "give all, security, kernel, release=trixie or packages"
        raise RequestError("--upgrade names nothing", hint)
    if len(items) == 1 and items[0] in _KEYWORDS:
        what: What = next(w for w in get_args(What) if w == items[0])
        return Upgrade(what=what)
    if len(items) == 1 and items[0].startswith(_RELEASE):
        try:
            release = values.codename(items[0].removeprefix(_RELEASE))
        except ValueError as problem:
            raise RequestError(f"--upgrade: {problem}", "as in release=trixie") from problem
        return Upgrade(what="release", release=release)
    packages, files = [], []
    for item in items:
        try:
            if _is_path(item):
                files.append(_package_file(item))
            else:
                packages.append(_package(item))
        except ValueError as problem:
            raise RequestError(
                f"--upgrade {scalars.shown(text)}: {problem}",
                "give all, security, kernel, release=NAME, or packages like nginx,x=3.0-1,./y.deb",
            ) from problem
    names = [package.partition("=")[0] for package in packages]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise RequestError(f"--upgrade names {twice} twice", "keep one of them")
    return Upgrade(what="packages", packages=tuple(packages), files=tuple(files))


def _is_path(item: str) -> bool:
    return "/" in item or item.endswith((".deb", ".rpm"))


def _package_file(item: str) -> Path:
    try:
        path = existing_file(Path(scalars.text(item)).expanduser())
    except RuntimeError as problem:
        raise ValueError(f"{scalars.shown(item)}: there is no such home folder") from problem
    if path.suffix not in (".deb", ".rpm"):
        raise ValueError(f"{scalars.shown(item)} is not a package file (.deb or .rpm)")
    return path


def _package(item: str) -> str:
    if item in _KEYWORDS or item.startswith(_RELEASE):
        raise ValueError(f"{item!r} cannot be combined with others")
    if item == "release":
        raise ValueError(f"{item!r} needs its code name: release=trixie")
    if item in ("script", "packages"):
        raise ValueError(f"{item!r} is for scenario files: upgrade.{item}")
    return values.package_spec(item)


def parse_source(
    *, guest: str | None = None, image: Path | None = None, format: str | None = None
) -> SourceSettings:
    """What `--guest` or `--image` with its `--format` ask for; raises :class:`RequestError`."""
    if (guest is None) == (image is None):
        raise RequestError("give --guest or --image, one of them", "`virsh list` shows the guests")
    if guest is not None:
        return SourceSettings(guest=scalars.valid_guest_name(guest))
    assert image is not None
    stated = next((f for f in get_args(ImageFormat) if f == format), None)
    if stated is None:
        given = f"{scalars.shown(format)} is no format of {image}" if format else ""
        raise RequestError(
            given
            or f"the format of {image} is not stated: guests write disks, so it is not probed",
            f"give one of {', '.join(get_args(ImageFormat))}",
        )
    try:
        return SourceSettings(image=Image(path=existing_file(image), format=stated))
    except ValueError as problem:
        raise RequestError(f"image {problem}", "check the path") from problem


def scenario_json_schema(shared: Path | None = None) -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of ``scenario.yaml``, for editors.

    The names of the shared checks come from the folder ``shared``, or are those that ship.
    """
    schema = ScenarioFile.model_json_schema()
    names = list(SHARED_CHECKS if shared is None else shared_checks(shared))
    listed = next(
        o for o in schema["$defs"]["Checks"]["properties"]["shared"]["anyOf"] if "items" in o
    )
    listed["items"] = {"enum": names}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:upgrade-sandbox:scenario",
        **schema,
        "title": "Upgrade Sandbox scenario",
        "examples": [
            {"source": {"guest": "web01"}, "upgrade": {"what": "security"}},
            {
                "source": {"image": {"path": "disk.qcow2", "format": "qcow2"}},
                "login": {"user": "admin", "inject": True},
                "upgrade": {"what": "packages", "packages": ["nginx=1.22.1-9"]},
                "checks": {"shared": ["boot", "services"], "http": ["http://127.0.0.1/"]},
                "deadlines": {"upgrade": "1h30m"},
            },
            {
                "upgrade": {"what": "security"},
                "schedule": {"cron": "30 1 * * *", "host": "xen1", "guests": ["web01", "db01"]},
            },
        ],
    }
