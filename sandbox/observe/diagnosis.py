"""What is to be known of units that stopped running: asked in the guest in one round trip."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.resources import files

from sandbox.core.deadline import Deadline
from sandbox.core.guest_shell import Shell, new_mark
from sandbox.core.records import STARTING, Autopsy, UnitTrace
from sandbox.observe.observation_parse import Sections, split

MOST_UNITS = 6
_LINES = 60
_PROGRAM = re.compile(r"path=(/[^ ;]*) ;")
_OWNER = re.compile(r"(?P<packages>[a-z0-9][a-z0-9+.:, -]*): (?P<path>/.*)")


def examine(shell: Shell, units: Sequence[str], deadline: Deadline) -> Autopsy:
    """Of these units, the first few: their files, their log, and which packages own what stands
    in it. What a guest does not have (systemd, dpkg) is left out. Raises what the shell raises."""
    asked = [unit for unit in units if not unit.startswith("-")][:MOST_UNITS]
    if not asked:
        return Autopsy()
    mark = new_mark()
    script = files("sandbox.observe").joinpath("diagnosis.sh").read_text()
    answer = shell.run(script, deadline, args=(mark, *asked))
    return read(answer.stdout, mark, asked)


def read(text: str, mark: str, units: Sequence[str]) -> Autopsy:
    """What diagnosis.sh printed with ``mark``. Pure; anything at all may stand in it."""
    sections = split(text, mark)
    return Autopsy(
        units=tuple(_trace(sections, unit) for unit in units),
        owners=_owners(sections.get("owners", ())),
    )


def _trace(sections: Sections, unit: str) -> UnitTrace:
    shown = [line.partition("=") for line in sections.get(f"show {unit}", ())]
    values = {name: value.strip() for name, _, value in shown if not name.startswith("Exec")}
    commands = [value for name, _, value in shown if name in ("ExecStart", "ExecStartPre")]
    status = next((value for name, _, value in shown if name == "ExecMainStatus"), "").strip()
    return UnitTrace(
        unit=unit,
        result=values.get("Result", ""),
        state=_state(values),
        status=int(status) if status.isdecimal() and len(status) < 4 else 0,
        files=tuple(f for f in _words(values, "FragmentPath", "DropInPaths") if f[0] == "/"),
        programs=tuple(dict.fromkeys(p for c in commands for p in _PROGRAM.findall(c))),
        libraries=tuple(line.strip() for line in sections.get(f"libraries {unit}", ())),
        log=tuple(line.strip() for line in sections.get(f"log {unit}", ()))[-_LINES:],
    )


def _state(values: dict[str, str]) -> str:
    loaded = values.get("LoadState", "")
    if loaded in ("masked", "not-found"):
        return loaded
    if values.get("SubState") == "start":
        return STARTING
    return "disabled" if values.get("UnitFileState") == "disabled" else ""


def _words(values: dict[str, str], *names: str) -> list[str]:
    return [word for name in names for word in values.get(name, "").split()]


def _owners(lines: Sequence[str]) -> dict[str, str]:
    """Path -> package, as ``dpkg -S`` has it; the first of several."""
    found: dict[str, str] = {}
    for line in lines:
        match = _OWNER.fullmatch(line.strip())
        if match:
            package = match["packages"].split(",")[0].partition(":")[0].strip()
            found.setdefault(match["path"], package)
    return found
