"""What the shared checks decide: pure functions over two observations."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from statistics import median

from sandbox.checks import PORT_PATTERN
from sandbox.core.noise import TRANSIENT_UNITS, is_a_containers, normalised, tells_of_the_host
from sandbox.core.noise import is_lasting as is_lasting  # a part of what is decided here
from sandbox.core.records import Filesystem, Observation, Port

# That a start may take longer, or three times as long: file systems are checked, hosts are busy.
SLOWER_SECONDS = 60
SLOWER_TIMES = 3
# A service that needs this long by itself is no busy host, which slows all of them down alike.
SLOW_UNIT_SECONDS = 60
FILESYSTEM_CHECKS = "systemd-fsck*"  # due when they are due
SETTLING_STATES = ("initializing", "starting")
EVERY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104 - compared with, never bound
PSEUDO_MOUNTS = ("/dev", "/proc", "/run", "/snap", "/sys")


def ignored(unit: str, patterns: Iterable[str]) -> bool:
    """Whether one of the shell patterns names this unit."""
    return any(fnmatchcase(unit, pattern) for pattern in patterns)


# --- units ---------------------------------------------------------------------------------


def new_failed_units(before: Observation, now: Observation, patterns: Sequence[str]) -> list[str]:
    """Units that are failed now and were not before."""
    fresh = set(now.failed_units) - set(before.failed_units)
    return sorted(unit for unit in fresh if not ignored(unit, patterns))


@dataclass(frozen=True)
class LostUnit:
    """A unit that was active before; ``now`` is its state, None when it does not exist."""

    unit: str
    before: str
    now: str | None

    @property
    def state(self) -> str:
        """What became of it, for people."""
        if self.now is None:
            return "gone"
        active, _, sub = self.now.partition("/")
        if active == "active":
            return "active without a process"
        return active if sub in ("", active, "dead") else f"{active} ({sub})"


def still_active(before: str, now: str | None) -> bool:
    """Whether a unit in state ``before`` ("active/running") still does its work.

    A service whose process has ended may stay "active/exited" (init scripts do): its work is
    not done any more.
    """
    if now is None:
        return False
    active, _, sub = now.partition("/")
    if active not in ("active", "reloading", "refreshing"):
        return False
    return not (before == "active/running" and sub == "exited")


def lost_units(
    before: Mapping[str, str], now: Mapping[str, str], patterns: Sequence[str]
) -> list[LostUnit]:
    """Units that were active before and are not now."""
    return [
        LostUnit(unit, state, now.get(unit))
        for unit, state in sorted(before.items())
        if state.startswith("active/")
        and not ignored(unit, (*TRANSIENT_UNITS, *patterns))
        and not still_active(state, now.get(unit))
    ]


def describe_lost_units(lost: Sequence[LostUnit]) -> str:
    """One sentence; empty when nothing is lost."""
    if not lost:
        return ""
    if len(lost) == 1:
        return f"{lost[0].unit} was active before and is {lost[0].state} now"
    each = ", ".join(f"{unit.unit} ({unit.state})" for unit in lost)
    return f"{len(lost)} units were active before and are not now: {each}"


def started_again(before: Observation, now: Observation, patterns: Sequence[str]) -> dict[str, int]:
    """Services that systemd itself had to start again, and how often; not those of before.

    Once may be an accident of the start.
    """
    rebooted = now.boot_id != before.boot_id
    return {
        unit: times
        for unit, times in now.restarts.items()
        if times > before.restarts.get(unit, 0)
        and not (rebooted and unit in before.restarts)
        and not ignored(unit, patterns)
    }


def left_behind(before: Observation, now: Observation, patterns: Sequence[str]) -> list[str]:
    """Services that run since the start of the guest, and that its next start will not start.

    Of a guest that was started again the services themselves tell.
    """
    if now.boot_id != before.boot_id:
        return []
    enabled, masked = set(now.enabled), set(now.masked) - set(before.masked)
    return [
        unit
        for unit in before.enabled
        if unit.endswith(".service")
        and before.units.get(unit) == "active/running"
        and (unit not in enabled or unit in masked)
        and not ignored(unit, patterns)
    ]


def parse_unit_states(units: Sequence[str], shown: str) -> dict[str, str]:
    """States from ``systemctl show``: one block of properties a unit, in the order asked."""
    states = {}
    for unit, block in zip(units, shown.strip().split("\n\n"), strict=False):
        found = dict(line.partition("=")[::2] for line in block.splitlines())
        if found.get("ActiveState") and found.get("LoadState") != "not-found":
            states[unit] = f"{found['ActiveState']}/{found.get('SubState', '')}"
    return states


# --- boot ----------------------------------------------------------------------------------


def state_worse(before: str, now: str, excused: bool) -> bool:
    """Whether systemd's overall state got worse.

    ``excused``: every unit that failed is ignored or failed before, so "degraded" is no news.
    """
    if now == before:
        return False
    rank = {"running": 0, "degraded": 0 if excused else 1}
    return rank.get(now, 2) > rank.get(before, 2)


def slower_start(before: Observation, now: Observation) -> str:
    """What to say of a start that took much longer than the one before; "" for any other."""
    was, took = before.boot_seconds, now.boot_seconds or now.uptime  # not ended: so far
    if now.boot_id == before.boot_id or not was:
        return ""
    unit, alone = _slow_unit(before, now)
    much_slower = took > max(SLOWER_TIMES * was, was + SLOWER_SECONDS)
    if not much_slower and not (unit and took > was + SLOWER_SECONDS / 2):
        return ""
    words = f"the start took {took:.0f} s, and {was:.0f} s before"
    return f"{words}: {unit} alone took {alone:.0f} s" if unit else words


def _slow_unit(before: Observation, now: Observation) -> tuple[str, float]:
    """The service whose start took longest among those that took much longer than a busy host
    explains, with its seconds; ("", 0) for none."""
    old = {unit: start.seconds for unit, start in before.starts.items()}
    new = {unit: start.seconds or 0.0 for unit, start in now.starts.items()}
    times = [new[unit] / took for unit, took in old.items() if took and new.get(unit)]
    busier = max(1.0, median(times)) if times else 1.0
    slow = {
        unit: took
        for unit, took in new.items()
        if took > busier * (SLOWER_TIMES * (old.get(unit) or 0.0) + SLOW_UNIT_SECONDS)
        and not fnmatchcase(unit, FILESYSTEM_CHECKS)
    }
    return max(slow.items(), key=lambda each: each[1], default=("", 0.0))


# --- ports ---------------------------------------------------------------------------------


def port_ignored(port: Port, ignore: Iterable[str | int]) -> bool:
    """Whether an entry like ``8080`` or ``udp/5353`` names this port."""
    for entry in ignore:
        match = PORT_PATTERN.fullmatch(str(entry))
        if match and int(match["port"]) == port.port and match["protocol"] in (None, port.protocol):
            return True
    return False


def plain_address(address: str) -> str:
    """An address as ss writes it, without brackets and interface; ``*`` is ``::``."""
    plain = address.strip().partition("%")[0].removeprefix("[").removesuffix("]")
    return "::" if plain == "*" else plain


def port_name(port: Port) -> str:
    """The stable name of a listening socket: ``tcp/0.0.0.0:80``, ``tcp/[::]:80``."""
    address = plain_address(port.address)
    return f"{port.protocol}/{f'[{address}]' if ':' in address else address}:{port.port}"


def listeners(ports: Iterable[Port], ignore: Sequence[str | int]) -> dict[str, Port]:
    """The sockets that must go on listening, by name, each once."""
    kept = [port for port in ports if is_lasting(port) and not port_ignored(port, ignore)]
    return {port_name(port): port for port in sorted(kept, key=port_name)}


def covers(now: Port, before: Port) -> bool:
    """Whether who reached ``before`` reaches ``now`` too: a wildcard takes in its addresses."""
    if (now.protocol, now.port) != (before.protocol, before.port):
        return False
    has, had = plain_address(now.address), plain_address(before.address)
    # A socket on :: takes IPv4 as well unless it is told otherwise.
    return has in (had, "::") or (has == "0.0.0.0" and ":" not in had)  # noqa: S104 - compared


def port_problem(before: Port, now: Iterable[Port]) -> str:
    """What became of a listening socket, one sentence; empty when it is as reachable as before."""
    same = [port for port in now if (port.protocol, port.port) == (before.protocol, before.port)]
    if any(covers(port, before) for port in same):
        return ""
    if not same:
        return f"nothing listens on {describe_port(before)} any more"
    places = ", ".join(sorted({plain_address(port.address) for port in same}))
    had = plain_address(before.address)
    return f"port {before.port}/{before.protocol} listened on {had} before and on {places} now"


def parse_listening(sockets: Iterable[str]) -> list[Port]:
    """Ports from testinfra's list: ``tcp://0.0.0.0:22``, ``udp://:::123``; others are left out."""
    ports = []
    for socket in sockets:
        protocol, _, place = socket.partition("://")
        address, _, number = place.rpartition(":")
        if protocol in ("tcp", "udp") and number.isdecimal():
            ports.append(Port(protocol=protocol, address=address, port=int(number)))
    return ports


