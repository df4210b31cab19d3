"""Decide everything before anything is made: scenario + what the hypervisor says -> Plan."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sandbox.checks import CheckSettings
from sandbox.clone import CloneOrder
from sandbox.deadline import Deadline
from sandbox.errors import NoRoom, RequestError
from sandbox.hypervisors import Hypervisor, Mark
from sandbox.inject import make_key
from sandbox.limits import NO_LIMITS, Limits, require_room
from sandbox.records import Expectations, Phase
from sandbox.scenario import RebootPolicy, Scenario
from sandbox.source import ImageSpec, Source, guest_source, image_source
from sandbox.ssh import Login
from sandbox.store import RunFolder, this_process
from sandbox.upgraders import UpgradeRequest

PLAN_SECONDS = 60.0
CLEANUP_SECONDS = 120.0


@dataclass(frozen=True)
class Plan:
    """Everything that the recipe needs to know; nothing below asks the scenario again."""

    order: CloneOrder
    upgrade: UpgradeRequest
    reboot: RebootPolicy
    own_checks: tuple[Path, ...]
    shared_checks: tuple[Path, ...]
    check_settings: CheckSettings
    expectations: Expectations
    seconds: Mapping[Phase, float]


def make_plan(
    scenario: Scenario,
    hypervisor: Hypervisor,
    folder: RunFolder,
    accelerated: bool,
    deadline: Deadline,
    host_limits: Limits = NO_LIMITS,
) -> Plan:
    """Look the source up and decide; raises :class:`RequestError` for what cannot be done, and
    :class:`HostError` for what cannot be done now."""
    source = _source(scenario, hypervisor, deadline)
    require_room(host_limits, hypervisor, source, scenario.memory, folder, deadline)
    limits = scenario.deadlines
    seconds: dict[Phase, float] = {
        Phase.CLONE: limits.clone,
        Phase.BOOT: limits.boot,
        Phase.BASELINE: limits.baseline,
        Phase.UPGRADE: limits.upgrade,
        Phase.REBOOT: limits.reboot,
        Phase.VERIFY: limits.verify,
    }
    if scenario.login.inject:
        # libguestfs boots a small machine of its own to write the key: a minute under emulation.
        seconds[Phase.CLONE] += 300
    order = CloneOrder(
        source=source,
        mark=Mark(
            folder.id, this_process(), int(time.time() + sum(seconds.values())), str(folder.clone)
        ),
        login=_login(scenario, folder, deadline),
        inject=scenario.login.inject,
        accelerated=accelerated,
        memory=scenario.memory,
    )
    return Plan(
        order=order,
        upgrade=scenario.upgrade.request(),
        reboot=scenario.reboot,
        own_checks=scenario.own_checks,
        shared_checks=scenario.shared_checks,
        check_settings=CheckSettings(
            http=scenario.checks.http,
            filesystems_max_percent=scenario.checks.filesystems_max_percent,
            ignore_units=scenario.checks.ignore.units,
            ignore_ports=scenario.checks.ignore.ports,
            ignore_kernel_log=scenario.checks.ignore.kernel_log,
            sudo=scenario.login.user != "root",
        ),
        expectations=scenario.expectations,
        seconds=seconds,
    )


def _source(scenario: Scenario, hypervisor: Hypervisor, deadline: Deadline) -> Source:
    stated = scenario.source
    if stated is not None and stated.guest is not None:
        may_bring_kernel = scenario.upgrade.what in ("all", "security", "kernel")
        source = guest_source(hypervisor, stated.guest, deadline, own_kernel=may_bring_kernel)
        if source.domain is not None and source.running:
            busy = hypervisor.export_in_use(source.domain)
            if busy:
                raise NoRoom(busy, "one rehearsal of a running guest at a time: try again later")
        return source
    if stated is None or stated.image is None:
        raise RequestError("nothing to rehearse", "give --guest NAME or --image PATH --format F")
    image = stated.image
    if hypervisor.kind == "xen":
        raise RequestError(
            f"the image {image.path} cannot be rehearsed on {hypervisor.uri}",
            "images run on this machine's QEMU: leave --host away; or define a guest for it there",
        )
    return image_source(
        hypervisor,
        ImageSpec(
            disks=image.files,
            memory=image.memory,
            cpus=image.cpus,
            firmware=image.firmware,
            machine=image.machine,
            disk_bus=image.disk_bus,
            nic=image.nic,
        ),
        deadline,
    )


def _login(scenario: Scenario, folder: RunFolder, deadline: Deadline) -> Login:
    key = scenario.login.private_key() or make_key(folder, deadline)
    return Login(scenario.login.user, key, scenario.login.port)
