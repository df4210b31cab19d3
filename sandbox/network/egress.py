"""What a clone tries to reach: a program listens at its bridge, and its notes are read at the end.

The program (:mod:`sandbox.network.egress_listener`) runs on the bridge's host and ends with the
bridge, whatever becomes of us. It writes a line an attempt; where its notes stood when the upgrade
began, "before" ends. On a host that cannot run the program, the report lacks that part, and the run
goes on.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from sandbox.core.errors import SandboxError
from sandbox.core.process import start, tail
from sandbox.core.records import Dependency, Destination, Ledger
from sandbox.core.store import RunFolder, start_time
from sandbox.hosts.transport import Host, by_text
from sandbox.network import stand_ins

LISTENER = "sandbox-listener"  # on its command line, before the bridge and the clone's folder
_ROLE = "listener"
_NOTES, _CONTROLS_NOTES = "tried", "tried-control"  # in the clone's folder
_NOTES_LIMIT = 4 << 20  # bytes; the program itself stops long before
_LINE = re.compile(r"(?:([0-9]{1,3}) )?(name|tcp|udp|ping|neighbour) ([!-~]{1,300}) ([0-9]{1,5})")
_Key = tuple[str, str, int]


def listen(
    host: Host,
    bridge: str,
    folder: RunFolder,
    *,
    dependencies: Sequence[Dependency] = (),
    control: bool = False,
) -> None:
    """Begin to listen; what goes wrong is read in the notes. The names of ``dependencies`` are
    resolved, and they themselves left to their stand-ins."""
    notes = folder.clone / (_CONTROLS_NOTES if control else _NOTES)
    argv = [*by_text(host, "sandbox.network.egress_listener"), LISTENER, bridge, f"{folder.clone}/"]
    argv.append(json.dumps(stand_ins.known(dependencies)))
    notes.touch(mode=0o600)
    with notes.open("ab") as output:
        try:
            program = start(host.command(argv), output)
        except (SandboxError, OSError) as problem:
            output.write(f"{problem}\n".encode())
            return
    folder.register(program.pid, f"{_ROLE} {bridge}")


def position(folder: RunFolder) -> int:
    """How much there is of the clone's notes: what comes from now on comes after."""
    try:
        return (folder.clone / _NOTES).stat().st_size
    except OSError:
        return 0


def read(folder: RunFolder, switch: int | None) -> Ledger | None:
    """The ledger; ``switch`` is where the upgrade began in the notes, None where it never did.
    None where no listener was wanted."""
    text = _notes(folder.clone / _NOTES)
    if text is None:
        return None
    at = len(text) if switch is None else switch
    before, after = _count(text[:at]), _count(text[at:])
    its = _notes(folder.clone / _CONTROLS_NOTES)
    control = _count(its or b"")
    found = [
        Destination(
            kind=key[0],
            address=key[1],
            port=key[2],
            before=before[key],
            after=after[key],
            control=control[key],
        )
        for key in dict.fromkeys((*before, *after))
        if not _is_reached_further(key, before.keys() | after.keys())
    ]
    return Ledger(
        missing=_missing(folder, text),
        destinations=tuple(sorted(found, key=lambda one: not one.is_new)),
        whole=_is_whole(text),
        control_known=its is None or (b"listening\n" in its and _is_whole(its)),
    )


def _notes(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(_NOTES_LIMIT)
    except FileNotFoundError:
        return None


def _is_whole(text: bytes) -> bool:
    return b"\nfull\n" not in text


def _count(text: bytes) -> Counter[_Key]:
    lines = text.decode("ascii", errors="replace").splitlines()
    found = (_LINE.fullmatch(line) for line in lines)
    counted: Counter[_Key] = Counter()
    for one in found:
        if one:
            counted[(one[2], one[3], int(one[4]))] += int(one[1] or 1)
    return counted


def _is_reached_further(key: _Key, keys: set[_Key]) -> bool:
    """A neighbour is asked for before anything is sent to it: where that is known, it says more."""
    return key[0] == "neighbour" and any(
        kind in ("tcp", "udp", "ping") and address == key[1] for kind, address, _port in keys
    )


def _missing(folder: RunFolder, text: bytes) -> str:
    said = text.decode(errors="replace")
    lines = said.splitlines()
    if "listening" not in lines:
        return tail(said, 1) or "the program that listens did not start in time"
    ours = [p for p in folder.processes() if p.role.startswith(f"{_ROLE} sb")]
    if not any(start_time(one.pid) == one.started for one in ours):
        why = [line for line in lines if not _LINE.fullmatch(line) and line != "listening"]
        return f"only for a while: {why[-1] if why else 'the program that listens ended'}"
    return ""
