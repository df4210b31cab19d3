"""Scenarios: a folder with ``scenario.yaml`` and checks, read strictly into a :class:`Scenario`.

`values` are the words of the file, `model` is its shape, `problems` says what is wrong with it,
`load` reads it, `template` writes a new one.
"""

from __future__ import annotations

from sandbox.core.config.scalars import valid_guest_name
from sandbox.scenario.load import (
    FILE_NAME,
    Scenario,
    load_scenario,
    parse_source,
    parse_upgrade,
    scenario_json_schema,
    shared_checks,
)
from sandbox.scenario.model import (
    Checks,
    Deadlines,
    Expect,
    Ignore,
    Image,
    ImageDisk,
    LoginSettings,
    RebootPolicy,
    SourceSettings,
    Upgrade,
)
from sandbox.scenario.problems import ScenarioError
from sandbox.scenario.schedule import Schedule, ScheduledGuest
from sandbox.scenario.template import render_template
from sandbox.scenario.values import Repository

__all__ = [
    "FILE_NAME",
    "Checks",
    "Deadlines",
    "Expect",
    "Ignore",
    "Image",
    "ImageDisk",
    "LoginSettings",
    "RebootPolicy",
    "Repository",
    "Scenario",
    "ScenarioError",
    "Schedule",
    "ScheduledGuest",
    "SourceSettings",
    "Upgrade",
    "load_scenario",
    "parse_source",
    "parse_upgrade",
    "render_template",
    "scenario_json_schema",
    "shared_checks",
    "valid_guest_name",
]
