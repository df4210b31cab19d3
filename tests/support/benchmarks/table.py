"""What was measured, as a table for people and as JSON for the README.

Every measurement is a ratio of two things that were measured in the same run on the same
machine: seconds alone would only say how fast that machine is. The raw numbers are kept beside
it, for whoever wants to know where a ratio comes from.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from sandbox.core.deadline import Deadline
from sandbox.core.process import run
from sandbox.hosts.drivers.acceleration import acceleration

WIDTH = 110


@dataclass(frozen=True)
class Measurement:
    """``ratio`` is at most ``most`` or at least ``least``; with neither it only informs."""

    name: str  # stable: the key in the JSON
    what: str  # what is compared with what, for people
    ratio: float
    most: float | None = None
    least: float | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    allocated: Mapping[str, int] = field(default_factory=dict)  # bytes on the filesystem
    note: str = ""

    @property
    def holds(self) -> bool:
        return (self.most is None or self.ratio <= self.most) and (
            self.least is None or self.ratio >= self.least
        )

    @property
    def limit(self) -> str:
        if self.most is not None:
            return f"at most {self.most:g}"
        return "" if self.least is None else f"at least {self.least:g}"

    def explain(self) -> str:
        """For the message of a failed assertion: the ratio with where it comes from."""
        raw = ", ".join(f"{name} {seconds:.3f} s" for name, seconds in self.seconds.items())
        return f"{self.what}: {self.ratio:.2f}, {self.limit or 'no limit'} ({raw}) {self.note}"


class Results:
    """Takes a measurement down, then judges it: the table shows also those that fail."""

    def __init__(self, measured: list[Measurement]) -> None:
        self._measured = measured

    def add(self, measurement: Measurement) -> None:
        self._measured.append(measurement)
        assert measurement.holds, measurement.explain()


def machine() -> dict[str, str | int]:
    """What a reader has to know to compare with another machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    version = run(["qemu-img", "--version"], Deadline(30, "asking QEMU's version")).stdout
    return {
        "cpu": _cpu_model(),
        "cpus": os.cpu_count() or 1,
        "memory_mib": memory >> 20,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "qemu": version.split()[2],
        "acceleration": acceleration(),
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def as_table(measurements: Sequence[Measurement]) -> str:
    """One row a measurement, its raw numbers beneath it."""
    table = Table(width=WIDTH, show_lines=True)
    table.add_column("compared", ratio=1)
    table.add_column("ratio", justify="right")
    table.add_column("limit")
    table.add_column("")
    for one in measurements:
        sizes = [f"{name}: {size / 1024:,.0f} KiB" for name, size in one.allocated.items()]
        times = [f"{name}: {_in_words(seconds)}" for name, seconds in one.seconds.items()]
        details = "\n".join(line for line in (", ".join(times), ", ".join(sizes), one.note) if line)
        verdict = "" if not one.limit else "ok" if one.holds else "NO"
        what = f"{one.what}\n[dim]{details}[/dim]" if details else one.what
        table.add_row(what, f"{one.ratio:.2f}", one.limit, verdict)
    console = Console(width=WIDTH, color_system=None)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def _in_words(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def write(path: Path, measurements: Sequence[Measurement], load_before: float) -> None:
    """This session's measurements, in place of what the file said of the same ones.

    ``load_before`` is the machine's load average when the session began: far from 0, somebody
    else used the machine, and the numbers are worth less.
    """
    kept = json.loads(path.read_text())["measurements"] if path.exists() else {}
    about = {
        "measured": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": machine(),
        "load_before": round(load_before, 2),
    }
    fresh = {
        one.name: {key: value for key, value in asdict(one).items() if key != "name"}
        | {"ratio": round(one.ratio, 3), "holds": one.holds}
        | {"seconds": {key: round(value, 4) for key, value in one.seconds.items()}}
        | about
        for one in measurements
    }
    path.parent.mkdir(exist_ok=True)
    merged = dict(sorted((kept | fresh).items()))
    path.write_text(json.dumps({"measurements": merged}, indent=1, ensure_ascii=False) + "\n")
