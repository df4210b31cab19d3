"""A Xen guest's disks, cloned by the host's own tools: thin snapshots, reflinks, overlays.

All of a running guest's disks are taken at one instant: one script on the host pauses the guest
when there are several, makes the copies, and lets it run on, whatever happens meanwhile to the
connection or to us; a watchdog of its own does so too.
"""

from __future__ import annotations

import contextlib
import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from sandbox.core.deadline import Deadline
from sandbox.core.errors import CommandFailed, HostError, NoRoom, RequestError
from sandbox.core.records import Disk
from sandbox.hosts.drivers import Mark
from sandbox.hosts.drivers.clone_devices import CloneDisk
from sandbox.hosts.transport import Host
from sandbox.hosts.volumes import MadeDisks, host_space, lvm
from sandbox.hosts.volumes.pausing import PAUSE

# On the host: a folder a run with its mark and the places of its files, which lie on the file
# system of what they are copies of.
FOLDER = PurePosixPath("/var/lib/upgrade-sandbox/host-clones")
PLACE = ".upgrade-sandbox"  # beside the source's file
_MARK, _PLACES = "mark.json", "places"
_WATCHDOG = 60  # seconds after which a paused guest runs on, come what may
_REFLINK, _EXPORT = "reflink copy", "read-only export"
THIN, THICK = "thin snapshot", "thick snapshot"
_PAUSED = re.compile(r"^paused-ns (\d+)$", re.MULTILINE)
_REFLINK_NEEDED = (
    "a running guest's files need a file system with reflinks (XFS, btrfs), or LVM thin; "
    "a stopped guest can be rehearsed from any"
)


@dataclass(frozen=True)
class Step:
    """How one disk is cloned: a command that takes the copy at the instant, and what it makes."""

    disk: Disk
    clone: CloneDisk
    command: tuple[str, ...]
    store: str
    warning: str = ""
    control: CloneDisk | None = None  # None: there cannot be one
    control_command: tuple[str, ...] = ()  # copies the copy, once the guest runs on


