"""A site's own list of versions that it does not want again, read as strictly as scenarios are.

Debian's bug tracker is no list that a preflight could read in seconds, or without a network.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

from pydantic import Field, PlainValidator, ValidationError

from sandbox.core.config import scalars, strict_yaml
from sandbox.core.config.problems import problem_lines, shape_problems
from sandbox.core.config.section import Section
from sandbox.core.errors import RequestError
from sandbox.core.records import PackageChange
from sandbox.preflight.points import PreflightPoint, PreflightSeverity
from sandbox.scenario import values

Text = Annotated[str, PlainValidator(scalars.text)]


class Bug(Section):
    """One bug, of one package or of several."""

    package: Annotated[str, PlainValidator(values.package_glob)] = Field(
        description="a name, or a pattern: linux-image-*"
    )
    versions: tuple[Text, ...] = Field(
        min_length=1, description="that have it, or patterns: 1.22.1-9+deb12u*"
    )
    text: Text = Field(description="what goes wrong, with the bug's number")
    blocks: bool = Field(default=False, description="whether the upgrade is not to be made")


class BugsFile(Section):
    """The file."""

    bugs: tuple[Bug, ...] = Field(description="a list of bugs")


def read_bugs(path: Path) -> tuple[Bug, ...]:
    """The bugs of a file; raises :class:`RequestError` with all that is wrong with it."""
    document = strict_yaml.load(path)
    try:
        return BugsFile.model_validate_json(json.dumps(document.data)).bugs
    except ValidationError as invalid:
        lines = problem_lines(document, list(shape_problems(invalid, BugsFile)))
        raise RequestError("\n".join(lines), "correct the list of known bugs") from invalid


def bug_points(bugs: Sequence[Bug], changes: Sequence[PackageChange]) -> tuple[PreflightPoint, ...]:
    """Those that the upgrade would bring; pure."""
    return tuple(
        PreflightPoint(
            severity=PreflightSeverity.BLOCKER if bug.blocks else PreflightSeverity.WARNING,
            topic="known bugs",
            text=f"{change.name} {change.new}: {bug.text}",
            hint="hold the package on the guest, or wait for the next version",
        )
        for bug in bugs
        for change in changes
        if change.new is not None  # what is removed brings no bugs
        and fnmatchcase(change.name, bug.package)
        and any(fnmatchcase(change.new, version) for version in bug.versions)
    )
