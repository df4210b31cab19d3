"""From what a user asks for to a scenario that can be rehearsed: shared by every front door."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from sandbox.core.errors import RequestError
from sandbox.core.settings import Settings
from sandbox.scenario import (
    FILE_NAME,
    LoginSettings,
    Scenario,
    load_scenario,
    parse_source,
    parse_upgrade,
)


@dataclass(frozen=True)
class Request:
    """One rehearsal as it was asked for; empty fields leave the scenario's word."""

    scenario: str  # name or path
    guest: str | None = None
    image: Path | None = None
    format: str | None = None  # of the image
    upgrade: str | None = None
    user: str | None = None
    key: Path | None = None
    host: str | None = None  # a name of the inventory, or a libvirt URI


def prepare(request: Request, settings: Settings) -> Scenario:
    """Read the scenario and apply what the request says otherwise; raises RequestError."""
    path = find_scenario(request.scenario, settings)
    return apply(load_scenario(path, shared=settings.shared_checks), request)


def apply(scenario: Scenario, request: Request) -> Scenario:
    """What the request says otherwise than its scenario; raises RequestError."""
    if request.guest is not None or request.image is not None:
        source = parse_source(guest=request.guest, image=request.image, format=request.format)
        scenario = scenario.with_source(source)
    elif scenario.source is None:
        raise RequestError(
            f"scenario {scenario.name!r} does not say what to rehearse",
            "name a guest (--guest NAME), or an image (--image PATH --format FORMAT)",
        )
    if request.upgrade is not None:
        scenario = scenario.with_upgrade(parse_upgrade(request.upgrade))
    return replace(scenario, login=login_of(scenario.login, request))


def login_of(stated: LoginSettings, request: Request) -> LoginSettings:
    """The scenario's login with the request's user and key, held to the same rules."""
    key, inject = (stated.key, stated.inject) if request.key is None else (request.key, False)
    try:
        return LoginSettings(
            user=request.user or stated.user, key=key, port=stated.port, inject=inject
        )
    except ValidationError as problem:
        first = problem.errors()[0]
        raise RequestError(
            f"--{first['loc'][0]}: {first['msg'].removeprefix('Value error, ')}",
            "give a user of the guest's, and the private key that it accepts",
        ) from problem


def find_scenario(text: str, settings: Settings) -> Path:
    """A scenario by path, or by name in the scenarios folders."""
    if "/" in text or text.endswith((".yaml", ".yml")) or text in (".", ".."):
        return Path(text)
    for folder in settings.scenarios:
        if (folder / text / FILE_NAME).is_file():
            return folder / text
    if (Path(text) / FILE_NAME).is_file():
        return Path(text)
    known = scenario_names(settings)
    near = difflib.get_close_matches(text, known, 1, 0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise RequestError(
        f"no scenario {text!r}", f"{hint}there are: {', '.join(known) or 'none'}; or give a path"
    )


def scenario_names(settings: Settings) -> list[str]:
    """All scenarios that can be run by name."""
    return sorted({p.parent.name for f in settings.scenarios for p in f.glob(f"*/{FILE_NAME}")})