class HostDisks:
    """Clones of a guest's disks on the host that has them."""

    def __init__(
        self, host: Host, *, patience: int = _WATCHDOG, room: int = host_space.LEAST_AT_START
    ) -> None:
        self._host = host
        self._patience = patience
        self._room = room  # bytes that have to be free beside image files

    def make(
        self,
        name: str,
        running: bool,
        disks: Sequence[Disk],
        mark: Mark,
        deadline: Deadline,
        *,
        control: bool = False,
    ) -> MadeDisks:
        """Take all disks at one instant. ``name`` is the guest's, which is paused for that when
        it runs and has several disks, or one in a file. ``control``: a second time, if that can
        be done without taking anything more from production."""
        files = [disk for disk in disks if disk.store != "lvm"]
        places = tuple(dict.fromkeys(_place(disk, mark.run) for disk in files))
        if files:
            folders = [PurePosixPath(disk.path).parent for disk in files]
            host_space.require_room(self._host, folders, self._room, deadline)
            self._make_folders(places, mark, deadline)
        reflinks = {place: self._can_reflink(place, deadline) for place in places}
        survey = lvm.survey(self._host, deadline) if len(files) < len(disks) else None
        steps = [self._step(d, running, mark, reflinks, survey) for d in disks]
        pause = running and (len(steps) > 1 or bool(files))
        done = self._host.run(
            # In a session of its own: a kill of our process group must not leave the guest paused.
            ["setsid", "--wait", "sh", "-s", "--", name if pause else "", str(self._patience)],
            deadline,
            input=_script(steps).encode(),
            hint="the copies are made by lvcreate, cp and qemu-img on the host",
        )
        found = _PAUSED.search(done.stdout)
        paused = int(found.group(1)) / 1e6 if found else 0.0
        for step in steps:
            if step.store == _REFLINK and step.disk.format == "qcow2":
                self._pin_base(step, deadline)
        controls = tuple(step.control for step in steps if step.control is not None)
        control = control and len(controls) == len(steps)
        if control:
            self._make_control_copies(steps, deadline)
        stores = tuple(dict.fromkeys(step.store for step in steps))
        return MadeDisks(
            disks=tuple(step.clone for step in steps),
            method=" and ".join(stores),
            consistency="crash-consistent" if running else "clean",
            paused_ms=paused,
            warnings=tuple(step.warning for step in steps if step.warning),
            allocated=sum(self._allocated(s.clone, deadline) for s in steps if s.store == _EXPORT),
            controls=controls if control else (),
        )

    def _make_control_copies(self, steps: Sequence[Step], deadline: Deadline) -> None:
        script = "\n".join(f"{shlex.join(step.control_command)} || exit" for step in steps)
        self._host.run(["sh", "-s"], deadline, input=f"(\n{script}\n) </dev/null\n".encode())

    def _step(
        self,
        disk: Disk,
        running: bool,
        mark: Mark,
        reflinks: dict[PurePosixPath, bool],
        survey: lvm.Survey | None,
    ) -> Step:
        if survey is not None and disk.store == "lvm":
            return _snapshot(disk, mark, survey)
        place = _place(disk, mark.run)
        if reflinks[place]:
            copy = str(place / f"{disk.target}.{disk.format}")
            argv: tuple[str, ...] = (
                "cp",
                "--reflink=always",
                "--no-preserve=mode",
                "--",
                disk.path,
                copy,
            )
            control = str(place / f"{disk.target}.control.{disk.format}")
            return Step(
                disk,
                _clone(disk, copy, disk.format),
                argv,
                _REFLINK,
                control=_clone(disk, control, disk.format),
                control_command=("cp", "--reflink=always", "--", copy, control),
            )
        if running:
            raise RequestError(
                f"disk {disk.target} ({disk.path}) is a file of a running guest on a file system "
                "without reflinks: it cannot be copied in an instant",
                _REFLINK_NEEDED,
            )
        copy = str(place / f"{disk.target}.overlay.qcow2")
        socket = str(FOLDER / mark.run / f"{disk.target}.sock")  # short, and fit for a URL
        argv = ("sh", "-c", _SERVE, "sh", socket, _image_options(disk), copy, str(disk.size))
        control = str(place / f"{disk.target}.control.qcow2")
        return Step(
            disk,
            _clone(disk, copy, "qcow2"),
            argv,
            _EXPORT,
            control=_clone(disk, control, "qcow2"),
            control_command=("cp", "--", copy, control),
        )

    def _pin_base(self, step: Step, deadline: Deadline) -> None:
        """A copy lies in another folder: the base of its original may have a relative name."""
        argv = ["qemu-img", "info", "-U", "--output=json", "-f", "qcow2", step.disk.path]
        facts = json.loads(self._host.run(argv, deadline).stdout)
        base, format = facts.get("full-backing-filename"), facts.get("backing-filename-format")
        if not base or base == facts["backing-filename"]:
            return
        stated = ["-F", format] if format else []
        argv = ["qemu-img", "rebase", "-q", "-u", "-f", "qcow2", *stated, "-b", base]
        self._host.run([*argv, step.clone.overlay], deadline)

    def _make_folders(
        self, places: Sequence[PurePosixPath], mark: Mark, deadline: Deadline
    ) -> None:
        facts = {"run": mark.run, "owner": mark.owner, "deadline": mark.deadline}
        text = json.dumps(facts | {"folder": mark.folder}) + "\n"
        # The mark and the list first: a place that a kill leaves behind is then known.
        script = """umask 077
folder=$1; shift
mkdir -p -- "$folder" && cat >"$folder/mark.json" || exit
for place; do printf '%s\\n' "$place" >>"$folder/places" && mkdir -p -- "$place" || exit; done
"""
        argv = ["sh", "-c", script, "sh", str(FOLDER / mark.run), *map(str, places)]
        self._host.run(argv, deadline, input=text.encode())

    def _can_reflink(self, place: PurePosixPath, deadline: Deadline) -> bool:
        """Whether files there can share blocks: tried out, since no name of a file system says."""
        script = """cd -- "$1" && printf x >probe && cp --reflink=always probe probe2 2>/dev/null
status=$?; rm -f probe probe2; exit "$status"
"""
        return self._host.run(["sh", "-c", script, "sh", str(place)], deadline, check=False).ok

    def _allocated(self, disk: CloneDisk, deadline: Deadline) -> int:
        shown = self._host.run(["du", "-s", "-k", "--", disk.overlay], deadline)
        return int(shown.stdout.split()[0]) << 10