def describe_port(port: Port) -> str:
    """``port 80/tcp of nginx on 127.0.0.1``"""
    owner = f" of {port.process}" if port.process else ""
    address = plain_address(port.address)
    place = "" if address in EVERY_ADDRESS else f" on {address}"
    return f"port {port.port}/{port.protocol}{owner}{place}"


# --- filesystems ---------------------------------------------------------------------------


def real_filesystems(observation: Observation) -> dict[str, Filesystem]:
    """Filesystems that can fill up, by mount point."""
    return {
        fs.mount: fs
        for fs in sorted(observation.filesystems, key=lambda fs: fs.mount)
        if fs.size > 0
        and not is_a_containers(fs.mount)
        and not any(fs.mount == top or fs.mount.startswith(f"{top}/") for top in PSEUDO_MOUNTS)
    }


def fullness(filesystem: Filesystem | None, mount: str, most: int) -> str:
    """What is wrong with a filesystem, one sentence; empty when it is fine."""
    if filesystem is None:
        return f"{mount} was mounted before and is not now"
    if filesystem.percent > most:
        free = filesystem.available / 2**20
        return f"{mount} is {filesystem.percent} % full ({free:.0f} MiB free), more than {most} %"
    if filesystem.inodes_percent > most:
        return f"{mount} has {filesystem.inodes_percent} % of its inodes used, more than {most} %"
    return ""


# --- kernel --------------------------------------------------------------------------------


def kernel_number(release: str) -> tuple[int, ...]:
    """The numbers of a release: 6.1.0-31-cloud-amd64 is (6, 1, 0, 31, 64)."""
    return tuple(int(number) for number in re.findall(r"\d+", release, re.ASCII))


def newer_kernel(observation: Observation) -> str:
    """The installed kernel that a reboot would bring, empty when the newest one runs.

    Of two flavours of one version either may run.
    """
    if not observation.kernels:
        return ""  # the guest's kernel is not a package of its own
    newest = observation.kernels[-1]
    if observation.kernel == newest:
        return ""
    return newest if kernel_number(newest) > kernel_number(observation.kernel) else ""


# --- kernel log ----------------------------------------------------------------------------


def new_kernel_errors(
    before: Sequence[str], now: Sequence[str], patterns: Sequence[str]
) -> list[str]:
    """Messages of a kind that was not there before, each kind once, in order."""
    known = {normalised(message) for message in before}
    fresh = []
    for message in now:
        kind = normalised(message)
        if not kind or kind in known or tells_of_the_host(message):
            continue
        if any(re.search(pattern, message) for pattern in patterns):
            continue
        known.add(kind)
        fresh.append(message.strip())
    return fresh
