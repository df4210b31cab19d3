"""What a person asks of a Xen host before and beside rehearsals: doctor, guests, limits."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox.core.deadline import Deadline
from sandbox.core.store import this_process
from sandbox.hosts.drivers import Mark
from tests.support.faults.commands import Command
from tests.support.xen.stubs import MEMORY_MIB, PVGRUB, pv_xml
from tests.support.xen.xencommand import Start
from tests.support.xen.xenlab import GUEST, LOOK, QUICK, STOPPED, Host, Xen

pytestmark = pytest.mark.xen

FOREIGN = f"sbtest-xl-{os.urandom(3).hex()}"
CONFIG = f"/etc/xen/{FOREIGN}.cfg"


@pytest.fixture
def inventory(xen: Xen, tmp_path: Path) -> Path:
    path = tmp_path / "hosts.yaml"
    path.write_text(f"hosts:\n  - {{name: xen1, uri: {json.dumps(xen.host.uri)}, parallel: 1}}\n")
    return path


@pytest.fixture
def foreign(host: Host) -> Iterator[str]:
    """A guest that xl started: libvirt does not know it."""
    lines = (f'name = "{FOREIGN}"', f'kernel = "{PVGRUB}"', f"memory = {MEMORY_MIB}", "vcpus = 1")
    host.run(f"printf '%s\\n' {' '.join(map(repr, lines))} >{CONFIG}; xl create -q {CONFIG}")
    yield FOREIGN
    host.run(f"xl destroy {FOREIGN}; virsh undefine {FOREIGN}; rm -f {CONFIG}", check=False)


@pytest.fixture
def other_run(host: Host) -> Iterator[str]:
    """Somebody else's clone, as far as the host shows."""
    mark = Mark(f"sbtest-{os.urandom(3).hex()}", this_process(), 0, "/nowhere")
    name = f"sandbox-{mark.run}"
    host.shell.start(pv_xml(name, (), mark), Deadline(300, "starting a stub"))
    yield mark.run
    host.shell.destroy(name, mark.run)


def lines(command: Command) -> list[dict[str, Any]]:
    return [json.loads(line) for line in command.output.splitlines() if line.startswith("{")]


def test_a_host_is_looked_at_and_its_limits_are_held_to(
    xen: Xen, host: Host, sandbox: Start, inventory: Path, foreign: str, other_run: str
) -> None:
    hosts = {"SANDBOX_HOSTS": str(inventory)}
    doctor = sandbox("doctor", "--host", "xen1", "--json", **hosts)
    guests = sandbox("guests", "--json", **hosts)
    assert doctor.finish() == 0, doctor.output
    found = {one["check"]: one for one in lines(doctor)}
    assert len(found) > 8, doctor.output
    assert {one["state"] for one in found.values()} <= {"ok", "warning"}, doctor.output

    guests.succeed()
    rows = {row["name"]: row for row in lines(guests)}
    running, stopped = rows[GUEST], rows[STOPPED]
    assert (running["host"], running["state"], running["rehearsal"]) == ("xen1", "running", "yes")
    assert (running["type"], running["boot"]) == ("pv", "pygrub")
    assert all(disk["store"].startswith("lvm-thin ") for disk in running["disks"])
    assert (stopped["state"], stopped["rehearsal"]) == ("off", "yes")
    assert [disk["store"].partition(" on ")[0] for disk in stopped["disks"]] == ["qcow2"]
    assert f"sandbox-{other_run}" not in rows, "a clone is no guest"
    assert (rows[foreign]["state"], rows[foreign]["rehearsal"]) == ("running (xl)", "no")
    assert f"--import {foreign}" in rows[foreign]["hint"]

    take = ("guests", "--host", "xen1", "--import", foreign, "--define")
    too_early = sandbox(*take, **hosts)
    crowded = sandbox(
        *("run", xen.scenario(QUICK + "upgrade: {what: all}\n", test_up=LOOK)),
        *("--guest", GUEST, "--host", "xen1"),
        **hosts,
    )
    assert too_early.finish() == 2, too_early.output
    assert "runs under xl" in too_early.output
    assert crowded.finish() == 4, crowded.output
    assert "may have 1" in crowded.output
    assert other_run in crowded.output
    host.run(f"xl destroy {foreign}")
    assert f"{foreign} is defined" in sandbox(*take, **hosts).succeed()
    assert "shut off" in host.run(f"virsh domstate {foreign}")
    assert PVGRUB in host.run(f"virsh dumpxml {foreign}")