def _snapshot(disk: Disk, mark: Mark, survey: lvm.Survey) -> Step:
    origin = survey.by_path.get(disk.path)
    if origin is None:
        raise HostError(f"{disk.path} is no logical volume any more")
    name = f"sb{mark.run.rpartition('-')[2]}-{disk.target}"
    warning = ""
    if origin.pool:
        pool = survey.pool_of(origin)
        problem = pool.problem(lvm.POOL_LIMIT)
        if problem:
            raise NoRoom(problem, pool.hint)
    else:
        warning = (
            f"{disk.path} is a thick volume: while its snapshot exists, production writes "
            "every changed block twice; a thin pool has no such cost"
        )
    path = f"/dev/{origin.group}/{name}"
    step = Step(
        disk,
        _clone(disk, path, "block"),
        tuple(lvm.snapshot_command(origin, name, mark)),
        THIN if origin.pool else THICK,
        warning,
    )
    if not origin.pool:
        return step  # a second one would have production write every block three times
    copy = replace(origin, name=name)
    control = f"{name}-control"
    return replace(
        step,
        control=_clone(disk, f"/dev/{origin.group}/{control}", "block"),
        control_command=tuple(lvm.snapshot_command(copy, control, mark)),
    )


def _place(disk: Disk, run: str) -> PurePosixPath:
    return PurePosixPath(disk.path).parent / PLACE / run


def places_of(run: str) -> PurePosixPath:
    """The list of the folders on the host in which a run's files are."""
    return FOLDER / run / _PLACES


def _clone(disk: Disk, path: str, format: str) -> CloneDisk:
    return CloneDisk(disk.target, Path(path), format)


def inspect(host: Host, target: str, path: str, format: str, deadline: Deadline) -> Disk:
    """The facts of one disk as the guest's XML states it; raises :class:`RequestError`."""
    if format == "block":
        found = lvm.survey(host, deadline).by_path.get(path)
        if found is None:
            raise RequestError(
                f"disk {target} ({path}) is no logical volume: it cannot be cloned in an instant",
                "guests on LVM (thin) or in image files can be rehearsed",
            )
        return Disk(target=target, format="raw", path=path, size=found.size, store="lvm")
    argv = ["qemu-img", "info", "-U", "--output=json", "-f", format, path]
    try:
        shown = host.run(argv, deadline, hint="apt install qemu-utils on the host")
    except CommandFailed as problem:
        raise RequestError(
            f"disk {target} ({path}) cannot be read as {format}: {problem.tail}",
            "is its storage mounted, and is its format what the guest's XML says?",
        ) from problem
    size = int(json.loads(shown.stdout)["virtual-size"])
    return Disk(target=target, format=format, path=path, size=size, store="file")


def file_facts(
    host: Host, disks: Sequence[Disk], deadline: Deadline
) -> tuple[tuple[str, int, int, int], ...]:
    """Inode, modification time (s) and size of the disks that are files on the host."""
    paths = [disk.path for disk in disks if disk.store == "file"]
    if not paths:
        return ()
    shown = host.run(["stat", "-c", "%i %Y %s %n", "--", *paths], deadline).stdout
    rows = (line.split(" ", 3) for line in shown.splitlines())
    return tuple((row[3], int(row[0]), int(row[1]), int(row[2])) for row in rows)


