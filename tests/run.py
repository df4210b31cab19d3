"""Runs the parts of the tests side by side: ``python -m tests.run test``, or ``PART ...``.

What fails is shown at once, with the folder that explains it; in the end there are a table of the
parts and the folder of all logs. Ends with 1 when something failed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.parts import CIRCLES, PARTS, Circle, Part
from tests.support.paths import ROOT

FOLDER = ROOT / "build" / "tests"
RECORDS = ROOT / ".benchmarks"
SESSION, PUBLISHED = RECORDS / "session-tests.json", RECORDS / "tests.json"  # one is committed
BIN = Path(sys.executable).parent
SHOWN = os.dup(1)  # for what parts show at once: their own output goes to a log
PATIENCE = 300.0  # seconds for parts to clean up when they are interrupted
CORES = 2  # for parts that boot guests
OTHERS = 1  # parts at a time that boot none


@dataclass(frozen=True)
class Ended:
    """What became of a part."""

    part: Part
    status: int
    seconds: float
    worked: float  # processor seconds of its own programs; libvirt's guests are none of them
    passed: int = 0
    failures: tuple[str, ...] = ()  # what failed, and the first lines of why
    slowest: tuple[tuple[float, str], ...] = ()


@dataclass
class Session:
    """One run of some parts: which of them may begin, which are at work, what became of them."""

    circle: Circle
    extra: tuple[str, ...]
    saved: str  # a folder for guests that were booted once, for all parts
    waiting: list[Part]
    at_work: list[Part] = field(default_factory=list)
    processes: set[subprocess.Popen[bytes]] = field(default_factory=set)
    ended: list[Ended] = field(default_factory=list)
    interrupted: bool = False
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def run(self) -> None:
        """Every slot takes the next part that it may; returns when all have ended."""
        guests = any(part.cores for part in self.waiting)
        kinds = [True] * CORES + [False] * OTHERS if guests else [False] * CORES
        slots = [threading.Thread(target=self._work, args=(boots,)) for boots in kinds]
        for slot in slots:
            slot.start()
        try:
            for slot in slots:
                slot.join()
        except KeyboardInterrupt:
            self.interrupt()
            for slot in slots:
                slot.join(PATIENCE)

    def interrupt(self) -> None:
        """Let the parts at work clean up, and begin no other."""
        with self._changed:
            self.interrupted = True
            self.waiting.clear()
            self._changed.notify_all()
        for process in list(self.processes):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)

    def _work(self, boots: bool) -> None:
        while (part := self._next(boots)) is not None:
            ended = self._run(part)
            with self._changed:
                self.at_work.remove(part)
                self.ended.append(ended)
                self._changed.notify_all()

    def _next(self, boots: bool) -> Part | None:
        with self._changed:
            while mine := [part for part in self.waiting if bool(part.cores) is boots]:
                if free := [part for part in mine if self._may_begin(part)]:
                    self.waiting.remove(free[0])
                    self.at_work.append(free[0])
                    return free[0]
                self._changed.wait()
            return None

    def _may_begin(self, part: Part) -> bool:
        """While libvirtd is restarted no other part may ask it; that part comes before them. One
        that measures has the machine for itself, when all others have ended."""
        if any(other.alone for other in self.at_work):
            return False
        if part.cores and part.cores + sum(other.cores for other in self.at_work) > CORES:
            return False
        if part.alone and (self.at_work or any(not other.alone for other in self.waiting)):
            return False
        others = (*self.at_work, *self.waiting) if part.libvirt == "uses" else self.at_work
        excluded = {"uses": {"restarts"}, "restarts": {"uses"}}.get(part.libvirt, set())
        return not any(other.libvirt in excluded for other in others)

    def _run(self, part: Part) -> Ended:
        say(f"{part.name}: begun: {part.what}")
        folder = FOLDER / part.name
        folder.mkdir(parents=True)
        began, status, worked = time.monotonic(), 0, 0.0
        environment = os.environ | {
            "TEST_ARTIFACTS": str(folder),
            "TEST_SHOW": str(SHOWN),
            "TEST_CIRCLE": self.circle,
            "TEST_SAVED_BOOTS": self.saved,
        }
        if part.production:
            environment["TEST_PRODUCTION"] = part.production
        report = folder / "report.xml"
        with (folder / "log").open("wb") as log:
            for program, *words in part.argvs(self.circle, self.extra):
                junit = [f"--junitxml={report}"] if program == "pytest" else []
                process = subprocess.Popen(
                    [BIN / program, *words, *junit],
                    cwd=ROOT,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(SHOWN,),
                    start_new_session=True,
                )
                self.processes.add(process)
                _, end, usage = os.wait4(process.pid, 0)
                process.returncode = os.waitstatus_to_exitcode(end)
                status = process.returncode or status
                worked += usage.ru_utime + usage.ru_stime
                self.processes.remove(process)
        ended = _read(part, status, time.monotonic() - began, worked, report)
        self._tell(ended, folder / "log")
        return ended

    def _tell(self, ended: Ended, log: Path) -> None:
        said = "passed" if ended.status == 0 else "FAILED"
        counted = f", {tests} tests" if (tests := ended.passed + len(ended.failures)) else ""
        say(f"{ended.part.name}: {said} in {_minutes(ended.seconds)}{counted}")
        if ended.status and not ended.failures:  # a failed test was shown already
            tail = log.read_text(errors="replace").splitlines()[-40:]
            say("\n".join(tail))


def say(text: str) -> None:
    """A line in one piece: parts end in several threads."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _read(part: Part, status: int, seconds: float, worked: float, report: Path) -> Ended:
    if not report.exists():
        return Ended(part, status, seconds, worked)
    cases = list(ET.parse(report).getroot().iter("testcase"))
    wrong = {
        case: found
        for case in cases
        for tag in ("failure", "error")
        if (found := case.find(tag)) is not None
    }
    failures = tuple(f"{_named(case)}: {_first_lines(found)}" for case, found in wrong.items())
    slowest = sorted(((float(c.get("time", 0)), _named(c)) for c in cases), reverse=True)
    passed = len(cases) - len(failures)
    return Ended(part, status, seconds, worked, passed, failures, tuple(slowest[:5]))


