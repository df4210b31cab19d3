"""Decide everything before anything is made: scenario + what the hypervisor says -> Plan."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sandbox.checks import CheckSettings
from sandbox.clone.create import CloneOrder
from sandbox.clone.key_injection import make_key
from sandbox.clone.reaper import is_on
from sandbox.clone.ssh import GuestLogin
from sandbox.core.deadline import Deadline
from sandbox.core.errors import NoRoom, RequestError
from sandbox.core.records import Expectations, Phase
from sandbox.core.store import RunFolder, is_alive, this_process
from sandbox.hosts.capacity import NO_LIMITS, Limits, require_room
from sandbox.hosts.drivers import Hypervisor, Mark
from sandbox.hosts.source import ImageSpec, Source, guest_source, image_source
from sandbox.hosts.volumes.storage import storage_of
from sandbox.managers import UpgradeRequest
from sandbox.managers.kernels import named_kernels
from sandbox.scenario import RebootPolicy, Scenario

PLAN_SECONDS = 60.0
CLEANUP_SECONDS = 300.0  # of which all but some are for a host that cannot be reached


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
    control: str  # auto, always, never
    watch: float  # seconds that the upgraded clone is watched, once it was found in order
    seconds: Mapping[Phase, float]


def make_plan(
    scenario: Scenario,
    hypervisor: Hypervisor,
    folder: RunFolder,
    accelerated: bool,
    deadline: Deadline,
    host_limits: Limits = NO_LIMITS,
    *,
    control: str = "never",
    watch: float = 0.0,
) -> Plan:
    """Look the source up and decide; raises :class:`RequestError` for what cannot be done, and
    :class:`HostError` for what cannot be done now.

    ``control``: auto, always or never, and ``watch``: seconds, where the scenario does not say it.
    """
    control = scenario.control or control
    watch = watch if scenario.watch is None else float(scenario.watch)
    source = _source(scenario, hypervisor, folder, deadline)
    require_room(host_limits, hypervisor, source, scenario.memory, folder, deadline)
    limits = scenario.deadlines
    seconds: dict[Phase, float] = {
        Phase.CLONE: limits.clone,
        Phase.BOOT: limits.boot,
        Phase.BASELINE: limits.baseline,
        Phase.UPGRADE: limits.upgrade,
        Phase.REBOOT: limits.reboot,
        Phase.VERIFY: limits.verify + watch,
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
        keep_free=host_limits.keep_free,
        control=control != "never",
        dependencies=scenario.dependencies,
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
        control=control,
        watch=watch,
        seconds=seconds,
    )


def _source(
    scenario: Scenario, hypervisor: Hypervisor, folder: RunFolder, deadline: Deadline
) -> Source:
    stated = scenario.source
    if stated is not None and stated.guest is not None:
        kernel = _kernel_asked_for(scenario, deadline)
        source = guest_source(hypervisor, stated.guest, deadline, kernel=kernel)
        if source.domain is not None and source.running:
            busy = storage_of(hypervisor).in_use(source.domain)
            if busy:
                raise _busy(busy, source.name, hypervisor, folder)
        return source
    if stated is None or stated.image is None:
        raise RequestError("nothing to rehearse", "give --guest NAME or --image PATH --format F")
    image = stated.image
    if not storage_of(hypervisor).local:
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
            bases=image.bases,
        ),
        deadline,
    )


def _kernel_asked_for(scenario: Scenario, deadline: Deadline) -> str:
    """What of the upgrade may bring a kernel; "" for nothing."""
    upgrade = scenario.upgrade.request()
    if upgrade.what in ("all", "security", "kernel", "release"):
        return upgrade.describe()
    return ", ".join(named_kernels(upgrade, deadline))


def _busy(why: str, guest: str, hypervisor: Hypervisor, folder: RunFolder) -> NoRoom:
    """With the run that keeps the guest busy, where it is one of this state folder."""
    for other in folder.neighbours():
        facts = other.facts()
        if facts.get("source") != guest or not is_on(other, hypervisor):
            continue
        if facts.get("kept") == "yes":
            return NoRoom(
                f"{guest!r} is busy: run {other.id} has a clone of it that was kept",
                f"remove that first: sandbox rm {other.id}",
            )
        if not is_alive(facts.get("owner", "")):
            return NoRoom(
                f"{guest!r} is busy: run {other.id} was killed and left a clone of it",
                "remove that first: sandbox reap",
            )
        why = f"{guest!r} is busy: run {other.id} is rehearsing it"
    return NoRoom(why, "one rehearsal of a running guest at a time: try again later")


def _login(scenario: Scenario, folder: RunFolder, deadline: Deadline) -> GuestLogin:
    key = scenario.login.private_key() or make_key(folder, deadline)
    return GuestLogin(scenario.login.user, key, scenario.login.port)
