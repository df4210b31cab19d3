"""What a run leaves for people: console, screen, transcripts, and proof of an untouched source."""

from __future__ import annotations

import shutil

from sandbox.clone.create import CONTROL_CONSOLE
from sandbox.clone.reaper import domain_name
from sandbox.core.deadline import Deadline
from sandbox.core.errors import SandboxError
from sandbox.core.records import UpgradeStatus
from sandbox.hosts.drivers import Hypervisor
from sandbox.hosts.source import Source, proofs, vitals
from sandbox.hosts.volumes import host_disks
from sandbox.hosts.volumes.storage import storage_of
from sandbox.rehearsal.control import CONTROL_CHECKS
from sandbox.rehearsal.run import MORE_SPACE, Run

CONSOLE = "console.log"
SCREEN = "screen.png"
_LOOK_SECONDS = 30.0  # of the clean-up
_AGAIN = "rehearse it again"


class Witness:
    """The source's state before it is cloned, to be compared when the clone is gone."""

    def __init__(self, hypervisor: Hypervisor, source: Source) -> None:
        self._hypervisor = hypervisor
        self._source = source
        self._before = vitals(hypervisor, source)

    def compare(self) -> tuple[tuple[str, ...], str]:
        """As :func:`sandbox.hosts.source.proofs`."""
        return proofs(self._source, self._before, vitals(self._hypervisor, self._source))


def prove_untouched(run: Run, witness: Witness | None) -> None:
    """Compare the source before and after; one that changed makes the run an ``error``."""
    if witness is None:
        return
    try:
        kept, changed = witness.compare()
    except SandboxError as problem:
        run.blame(problem)
        return
    run.prove_untouched(kept)
    if changed:
        run.void(changed, f"the clone may not be what the source was: {_AGAIN}")


def prove_whole(run: Run, hypervisor: Hypervisor) -> None:
    """A clone whose disks broke proves nothing: it looks like an upgrade that went wrong.

    The guard looks now and then; a run may end before it looks again.
    """
    if run.given_up:
        run.void(run.given_up, MORE_SPACE)
        return
    source = run.record.source
    if not run.has_clone or source is None or host_disks.THICK not in source.method:
        return  # only a thick snapshot can lose what it keeps
    try:
        deadline = Deadline(_LOOK_SECONDS, "looking at the clone's snapshots")
        broken = storage_of(hypervisor).danger(run.folder, deadline, files=False)
    except SandboxError as problem:
        run.void(f"whether the clone's snapshot is whole is not known: {problem.message}", _AGAIN)
        return
    if broken.to_clone:
        run.void(broken.why, MORE_SPACE)


def collect(run: Run, hypervisor: Hypervisor) -> None:
    """Save what the clone shows before it is removed."""
    prove_whole(run, hypervisor)
    if run.has_clone:
        run.read_ledger()
        run.add_artifact("clone.xml", "the clone's definition")
    console = run.folder.artifacts / CONSOLE
    if console.exists():
        console.chmod(0o600)
        run.add_artifact(CONSOLE, "the guest's serial console")
    _collect_of_the_control(run)
    if run.has_clone and _went_wrong(run):
        picture = hypervisor.screenshot(domain_name(run.folder.id))
        if picture is not None:
            path = run.folder.artifacts / SCREEN
            path.touch(mode=0o600)
            path.write_bytes(picture)
            run.add_artifact(SCREEN, "the guest's screen when the run ended")


def _collect_of_the_control(run: Run) -> None:
    """Its console and what its checks said; side by side with the clone's."""
    place = run.folder.artifacts
    if (place / CONTROL_CONSOLE).exists():
        (place / CONTROL_CONSOLE).chmod(0o600)
        run.add_artifact(CONTROL_CONSOLE, "the control's serial console")
    own = place / CONTROL_CHECKS
    for log in sorted(own.glob("*.log")):
        name = f"control-{log.name}"
        log.rename(place / name)
        run.add_artifact(name, "output of the checks on the control")
    shutil.rmtree(own, ignore_errors=True)


def _went_wrong(run: Run) -> bool:
    facts = run.facts
    failed = facts.upgrade is not None and facts.upgrade.status is UpgradeStatus.FAILED
    stuck = facts.reboot is not None and not facts.reboot.happened
    return facts.trouble is not None or failed or stuck
