"""The control beside it: its own bridge and disks, its end, and what it found."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest
from lxml import etree

from sandbox.clone.create import Clone, create_clone
from sandbox.clone.reaper import domain_name, leftovers, remove_run
from sandbox.core.errors import DeadlineExceeded, HostError
from sandbox.core.records import RunRecord, Verdict
from sandbox.core.store import RunFolder, Store
from sandbox.hosts.drivers.fake import FakeDomain
from sandbox.network import isolation
from sandbox.rehearsal.control import Cut, make_control_trial
from sandbox.rehearsal.plan import Plan, make_plan
from tests.support.fakes.stage import Stage
from tests.support.waiting import soon, wait_until

GIB = 1 << 30


def controls(stage: Stage, text: str = "source: {guest: web01}\ncontrol: always") -> RunRecord:
    return stage.rehearse(text)


def started(stage: Stage, control: str = "auto") -> tuple[Plan, Clone, RunFolder]:
    folder = stage.new_folder()
    plan = make_plan(stage.scenario(), stage.hypervisor, folder, False, soon(), control=control)
    return plan, create_clone(stage.hypervisor, plan.order, folder, soon()), folder


def domain(stage: Stage, folder: RunFolder, *, control: bool = False) -> FakeDomain:
    return stage.hypervisor.domains[domain_name(folder.id, control=control)]


def texts(domain: FakeDomain, path: str, attribute: str) -> list[str]:
    found = etree.fromstring(domain.xml.encode()).iterfind(path)
    return [str(element.get(attribute)) for element in found]


def test_a_control_has_the_same_machine_and_nothing_in_common(stage: Stage) -> None:
    plan, clone, folder = started(stage)
    with make_control_trial(plan, stage.hypervisor, clone, folder, soon()):
        one, other = domain(stage, folder), domain(stage, folder, control=True)
        assert texts(one, ".//mac", "address") == texts(other, ".//mac", "address")
        for path, attribute in (
            (".//disk/source", "file"),
            (".//interface/source", "bridge"),
            (".//interface/source", "network"),
            (".//serial//log", "file"),
        ):
            ours, its = texts(one, path, attribute), texts(other, path, attribute)
            assert len(ours) == len(its)
            assert not {*ours, *its} - {"None"} or set(ours) != set(its)
        bridges = {isolation.names(folder.id, control=c).bridge for c in (False, True)}
        assert len(bridges) == 2
        assert stage.hypervisor.domains["web01"].state == "off"
    assert domain_name(folder.id, control=True) not in stage.hypervisor.domains
    assert domain(stage, folder).state == "running"
    assert remove_run(stage.hypervisor, folder).failed == ()
    assert stage.left() == []


def test_what_a_killed_run_left_of_both_is_found(stage: Stage) -> None:
    plan, clone, folder = started(stage)
    control = make_control_trial(plan, stage.hypervisor, clone, folder, soon())
    assert control is not None
    folder.note(owner="1:0:boot:machine")
    store = Store(stage.settings)
    assert leftovers(stage.hypervisor, store) == (folder.id,)
    done = remove_run(stage.hypervisor, folder)
    names = [domain_name(folder.id), domain_name(folder.id, control=True)]
    assert [f"domain {name}" for name in names] == [*done.removed[:2]]
    assert stage.left() == []


def test_both_end_with_a_run_that_ends_early(stage: Stage) -> None:
    record = controls(stage)
    assert record.decision is not None
    assert record.decision.verdict is Verdict.INCONCLUSIVE  # nobody answers in a fake guest
    assert stage.left() == []


def test_a_host_that_fails_the_control_alone_is_no_trouble_of_the_run(stage: Stage) -> None:
    plan, clone, folder = started(stage)
    stage.hypervisor.fail("state", HostError("it hangs"))
    with make_control_trial(plan, stage.hypervisor, clone, folder, soon()) as control:
        found = control.found(soon())
    assert found is not None
    assert "it hangs" in found.missing
    assert found.checks_before == ()


def test_without_memory_for_two_there_is_one(stage: Stage) -> None:
    stage.hypervisor.memory = 600 << 20
    plan, clone, folder = started(stage)
    stage.hypervisor.memory = 200 << 20
    with make_control_trial(plan, stage.hypervisor, clone, folder, soon()) as control:
        found = control.found(soon())
    assert found is not None
    assert "200 MiB free" in found.missing
    assert domain_name(folder.id, control=True) not in stage.hypervisor.domains
    assert isolation.names(folder.id, control=True).name not in stage.hypervisor.networks


def test_a_host_that_cannot_make_a_second_bridge_leaves_it_at_one(stage: Stage) -> None:
    for control in ("auto", "always"):
        plan, clone, folder = started(stage, control)
        stage.hypervisor.fail("create_network", HostError("no more bridges"))
        if control == "always":
            with pytest.raises(HostError, match="no more bridges"):
                make_control_trial(plan, stage.hypervisor, clone, folder, soon())
            continue
        with make_control_trial(plan, stage.hypervisor, clone, folder, soon()) as control:
            found = control.found(soon())
        assert found is not None
        assert "no more bridges" in found.missing


def with_room_for_one(stage: Stage) -> Stage:
    class Tight(type(stage.hypervisor)):  # type: ignore[misc]
        """Has room for the first."""

        def free_memory(self) -> int:
            return (200 << 20) if any("sandbox-" in n for n in self.domains) else GIB

    return replace(stage, hypervisor=Tight(domains=stage.hypervisor.domains))


def test_a_run_that_ends_early_says_that_it_had_none(stage: Stage) -> None:
    tight = with_room_for_one(stage)
    record = controls(tight, "source: {guest: web01}\ncontrol: auto")
    assert record.facts.control is not None
    assert "200 MiB free" in record.facts.control.missing
    assert record.decision is not None
    assert any("not compared with a control" in one for one in record.decision.findings)
    assert tight.left() == []


def test_a_scenario_that_insists_waits_for_room(stage: Stage) -> None:
    tight = with_room_for_one(stage)
    record = controls(tight)
    assert record.decision is not None
    assert record.decision.verdict is Verdict.ERROR
    assert record.facts.trouble is not None
    assert record.facts.trouble.no_room
    assert tight.left() == []


def test_a_scenario_that_wants_none_has_none(stage: Stage) -> None:
    plan, clone, folder = started(stage, "never")
    assert clone.controls == ()
    with make_control_trial(plan, stage.hypervisor, clone, folder, soon()) as control:
        assert domain_name(folder.id, control=True) not in stage.hypervisor.domains
        assert control.found(soon()) is None
    assert not (folder.clone / "control").exists()


def test_leaving_does_not_wait_for_what_it_does(stage: Stage) -> None:
    plan, clone, folder = started(stage)
    slow = replace(plan, seconds=dict.fromkeys(plan.seconds, 600.0))
    began = time.monotonic()
    own = domain_name(folder.id, control=True)
    with make_control_trial(slow, stage.hypervisor, clone, folder, soon()):
        wait_until(lambda: own in stage.hypervisor.domains, "the control to be started")
    assert time.monotonic() - began < 60, "it waited for a guest that never boots"


def test_a_deadline_can_be_cut() -> None:
    stop = threading.Event()
    whole = Cut(600, "test", stop)
    part = whole.within(300)
    assert part.remaining() > 200
    threading.Timer(0.2, stop.set).start()
    part.sleep(100)
    with pytest.raises(DeadlineExceeded):
        part.check()
    assert whole.expired()
