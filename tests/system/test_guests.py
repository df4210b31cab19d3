"""`sandbox guests`: what can be rehearsed where, what only xl knows, and taking that over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sandbox.core.deadline import Deadline
from sandbox.core.errors import HostError
from sandbox.hosts.drivers.fake import FakeHypervisor
from tests.support.fakes.run_world import World
from tests.unit.test_guests import block, domain, xen


def test_one_host_that_cannot_be_reached_is_not_the_end(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hypervisor = xen({})
    hypervisor.define(domain("web01", block("/dev/vg0/web01")))

    def driver_for(uri: str, _deadline: Deadline) -> FakeHypervisor:
        if "down" in uri:
            raise HostError("cannot connect: no route", "try: ssh down")
        return hypervisor

    monkeypatch.setattr("sandbox.hosts.drivers.driver_for", driver_for)
    inventory = tmp_path / "hosts.yaml"
    uris = {"down": "xen+ssh://root@down/system", "up": "xen+ssh://root@up/system"}
    inventory.write_text(
        "hosts:\n" + "".join(f"  - {{name: {n}, uri: '{u}'}}\n" for n, u in uris.items())
    )
    monkeypatch.setenv("SANDBOX_HOSTS", str(inventory))
    told = world.invoke("guests")
    assert told.exit_code == 4
    assert "down: cannot connect: no route" in told.stderr
    assert "try: ssh down" in told.stderr
    assert [line.split()[:3] for line in told.stdout.splitlines()] == [
        ["HOST", "GUEST", "STATE"],
        ["up", "web01", "off"],
    ]
    read = [json.loads(line) for line in world.invoke("guests", "--json").stdout.splitlines()]
    assert [(row["host"], "error" in row) for row in read] == [("down", True), ("up", False)]
    one = world.invoke("guests", "--host", "up", "--json")
    assert one.exit_code == 0
    (row,) = map(json.loads, one.stdout.splitlines())
    assert row["disks"][0]["store"] == "lvm-thin vg0/thin"
    assert world.invoke("guests", "--define").exit_code == 2


def test_without_an_inventory_the_default_host_is_shown(world: World) -> None:
    told = world.invoke("guests")
    assert told.exit_code == 0, told.output
    assert "this machine  test" in told.stdout
