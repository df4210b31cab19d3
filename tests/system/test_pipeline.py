"""Whole rehearsals that end early: verdict, record, and nothing left."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

from sandbox.clone.reaper import domain_name, remove_run
from sandbox.core.deadline import Deadline
from sandbox.core.errors import (
    HostError,
)
from sandbox.core.records import (
    Phase,
    RunRecord,
    Verdict,
)
from sandbox.core.settings import Settings
from sandbox.network import isolation
from tests.support.fakes.stage import GUEST, PNG, Stage, add_guest


def expect(stage: Stage, record: RunRecord, verdict: Verdict, phase: Phase, words: str) -> None:
    assert record.decision is not None
    trouble = record.facts.trouble
    assert trouble is not None
    assert (record.decision.verdict, trouble.phase) == (verdict, phase), trouble
    assert words in trouble.message + trouble.hint
    assert stage.stored() == record
    assert (record.state, record.left_behind) == ("finished", ())
    assert [done.phase for done in record.phases] == [done.phase for done in stage.progress.ended]
    assert record.phases[-1].phase is Phase.CLEANUP
    assert record.phases[-1].ok
    assert stage.left() == []


# -- rehearsals that end early ----------------------------------------------------------------


def test_an_unknown_guest_is_rejected_and_nothing_was_made(stage: Stage) -> None:
    record = stage.rehearse("source: {guest: web10}")
    expect(stage, record, Verdict.REJECTED, Phase.PLAN, f"did you mean {GUEST!r}")
    assert [done.phase for done in record.phases] == [Phase.PLAN, Phase.CLEANUP]
    assert not record.phases[0].ok
    assert record.source is None


def test_an_image_with_a_lying_format_is_rejected(stage: Stage) -> None:
    record = stage.rehearse(f"source: {{image: {{path: {stage.image}, format: raw}}}}")
    expect(stage, record, Verdict.REJECTED, Phase.PLAN, "looks like qcow2")


def test_a_guest_that_is_being_rehearsed_or_backed_up_is_an_error(stage: Stage) -> None:
    domain = stage.hypervisor.domains[GUEST]
    domain.state, domain.export = "running", stage.settings.state / "somebody-elses"
    record = stage.rehearse()
    expect(stage, record, Verdict.ERROR, Phase.PLAN, "in progress")
    assert domain.export == stage.settings.state / "somebody-elses", "it was not ours to end"


def test_a_host_without_memory_is_an_error(stage: Stage) -> None:
    stage.hypervisor.memory = 200 << 20
    expect(stage, stage.rehearse(), Verdict.ERROR, Phase.CLONE, "200 MiB free")


def test_a_full_disk_is_an_error(stage: Stage) -> None:
    """A real and small filesystem, of this test's own."""
    small = stage.settings.state / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "sbtest", small], check=True)
    try:
        tight = Stage(Settings(state=small, cache=small / "cache"))
        add_guest(tight)
        record = tight.rehearse()
        expect(tight, record, Verdict.ERROR, Phase.CLONE, "a rehearsal needs 1024 MiB")
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_network_that_cannot_be_made_is_an_error(stage: Stage) -> None:
    stage.hypervisor.fail("create_network", HostError("no bridges today", "ask the kernel"))
    expect(stage, stage.rehearse(), Verdict.ERROR, Phase.CLONE, "no bridges today")


