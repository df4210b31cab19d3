"""A Xen host made of shell scripts: `xl`, `lvs` and `lvcreate` on PATH, which keep their state in
files and write down what they were asked.

Its guest is called GUEST and has an id of its own in every test, so that whatever a script leaves
running can be told by its command line.
"""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

from tests.support.fakes.lvm_world import pool_row, report, row
from tests.support.waiting import holds_soon

GUEST = "web 01's"
SHELLS = ("dash", "busybox", "bash")
# Pauses are counted, as Xen does; like xl, it says that all is well when Xen refuses.
XL = r"""
change() { echo $(($(cat paused) + $1)) >paused.new && mv paused.new paused; }
case $1 in
domid) shift; [ "$1" = "$(cat name)" ] || exit 1; cat domid ;;
pause)
    [ "$2" = "$(cat domid)" ] || exit 1
    [ ! -e pause-fails ] || exit 1
    change 1; log pause ;;
unpause)
    [ "$2" = "$(cat domid)" ] || exit 1
    if [ "$(cat paused)" -gt 0 ]; then change -1; fi; log unpause ;;
*) exit 2 ;;
esac
"""
LVCREATE = r"""
log "lvcreate paused=$(cat paused) ${1##*/}"
if [ -e "hang" ]; then
    touch hanging
    while [ ! -e release ]; do sleep 0.02; done
fi
[ ! -e lvcreate-fails ] || { echo "lvcreate: no space" >&2; exit 5; }
"""


class XenHost:
    """The folder of the scripts' state, and the hand of the host's administrator."""

    def __init__(self, folder: Path, shell: str = "dash") -> None:
        self.folder = folder / "host"
        self.programs = folder / "programs"
        self.folder.mkdir()
        self.programs.mkdir()
        self.id = str(10**8 + secrets.randbelow(10**8))
        self.put(name=GUEST, domid=self.id, paused="0", calls="")
        self.volumes("root", "data")
        self.program("xl", XL)
        self.program("lvs", "cat lvs.json")
        self.program("lvcreate", f"shift $(($# - 1))\n{LVCREATE}")
        self.program("lvremove", "log lvremove")
        # Whatever `sh` is on this machine, the scripts are run by this one.
        program = shutil.which(shell)
        assert program
        words = f"{program} sh" if shell == "busybox" else program
        (self.programs / "sh").write_text(f'#!/bin/dash\nexec {words} "$@"\n')
        (self.programs / "sh").chmod(0o755)

    def put(self, **files: str) -> None:
        for name, text in files.items():
            (self.folder / name).write_text(text)

    def program(self, name: str, script: str) -> None:
        path = self.programs / name
        path.write_text(
            f'#!/bin/dash\ncd {self.folder} || exit 9\nlog() {{ echo "$1" >>calls; }}\n{script}\n'
        )
        path.chmod(0o755)

    def volumes(self, *names: str) -> None:
        self.put(**{"lvs.json": report(pool_row(), *(row(name) for name in names))})

    @property
    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text().splitlines()

    @property
    def pauses(self) -> int:
        """How often the guest is paused just now; it runs at 0."""
        return int((self.folder / "paused").read_text())

    def hang(self) -> None:
        """Let `lvcreate` hang until it is released."""
        (self.folder / "hang").touch()

    def release(self) -> None:
        (self.folder / "release").touch()

    def hanging(self) -> bool:
        return holds_soon((self.folder / "hanging").exists, 20)

    def script_processes(self) -> list[int]:
        """The shells that run the host's script."""
        return [pid for pid, argv in command_lines() if argv[1:3] == ["-s", "--"] and GUEST in argv]

    def what_we_started(self) -> list[int]:
        """The process that we wait for, which leads the group that we would kill."""
        return [pid for pid, argv in command_lines() if argv[:1] == ["setsid"] and GUEST in argv]

    def watchdogs(self) -> list[int]:
        return [pid for pid, argv in command_lines() if self.id in argv]


def command_lines() -> list[tuple[int, list[str]]]:
    """The arguments of every process, without the interpreter of a `busybox sh`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = os.fsdecode((entry / "cmdline").read_bytes()).split("\0")[:-1]
        except OSError:
            continue  # it ended meanwhile
        if words[:1] and words[0].endswith("busybox"):
            words = words[1:]
        found.append((int(entry.name), words))
    return found
