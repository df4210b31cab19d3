"""Close the records of runs that did not do it themselves, so that the list tells the truth."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable
from pathlib import Path

from sandbox.clone.reaper import Reaped
from sandbox.clone.ssh import ssh_command
from sandbox.core.errors import HostError, RequestError, SandboxError
from sandbox.core.records import PhaseTime, RunRecord, Trouble, Verdict
from sandbox.core.store import RunFolder, Store, is_alive
from sandbox.report import render
from sandbox.verdict.decide import decide

# A live run writes its record again within seconds after its clone's folder is gone.
SILENCE = 600.0
PAGE = "report.html"
_CLONES_OWN = "console.log"  # the clone writes it, also when its run was killed


def was_killed(folder: RunFolder, record: RunRecord) -> bool:
    """Whether the record is open although its process is gone."""
    if record.state != "running":
        return False
    owner = folder.facts().get("owner")
    if owner is not None:
        return not is_alive(owner)
    return time.time() - _last_word(folder) > SILENCE


def told(folder: RunFolder, record: RunRecord) -> RunRecord:
    """The record as it is to be shown: that of a killed run says so, before it is closed."""
    if not was_killed(folder, record):
        return record
    return _killed(folder, record, "`sandbox reap` removes what it left; rehearse it again")


def close(folder: RunFolder, record: RunRecord, *, left_behind: Iterable[str] = ()) -> RunRecord:
    """The record of a run that is over and whose clone is gone, or should be; saved, and its page
    with it."""
    closed = record.model_copy(
        update={"state": "finished", "ssh_command": "", "left_behind": tuple(left_behind)}
    )
    if record.state == "running":
        closed = _killed(folder, closed)
    if closed != record:
        _save(folder, closed)
    return closed


def _save(folder: RunFolder, record: RunRecord) -> None:
    try:
        folder.save(record)
    except OSError as problem:
        raise HostError(
            f"the record of run {folder.id} cannot be written: {problem}", "free some space"
        ) from problem
    if write_page(folder, record):
        # One that says of the clone what is not true any more is worse than none.
        (folder.artifacts / PAGE).unlink(missing_ok=True)


def write_page(folder: RunFolder, record: RunRecord) -> str:
    """The report as a page among the run's artifacts; why it could not be written, or ""."""
    try:
        page = folder.artifacts / PAGE
        page.touch(mode=0o600)
        page.write_text(render(record, folder.artifacts, "html"))
    except (OSError, SandboxError) as problem:
        return str(problem)
    return ""


def warned(record: RunRecord, warning: str) -> RunRecord:
    """With one more line about what the clone cost, or would have cost, production."""
    if record.source is None:
        return record
    warnings = (*record.source.warnings, warning)
    source = record.source.model_copy(update={"warnings": warnings})
    return record.model_copy(update={"source": source})


def _killed(folder: RunFolder, record: RunRecord, hint: str = "rehearse it again") -> RunRecord:
    """With a verdict, which a run that was killed could not give itself.

    What was proved before the clean-up stays proved; everything else is ``error``. It ended with
    its last sign of life, in a phase that did not end well.
    """
    phase, ended = record.phase, max(_last_sign(folder), record.started)
    message = f"the sandbox was killed during {phase.value}"
    trouble = Trouble(blame=Verdict.ERROR, phase=phase, message=message, hint=hint)
    facts = record.facts.model_copy(update={"trouble": record.facts.trouble or trouble})
    decision = decide(facts)
    if facts.trouble == trouble and decision.verdict is Verdict.ERROR:
        decision = decision.model_copy(update={"reason": message})
    phases = record.phases
    if not phases or phases[-1].phase is not phase:
        begun = max((p.started + p.seconds for p in phases), default=record.started)
        took = round(max(0.0, ended - begun), 3)
        died = PhaseTime(phase=phase, started=begun, seconds=took, ok=False, note="killed in it")
        phases = (*phases, died)
    values = {"facts": facts, "decision": decision, "finished": ended, "phases": phases}
    return record.model_copy(update={**values, "state": "finished"})


def _last_word(folder: RunFolder) -> float:
    """When the run last wrote its record; Unix time."""
    return _written(folder.artifacts / "run.json")


def _last_sign(folder: RunFolder) -> float:
    """When the run last wrote anything: what a clone writes that outlived it is no sign."""
    files = [folder.artifacts / "run.json", *folder.artifacts.glob("*.log")]
    signs = [_written(file) for file in files if file.name != _CLONES_OWN]
    return max(signs)


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def close_killed(store: Store, reaped: Iterable[Reaped]) -> tuple[str, ...]:
    """Close the records of killed runs; ids of those that were open.

    ``reaped``: what was just removed. The folder of such a run that never wrote a record says
    nothing and is removed.
    """
    removals = {done.run: done for done in reaped}
    closed = []
    for run_id in sorted({*store.ids(), *removals}):
        folder, done = store.folder(run_id), removals.get(run_id)
        try:
            record = store.load(folder)
        except RequestError:
            if done and not done.failed and not (folder.artifacts / "run.json").exists():
                shutil.rmtree(folder.artifacts, ignore_errors=True)
            continue
        if record.state == "kept" and done is not None:
            close(folder, record, left_behind=done.failed)  # it has its verdict
        if record.state != "running":
            continue
        if done is not None:
            close(folder, record, left_behind=done.failed)
        elif was_killed(folder, record) and not _waits(folder):
            _close_unreaped(folder, record)
        else:
            continue
        closed.append(run_id)
    return tuple(closed)


def _waits(folder: RunFolder) -> bool:
    """Whether the clone still has to be reaped, on a host that was not asked this time."""
    return folder.clone.exists() and folder.facts().get("kept") != "yes"


def _close_unreaped(folder: RunFolder, record: RunRecord) -> None:
    """Killed after its clone was removed, or after it was decided that the clone stays."""
    if folder.facts().get("kept") != "yes":
        close(folder, record)
        return
    kept = {"state": "kept", "ssh_command": ssh_command(folder.clone)}
    _save(folder, _killed(folder, record).model_copy(update=kept))