def _named(case: ET.Element) -> str:
    return f"{case.get('classname')}.{case.get('name')}"


def _first_lines(wrong: ET.Element) -> str:
    lines = (wrong.get("message") or wrong.text or "").splitlines()
    return " ".join(lines[:3])[:300]


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


def _busy() -> tuple[float, float]:
    """Seconds that this machine's processors worked, and that there were, since its start."""
    words = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    ticks = [int(word) for word in words]
    idle = ticks[3] + ticks[4]
    rate = os.sysconf("SC_CLK_TCK")
    return (sum(ticks) - idle) / rate, sum(ticks) / rate


def _table(session: Session, seconds: float, worked: float) -> Iterator[str]:
    table = Table(title="the parts", title_justify="left")
    for head in ("part", "", "passed", "failed", "minutes", "own work"):
        table.add_column(head, justify="left" if head in ("part", "") else "right")
    for ended in sorted(session.ended, key=lambda one: -one.seconds):
        said = "passed" if ended.status == 0 else "FAILED"
        counts = (str(ended.passed or ""), str(len(ended.failures) or ""))
        times = (f"{ended.seconds / 60:.1f}", f"{ended.worked / 60:.1f}")
        table.add_row(ended.part.name, said, *counts, *times)
    table.add_section()
    table.add_row("all, with guests", "", "", "", f"{seconds / 60:.1f}", f"{worked / 60:.1f}")
    console = Console(width=80, color_system=None)
    with console.capture() as captured:
        console.print(table)
    yield captured.get().rstrip()
    yield f"processors: {worked / 60:.0f} minutes of work in {seconds / 60:.0f} minutes"
    slowest = sorted((one for ended in session.ended for one in ended.slowest), reverse=True)
    yield "slowest: " + "; ".join(f"{took:.0f} s {name}" for took, name in slowest[:8])


def _record(session: Session, seconds: float, worked: float, file: Path) -> None:
    """For comparing: how long each part took, on which machine."""
    record = {
        "circle": session.circle,
        "measured": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "minutes": round(seconds / 60, 1),
        "processor_minutes": round(worked / 60, 1),
        "processors": os.cpu_count(),
        "parts": {
            ended.part.name: {
                "minutes": round(ended.seconds / 60, 1),
                "processor_minutes": round(ended.worked / 60, 1),
                "tests": ended.passed,
            }
            for ended in sorted(session.ended, key=lambda one: one.part.name)
        },
    }
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(record, indent=1) + "\n")


def _chosen(names: Sequence[str]) -> tuple[Circle, list[Part]]:
    """A circle, or parts by name: each as in the widest circle."""
    for number, circle in enumerate(CIRCLES):
        if list(names) == [circle]:
            return circle, [p for p in PARTS if CIRCLES.index(p.circle) <= number]
    known = {part.name: part for part in PARTS}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SystemExit(
            f"tests: no part {unknown[0]!r}\n"
            f"what to do: name one of {', '.join((*CIRCLES, *known))}"
        )
    return "all", [known[name] for name in names]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.run", description=__doc__)
    parser.add_argument("names", nargs="+", help="quick, test or all; or names of parts")
    parser.add_argument("--pytest", default="", help="further options for every pytest")
    parser.add_argument(
        "--publish", action="store_true", help=f"keep the times in {PUBLISHED.name}, too"
    )
    asked = parser.parse_args(arguments)
    circle, parts = _chosen(asked.names)
    shutil.rmtree(FOLDER, ignore_errors=True)
    began, before = time.monotonic(), _busy()[0]
    with tempfile.TemporaryDirectory(prefix="sandbox-tests-", dir="/var/tmp") as saved:
        session = Session(circle, tuple(asked.pytest.split()), saved, list(parts))
        session.run()
    seconds, worked = time.monotonic() - began, _busy()[0] - before
    print("\n".join(_table(session, seconds, worked)))
    for file in (SESSION, PUBLISHED) if asked.publish else (SESSION,):
        _record(session, seconds, worked, file)
    failed = [ended.part.name for ended in session.ended if ended.status]
    print(f"logs, and what explains each failure: {FOLDER}")
    if session.interrupted:
        print("interrupted")
    elif failed:
        print(f"failed: {' '.join(failed)}")
        for ended in session.ended:
            for text in ended.failures:
                print(f"  {text}")
    print(f"{sum(e.passed for e in session.ended)} passed, {_failures(session)} failed")
    return 1 if failed or session.interrupted else 0


def _failures(session: Session) -> int:
    """Failed tests; a part that failed without one counts as one."""
    return sum(len(e.failures) or int(e.status != 0) for e in session.ended)


if __name__ == "__main__":
    sys.exit(main())
