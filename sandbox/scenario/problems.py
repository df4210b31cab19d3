"""Everything that is wrong with a scenario, all at once, each with its line and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, get_args

from sandbox.core.config.problems import Problem, problem_lines
from sandbox.core.config.scalars import shown
from sandbox.core.config.strict_yaml import Document
from sandbox.core.errors import RequestError
from sandbox.managers import What
from sandbox.scenario.needed import KINDS
from sandbox.scenario.schedule import schedule_problems


class ScenarioError(RequestError):
    """The scenario is wrong. ``problems`` are all of them, as ``path:line: key: what``."""

    def __init__(self, problems: Iterable[str], hint: str) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        head = f"{count} problems:\n" if count > 1 else ""
        super().__init__(head + "\n".join(self.problems), hint)


def scenario_error(document: Document, problems: Iterable[Problem]) -> ScenarioError:
    """The error for a file with problems, in the order of its lines."""
    lines = problem_lines(document, problems)
    return ScenarioError(lines, "correct the scenario; nothing was cloned")


def rule_problems(data: Mapping[str, Any]) -> Iterator[Problem]:
    """Keys that contradict each other.

    Works on the plain data, whose types may still be wrong, so that these problems are listed
    along with the others.
    """
    if isinstance(source := data.get("source"), dict):
        yield from _source_rules(source)
    upgrade = data.get("upgrade")
    what = upgrade.get("what") if isinstance(upgrade, dict) else None
    if isinstance(upgrade, dict):
        yield from _upgrade_rules(upgrade, what)
    if isinstance(expect := data.get("expect"), dict):
        yield from _expect_rules(expect, what, data.get("reboot"))
    for number, needed in enumerate(_list(data.get("dependencies"))):
        if isinstance(needed, dict) and len({*needed} & {*KINDS}) != 1:
            yield Problem(("dependencies", number), f"needs one of {', '.join(KINDS)}")
    yield from (Problem(key, wrong) for key, wrong in schedule_problems(data))


def _source_rules(source: Mapping[str, Any]) -> Iterator[Problem]:
    image = source.get("image")
    if source.get("guest") is None and image is None:
        yield Problem(("source",), "needs guest or image; leave source out to give --guest later")
    if source.get("guest") is not None and image is not None:
        yield Problem(("source", "image"), "guest and image are both given: keep one of them")
    if source.get("host") is not None and source.get("guest") is None:
        yield Problem(("source", "host"), "needs guest: images run on this machine")
    if not isinstance(image, dict):
        return
    if image.get("machine") == "q35" and image.get("disk_bus") == "ide":
        yield Problem(("source", "image", "disk_bus"), "q35 has no IDE bus: use sata, or pc")
    paths = [image.get("path")]
    for number, disk in enumerate(_list(image.get("disks"))):
        path = disk.get("path") if isinstance(disk, dict) else None
        if path is not None and path in paths:
            key = ("source", "image", "disks", number, "path")
            yield Problem(key, f"{shown(path)} is given twice")
        paths.append(path)


def _upgrade_rules(upgrade: Mapping[str, Any], what: object) -> Iterator[Problem]:
    packages, files = _list(upgrade.get("packages")), _list(upgrade.get("files"))
    if what == "packages" and not upgrade.get("packages") and not upgrade.get("files"):
        need = "what: packages needs packages or files: there is nothing to upgrade"
        yield Problem(("upgrade", "what"), need)
    if what == "script" and upgrade.get("script") is None:
        yield Problem(("upgrade", "script"), "is required with what: script")
    if what == "release" and upgrade.get("release") is None:
        need = "is required with what: release: the next release's code name, as in trixie"
        yield Problem(("upgrade", "release"), need)
    own = {"packages": packages or None, **{key: upgrade.get(key) for key in ("release", "script")}}
    for key, value in own.items():
        if what in get_args(What) and what != key and value is not None:
            yield Problem(("upgrade", key), f"needs what: {key}, not what: {what}")
    if what == "script" and files:
        yield Problem(("upgrade", "files"), "a script is run alone: no package files with it")
    names: list[str] = []
    for number, spec in enumerate(packages):
        name = str(spec).partition("=")[0]
        if name in names:
            yield Problem(("upgrade", "packages", number), f"{shown(name)} is named twice")
        names.append(name)


def _expect_rules(expect: Mapping[str, Any], what: object, reboot: object) -> Iterator[Problem]:
    kernel = expect.get("kernel")
    if kernel == "newest" and reboot == "never":
        yield Problem(
            ("expect", "kernel"), "a new kernel cannot run with reboot: never; use if-needed"
        )
    if kernel == "unchanged" and what == "kernel" and reboot != "never":
        yield Problem(("expect", "kernel"), "contradicts what: kernel, which changes it")
    change = [pattern for pattern in _list(expect.get("change")) if isinstance(pattern, str)]
    for number, pattern in enumerate(_list(expect.get("keep"))):
        if pattern in change:
            both = f"{shown(pattern)} is also in expect.change: it cannot do both"
            yield Problem(("expect", "keep", number), both)


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