# Serves a stopped guest's file read-only and without locks, so that the guest can be started
# meanwhile, and makes an overlay on that.
_SERVE = """umask 077
socket=$1 options=$2 copy=$3 size=$4
qemu-nbd --fork --read-only --persistent --shared=8 --socket "$socket" \
  --export-name disk --image-opts "$options" &&
qemu-img create -q -f qcow2 -F raw -b "nbd+unix:///disk?socket=$socket" "$copy" "$size"
"""


def _image_options(disk: Disk) -> str:
    options = {
        "driver": disk.format,
        "force-share": "on",
        "read-only": "on",
        "file.driver": "file",
        "file.filename": disk.path.replace(",", ",,"),
        "file.locking": "off",
    }
    return ",".join(f"{key}={value}" for key, value in options.items())


def _script(steps: Sequence[Step]) -> str:
    """The host's script: `$1` is the guest to pause, or nothing; `$2` for how long at most."""
    commands = "\n".join(f"{shlex.join(step.command)} || exit" for step in steps)
    return f"""{PAUSE}
(
begin "$1" "$2"
{commands}
end
) </dev/null
"""


def remove(host: Host, run: str, deadline: Deadline) -> tuple[str, ...]:
    """Remove a run's disks from the host; names what was there. Idempotent."""
    removed = lvm.remove(host, run, deadline)
    folder = str(FOLDER / run)
    done = host.run(["sh", "-c", _REMOVE, "sh", folder, f"/{PLACE}/{run}"], deadline)
    return (*removed, *(f"folder {line}" for line in done.stdout.splitlines()))


# `$2` is how every place of the run ends: nothing else is ever removed. Servers are known by
# their command line: a pid that was noted may be another's by now.
_REMOVE = """folder=$1 end=$2 status=0
[ -d "$folder" ] || exit 0
for line in $(grep -lasF -- "$folder/" /proc/[0-9]*/cmdline); do
    pid=${line#/proc/} pid=${pid%/cmdline}
    case $(tr '\\0' '\\n' <"$line" 2>/dev/null | head -n 1) in
    qemu-nbd | */qemu-nbd) ;;
    *) continue ;;
    esac
    kill "$pid"
    tries=50
    while [ "$tries" -gt 0 ] && grep -qs . "/proc/$pid/cmdline"; do  # empty: it has ended
        tries=$((tries - 1))
        sleep 0.1
    done
    [ "$tries" -gt 0 ] || kill -9 "$pid"
done
[ ! -e "$folder/places" ] || while IFS= read -r place; do
    case $place in /*"$end") ;; *) continue ;; esac
    [ ! -L "${place%/*}" ] || continue
    if [ -e "$place" ] || [ -L "$place" ]; then
        rm -rf -- "$place" && printf '%s\\n' "$place" || status=1
    fi
    rmdir -- "${place%/*}" 2>/dev/null
done <"$folder/places"
[ "$status" = 0 ] || exit "$status"  # the list is what a later try needs
rm -rf -- "$folder" && printf '%s\\n' "$folder"
"""


def marked(host: Host, deadline: Deadline) -> tuple[tuple[str, Mark], ...]:
    """All disks on the host that carry our mark."""
    found = [(one.path, mark) for one, mark in lvm.marked(host, deadline)]
    script = 'for f in "$1"/*/"$2"; do [ ! -e "$f" ] || { cat "$f"; echo; }; done'
    shown = host.run(["sh", "-c", script, "sh", str(FOLDER), _MARK], deadline).stdout
    for line in shown.splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):  # cut short, or being written
            facts = json.loads(line)
            mark = Mark(facts["run"], facts["owner"], int(facts["deadline"]), facts["folder"])
            found.append((str(FOLDER / mark.run), mark))
    return tuple(found)