def test_a_gate_that_cannot_be_closed_is_an_error(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clone is never started on an open bridge."""
    monkeypatch.setattr(isolation, "gate_rules", lambda *_: "no such rule\n")
    record = stage.rehearse()
    expect(stage, record, Verdict.ERROR, Phase.CLONE, "Error: syntax error")


def test_a_domain_that_cannot_be_started_is_an_error(stage: Stage) -> None:
    stage.hypervisor.fail("start", HostError("the clone cannot be started: no"))
    record = stage.rehearse()
    expect(stage, record, Verdict.ERROR, Phase.CLONE, "cannot be started")


def test_an_export_that_does_not_answer_is_ended(stage: Stage) -> None:
    stage.hypervisor.domains[GUEST].state = "running"  # in memory, nobody serves exports
    expect(stage, stage.rehearse(), Verdict.ERROR, Phase.CLONE, "qemu-img exited with")
    assert stage.hypervisor.domains[GUEST].export is None


def test_a_clone_that_does_not_boot_is_inconclusive_and_shows_its_screen(stage: Stage) -> None:
    stage.hypervisor.screen = PNG
    record = stage.rehearse()
    expect(stage, record, Verdict.INCONCLUSIVE, Phase.BOOT, "no SSH within 1 s")
    assert record.source is not None
    assert record.source.untouched == (
        "disk files unchanged (inode, size and modification time)",
        "domain XML unchanged, still stopped",
    )
    artifacts = stage.folders[-1].artifacts
    assert {a.name for a in record.artifacts} == {"clone.xml", "screen.png"}
    assert (artifacts / "screen.png").read_bytes() == PNG
    assert (artifacts / "screen.png").stat().st_mode & 0o777 == 0o600
    assert artifacts.stat().st_mode & 0o777 == 0o700


def start_source(stage: Stage) -> None:
    stage.hypervisor.domains[GUEST].state = "running"


def write_disk(stage: Stage) -> None:
    stage.image.touch()


def change_configuration(stage: Stage) -> None:
    domain = stage.hypervisor.domains[GUEST]
    domain.xml = domain.xml.replace("512", "1024")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (start_source, "was started while its clone ran"),
        (write_disk, "disk files changed while its clone ran"),
        (change_configuration, "configuration changed while its clone ran"),
    ],
)
def test_a_source_that_changed_makes_whatever_was_found_void(
    stage: Stage, change: Callable[[Stage], None], words: str
) -> None:
    """Else a clone that stumbled over its own base would be a verdict on the upgrade."""
    start = stage.hypervisor.start

    def start_and_change(xml: str, deadline: Deadline) -> None:
        start(xml, deadline)
        change(stage)

    stage.hypervisor.start = start_and_change  # type: ignore[method-assign]
    record = stage.rehearse()
    expect(stage, record, Verdict.ERROR, Phase.CLONE, words)
    assert record.source is not None
    assert record.source.untouched == ()


@pytest.mark.parametrize("problem", [OSError("No space left on device"), HostError("gone")])
def test_evidence_that_cannot_be_saved_keeps_nothing_from_being_removed(
    stage: Stage, problem: Exception
) -> None:
    stage.hypervisor.fail("screenshot", problem)
    record = stage.rehearse()
    expect(stage, record, Verdict.INCONCLUSIVE, Phase.BOOT, "no SSH")


def test_a_fault_of_ours_is_an_error_with_its_traceback(stage: Stage) -> None:
    stage.hypervisor.fail("free_memory", ZeroDivisionError("oops"))
    record = stage.rehearse()
    expect(stage, record, Verdict.ERROR, Phase.CLONE, "ZeroDivisionError: oops")
    text = (stage.folders[-1].artifacts / "traceback.txt").read_text()
    assert "require_memory" in text
    assert "traceback.txt" in {artifact.name for artifact in record.artifacts}


# -- Ctrl-C, and what cannot be removed -------------------------------------------------------


@pytest.mark.parametrize("method", ["lookup", "create_network", "start", "state", "screenshot"])
def test_ctrl_c_anywhere_removes_everything_first(stage: Stage, method: str) -> None:
    stage.hypervisor.fail(method, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        stage.rehearse(keep=True)
    record = stage.stored()
    assert record.state == "finished"
    assert record.decision is not None
    assert stage.left() == []


@pytest.mark.parametrize("method", ["destroy", "destroy_network", "vitals"])
def test_ctrl_c_in_the_clean_up_does_not_cut_it_short(stage: Stage, method: str) -> None:
    problems: list[BaseException] = [KeyboardInterrupt()]
    if method == "vitals":  # asked for once before the clone is made
        vitals = stage.hypervisor.vitals
        stage.hypervisor.fail("screenshot", HostError("x"))
        calls: list[object] = []

        def second_time(source: object) -> object:
            calls.append(source)
            if len(calls) == 2:
                raise problems[0]
            return vitals(source)  # type: ignore[arg-type]

        stage.hypervisor.vitals = second_time  # type: ignore[method-assign,assignment]
    else:
        stage.hypervisor.fail(method, *problems)
    with pytest.raises(KeyboardInterrupt):
        stage.rehearse()
    assert stage.left() == []
    assert stage.stored().state == "finished"


def test_what_cannot_be_removed_is_named_and_found_later(stage: Stage) -> None:
    stage.hypervisor.fail("destroy", HostError("the daemon restarts"))
    record = stage.rehearse()
    folder = stage.folders[-1]
    assert record.left_behind == ("the daemon restarts",)
    assert domain_name(folder.id) in stage.left()
    assert folder.clone.exists(), "a later reap needs what it says"
    assert remove_run(stage.hypervisor, folder).failed == ()
    assert stage.left() == []


def test_a_kept_clone_stays_until_it_is_removed(stage: Stage) -> None:
    record = stage.rehearse(keep=True)
    folder = stage.folders[-1]
    assert record.state == "kept"
    assert str(folder.clone / "ssh_config") in record.ssh_command
    assert stage.hypervisor.state(domain_name(folder.id)) == "running"
    assert folder.facts()["kept"] == "yes"
    assert remove_run(stage.hypervisor, folder).failed == ()
    assert stage.left() == []


def test_a_run_that_never_had_a_clone_is_not_kept(stage: Stage) -> None:
    record = stage.rehearse("source: {guest: nobody}", keep=True)
    assert record.state == "finished"
    assert stage.left() == []
