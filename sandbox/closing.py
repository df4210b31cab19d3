"""Close the records of runs that did not do it themselves, so that the list tells the truth."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable

from sandbox.errors import HostError, RequestError
from sandbox.reaper import Reaped
from sandbox.records import RunRecord, Trouble, Verdict
from sandbox.ssh import ssh_command
from sandbox.store import RunFolder, Store, is_alive
from sandbox.verdict import decide

# A live run writes its record again within seconds after its clone's folder is gone.
SILENCE = 600.0


def was_killed(folder: RunFolder, record: RunRecord) -> bool:
    """Whether the record is open although nobody is left to close it."""
    if record.state != "running":
        return False
    owner = folder.facts().get("owner")
    if owner is not None:
        return not is_alive(owner)
    return time.time() - _last_word(folder) > SILENCE


def close(folder: RunFolder, record: RunRecord, *, left_behind: Iterable[str] = ()) -> RunRecord:
    """The record of a run that is over and whose clone is gone, or should be; saved."""
    closed = record.model_copy(
        update={"state": "finished", "ssh_command": "", "left_behind": tuple(left_behind)}
    )
    if record.state == "running":
        closed = _killed(folder, closed)
    if closed != record:
        try:
            folder.save(closed)
        except OSError as problem:
            raise HostError(
                f"the record of run {folder.id} cannot be written: {problem}", "free some space"
            ) from problem
    return closed


def warned(record: RunRecord, warning: str) -> RunRecord:
    """With one more line about what the clone cost, or would have cost, production."""
    if record.source is None:
        return record
    warnings = (*record.source.warnings, warning)
    source = record.source.model_copy(update={"warnings": warnings})
    return record.model_copy(update={"source": source})


def _killed(folder: RunFolder, record: RunRecord) -> RunRecord:
    """With a verdict, which a run that was killed could not give itself.

    What was proved before the clean-up stays proved; everything else is ``error``.
    """
    phase = record.phase
    message = f"the sandbox was killed during {phase.value}"
    trouble = Trouble(blame=Verdict.ERROR, phase=phase, message=message, hint="rehearse it again")
    facts = record.facts.model_copy(update={"trouble": record.facts.trouble or trouble})
    decision = decide(facts)
    if facts.trouble == trouble and decision.verdict is Verdict.ERROR:
        decision = decision.model_copy(update={"reason": message})
    ended = max(_last_word(folder), record.started)
    return record.model_copy(update={"facts": facts, "decision": decision, "finished": ended})


def _last_word(folder: RunFolder) -> float:
    """When the run last wrote something down; Unix time."""
    try:
        return (folder.artifacts / "run.json").stat().st_mtime
    except OSError:
        return 0.0


def close_killed(store: Store, reaped: Iterable[Reaped]) -> tuple[str, ...]:
    """Close the records of killed runs; ids of those that were open.

    ``reaped``: what was just removed. The folder of such a run that never wrote a record says
    nothing to anybody and is removed.
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
    done = close(folder, record)
    if folder.facts().get("kept") == "yes":
        kept = {"state": "kept", "ssh_command": ssh_command(folder.clone)}
        folder.save(done.model_copy(update=kept))
