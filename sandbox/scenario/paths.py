"""The files and folders that a scenario names: where they are looked for, and what they must be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import PlainValidator, ValidationInfo

from sandbox.core.config import scalars
from sandbox.core.config.files import existing_file, expanded
from sandbox.core.config.section import schema


@dataclass(frozen=True)
class Roots:
    """What the names and relative paths of a scenario refer to."""

    folder: Path  # resolved
    shared: Mapping[str, Path] = field(default_factory=dict)


def roots_of(info: ValidationInfo) -> Roots:
    assert isinstance(info.context, Roots), "scenarios are validated with their folder as context"
    return info.context


def _own_machine_file(value: object, info: ValidationInfo) -> Path:
    """A file of the user's machine: ``~`` and paths outside of the scenario are meant."""
    if isinstance(value, Path):  # the user's own command line, see parse_source
        return existing_file(value)
    path = expanded(scalars.text(value))
    return existing_file(path if path.is_absolute() else roots_of(info).folder / path)


def _private_key(value: object, info: ValidationInfo) -> Path:
    path = _own_machine_file(value, info)
    if path.suffix == ".pub":
        raise ValueError(f"{scalars.shown(str(path))} is the public half: name the private key")
    return path


def _beneath(value: object, info: ValidationInfo) -> Path:
    """A file beneath the scenario's folder, whatever symlinks say."""
    if isinstance(value, Path):  # the user's own command line, see parse_upgrade
        return existing_file(value)
    return beneath(roots_of(info).folder, scalars.text(value))


def beneath(folder: Path, name: str) -> Path:
    """``folder/name``, proved to be an existing file inside; raises :class:`ValueError`."""
    relative = Path(name)
    if relative.is_absolute() or ".." in relative.parts or name.startswith("~"):
        raise ValueError(f"{scalars.shown(name)} must be a path beneath the scenario's folder")
    path = existing_file(folder / relative)
    if not path.is_relative_to(folder):
        raise ValueError(f"{scalars.shown(name)} is a link that leads out of the scenario's folder")
    return path


def _package_file(value: object, info: ValidationInfo) -> Path:
    path = _beneath(value, info)
    if path.suffix not in (".deb", ".rpm"):
        raise ValueError(f"{scalars.shown(path.name)} is not a package file (.deb or .rpm)")
    return path


MachineFile = Annotated[Path, PlainValidator(_own_machine_file), schema()]
KeyFile = Annotated[Path, PlainValidator(_private_key), schema(examples=["~/.ssh/id_ed25519"])]
ScenarioFilePath = Annotated[Path, PlainValidator(_beneath), schema()]
PackageFile = Annotated[Path, PlainValidator(_package_file), schema(r".*\.(deb|rpm)")]
