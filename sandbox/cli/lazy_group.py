"""Commands that are read when they are used, so that `sandbox --help` stays quick."""

from __future__ import annotations

import importlib
from typing import Any

import click


class LazyGroup(click.Group):
    """A group whose commands, in a module of their own, are read when it is used."""

    def __init__(self, *args: Any, module: str, **options: Any) -> None:
        super().__init__(*args, **options)
        self._module = module

    def _read(self) -> dict[str, click.Command]:
        found: dict[str, click.Command] = importlib.import_module(self._module).COMMANDS
        return found

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._read())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return self._read().get(cmd_name)
