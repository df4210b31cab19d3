"""Rehearse the corpus on real guests under QEMU and say how often the product was right.

    make corpus                                       # all of it: about an hour on two cores
    make corpus CORPUS="--only 'mirror-*' --only flaky"
    make corpus CORPUS="--records FOLDER"             # keeps what was found in each case, so that
    make corpus CORPUS="--judge FOLDER"               # it can be judged again without a guest

Exits with 1 when a goal is missed: no false pass, at most one false fail in forty, and the
planted cause named in four of five cases.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

from sandbox.core.deadline import Deadline
from sandbox.core.records import Decision, RunRecord
from sandbox.core.settings import WATCH, Settings, read_settings, shipped_scenarios
from sandbox.hosts.drivers import driver_for
from sandbox.hosts.drivers.acceleration import acceleration
from sandbox.verdict.decide import decide
from tests.corpus.cases import CASES
from tests.corpus.corpus_case import Case
from tests.corpus.corpus_image import make_image
from tests.corpus.corpus_judge import NONE, Result, as_data, as_text, from_data, missed
from tests.support.guests import leftovers
from tests.support.guests.archive import Archive, serving
from tests.support.guests.guests import Lab, settings_for

MEMORY = "memory: 512MiB\n"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options().parse_args(arguments)
    cases = chosen(options.only)
    if options.list:
        for case in cases:
            print(f"{case.truth:13}{case.name:32}{case.why}")
        return 0
    if options.judge:
        print(as_text(judge_again(cases, options.judge)))
        return 0
    for variant in dict.fromkeys(case.image for case in cases):
        make_image(variant, print)
    results = rehearse_all(cases, options)
    if options.json:
        results = kept(options.json)
    print(as_text(results))
    return 1 if missed(results) else 0


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--only", action="append", default=[], metavar="PATTERN", help="cases by name: 'mirror-*'"
    )
    parser.add_argument("--at-once", type=int, default=2, help="rehearsals at a time (default 2)")
    parser.add_argument("--minutes", type=float, default=600, help="begin no case after so many")
    parser.add_argument("--list", action="store_true", help="name the cases and why they are so")
    parser.add_argument(
        "--json", type=Path, help="keep the results here; those of cases not run now stay"
    )
    parser.add_argument("--records", type=Path, help="keep the record of each rehearsal here")
    parser.add_argument(
        "--judge", type=Path, metavar="RECORDS", help="rehearse nothing: decide these anew"
    )
    return parser


def chosen(patterns: Sequence[str]) -> list[Case]:
    """In the order of the patterns."""
    found = {
        case.name: case
        for pattern in patterns or ["*"]
        for case in CASES
        if fnmatchcase(case.name, pattern)
    }
    return list(found.values())


def rehearse_all(cases: Sequence[Case], options: argparse.Namespace) -> list[Result]:
    """Each in a process of its own; in the order of the cases."""
    until = time.time() + 60 * options.minutes
    found: dict[str, Result] = {}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.at_once, mp_context=context, max_tasks_per_child=1) as pool:
        started = [pool.submit(rehearse_one, case.name, until, options.records) for case in cases]
        for future in as_completed(started):
            result = future.result()
            if result is None:
                continue
            found[result.case] = result
            mark = "   " if result.right else "NO "
            print(
                f"{mark}{len(found):3}/{len(cases)} {result.seconds:4.0f} s {result.case}: "
                f"{result.verdict}: {result.reason}",
                flush=True,
            )
            if options.json:
                keep(options.json, result)
    return [found[case.name] for case in cases if case.name in found]


def rehearse_one(name: str, until: float, records: Path | None) -> Result | None:
    """In its process. None: it is too late to begin."""
    if time.time() > until:
        return None
    case = next(case for case in CASES if case.name == name)
    clock = time.monotonic()
    try:
        with _state() as state:
            record = _rehearse(case, state)
            left = ", ".join(f"{n} {kind}" for kind, n in leftovers.count(state).items())
        if records is not None:
            records.mkdir(parents=True, exist_ok=True)
            (records / f"{name}.json").write_text(record.model_dump_json(indent=1))
        assert record.decision is not None, "the record has no decision"
        result = result_of(case, record.decision)
    except Exception as problem:  # one case that breaks must not take the others with it
        why = f"{type(problem).__name__}: {problem}"
        return Result(case.name, case.truth, NONE, case.cause, why)
    return replace(result, seconds=time.monotonic() - clock, left_behind=left)


def result_of(case: Case, decision: Decision) -> Result:
    return Result(
        case=case.name,
        truth=case.truth,
        verdict=str(decision.verdict),
        cause=case.cause,
        reason=decision.reason,
        findings=decision.findings,
        control=case.control,
    )


def judge_again(cases: Sequence[Case], records: Path) -> list[Result]:
    """What today's code makes of facts that were found before."""
    results = []
    for case in cases:
        path = records / f"{case.name}.json"
        if path.exists():
            record = RunRecord.model_validate_json(path.read_text())
            results.append(result_of(case, decide(record.facts)))
    return results


@contextmanager
def _state() -> Iterator[Path]:
    """Short, since sockets live beneath it."""
    folder = Path(tempfile.mkdtemp(prefix="sbcorpus-", dir="/tmp"))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _rehearse(case: Case, state: Path) -> RunRecord:
    work = state / "work"
    work.mkdir()
    image = make_image(case.image, print)
    driver = driver_for("qemu:///system", Deadline(20, "connecting"))
    try:
        with serving() as archive:
            _offer(case, archive, work / "packages")
            (work / "scenarios").mkdir()
            lab = Lab(_settings(case, state, archive), driver, image, work / "scenarios")
            if case.shipped:
                return lab.run(shipped_scenarios() / case.shipped)
            control = f"control: {'always' if case.control else 'never'}\n"
            own = {"test_own": case.checks} if case.checks else {}
            return lab.run(lab.scenario(case.scenario + MEMORY + control, **own))
    finally:
        driver.close()


def _settings(case: Case, state: Path, archive: Archive) -> Settings:
    if case.mirror == "debian":
        return replace(read_settings(), state=state, control="never")
    return replace(settings_for(state, archive), watch=WATCH)


def _offer(case: Case, archive: Archive, out: Path) -> None:
    """The packages of a case, by a mirror that behaves as the case says."""
    packages = [package.build(out) for package in case.packages]
    archive.offer(packages)
    archive.down = case.mirror == "down"
    archive.failing = ".deb" if case.mirror == "flickers" else ""
    archive.slow = ".deb" if case.mirror == "slow" else ""
    if case.mirror == "half synchronised":  # other packages than its index speaks of
        archive.objects = {
            url: content + b"." if url.endswith(".deb") else content
            for url, content in archive.objects.items()
        }


def kept(path: Path) -> list[Result]:
    return from_data(json.loads(path.read_text())) if path.exists() else []


def keep(path: Path, fresh: Result) -> None:
    """Write a result down in place of what the file said of the same case: whoever interrupts
    the rest keeps it."""
    found = {one.case: one for one in (*kept(path), fresh)}
    results = [found[case.name] for case in CASES if case.name in found]
    about = {
        "measured": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "acceleration": acceleration(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(about | as_data(results), indent=1, ensure_ascii=False)
    path.write_text(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
