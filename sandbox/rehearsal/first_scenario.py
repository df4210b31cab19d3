"""`sandbox init`: a first scenario for a guest, from what it is and what runs in its clone."""

from __future__ import annotations

import contextlib
import re
import secrets
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
from lxml import etree

from sandbox.clone.create import CloneLease, create_clone
from sandbox.clone.guest import Guest
from sandbox.clone.reaper import remove_run
from sandbox.clone.space_guard import space_guard
from sandbox.core.clean_text import one_line
from sandbox.core.deadline import Deadline
from sandbox.core.errors import GuestUnreachable, RequestError
from sandbox.core.records import Observation, Phase
from sandbox.core.settings import Settings
from sandbox.core.store import RunFolder, Store
from sandbox.core.wording import count, duration, size, some
from sandbox.hosts.capacity import NO_LIMITS, Limits
from sandbox.hosts.drivers import Hypervisor, Mark
from sandbox.hosts.drivers.acceleration import acceleration
from sandbox.hosts.drivers.clone_xml import CloneDisk, CloneSpec
from sandbox.hosts.source import ImageSpec, Source, guest_source, image_source
from sandbox.managers import detect
from sandbox.observe.observation import observe
from sandbox.rehearsal.first_checks import checks_text, own_services
from sandbox.rehearsal.plan import CLEANUP_SECONDS, PLAN_SECONDS, Plan, make_plan
from sandbox.scenario import (
    FILE_NAME,
    Scenario,
    SourceSettings,
    load_scenario,
    parse_source,
    render_template,
)
from sandbox.scenario.request import Request

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_COMMENT_WIDTH = 92
_SHARED = "shared"  # where the shared checks live
_NO_BOOT = "--no-boot writes a scenario without looking inside"


@dataclass(frozen=True)
class RunningServices:
    """What runs in the guest, as its clone showed it."""

    observation: Observation
    manager: str  # "apt", or why it is none that we know


def write_scenario(
    request: Request,
    hypervisor: Hypervisor,
    settings: Settings,
    *,
    boot: bool,
    limits: Limits = NO_LIMITS,
) -> None:
    """Write the scenario ``request.scenario`` for the guest or image; never over another one.

    With ``boot`` a clone is started, looked at and removed. What is written has been loaded
    before it gets its place. Raises :class:`RequestError` and what cloning raises.
    """
    place = _place(request.scenario, settings)
    stated = _stated_source(request, hypervisor)
    key = _key(request, place.name)
    comments = _describe(_inspect(stated, hypervisor), hypervisor)
    with _draft(place) as draft:
        _write(draft, place.name, request, key, comments, None)
        scenario = load_scenario(draft, shared=settings.shared_checks)
        if boot:
            seen = _look_inside(scenario, hypervisor, settings, limits)
            _write(draft, place.name, request, key, comments, seen)
            load_scenario(draft, shared=settings.shared_checks)
        _move(draft, place)
    _tell(place, request.host)


# --- what is asked for -------------------------------------------------------------------------


def _place(name: str, settings: Settings) -> Path:
    """Where the scenario goes: a scenarios folder beneath the current one, else ./scenarios."""
    if not _NAME.fullmatch(name):
        raise RequestError(
            f"{name[:70]!r} cannot be the name of a scenario",
            "letters, digits, dashes and underscores: web01-security",
        )
    if name == _SHARED:
        raise RequestError(f"{name!r} is the folder of the shared checks", "choose another name")
    here = Path.cwd().resolve()
    own = (folder for folder in settings.scenarios if folder.is_relative_to(here))
    place = next(own, here / "scenarios") / name
    if place.exists() or place.is_symlink():
        raise RequestError(
            f"{_short(place)} is there already: nothing was changed", "choose another name"
        )
    return place


def _stated_source(request: Request, hypervisor: Hypervisor) -> SourceSettings:
    if request.guest is None and request.image is None:
        guests = hypervisor.guests()
        raise RequestError(
            "whose scenario? neither a guest nor an image is given",
            f"give --guest NAME ({some(guests) or 'there is none here'}), or --image PATH",
        )
    return parse_source(guest=request.guest, image=request.image, format=request.format)


def _key(request: Request, name: str) -> Path | None:
    if request.key is None:
        return None
    if not request.key.is_file():
        raise RequestError(f"there is no key {request.key}", f"`sandbox init {name} --key FILE`")
    return request.key.resolve()


# --- what the hypervisor knows -----------------------------------------------------------------


def _inspect(stated: SourceSettings, hypervisor: Hypervisor) -> Source:
    deadline = Deadline(PLAN_SECONDS, "inspecting")
    if stated.guest is not None:
        return guest_source(hypervisor, stated.guest, deadline)
    assert stated.image is not None
    return image_source(hypervisor, ImageSpec(disks=stated.image.files), deadline)


def _describe(source: Source, hypervisor: Hypervisor) -> list[str]:
    """The source and its clone in a few lines, for the head of the file."""
    nowhere = Path("/nonexistent")
    spec = CloneSpec(
        name="init",
        mark=Mark("init", "", 0),
        disks=tuple(CloneDisk(disk.target, nowhere) for disk in source.disks),
        bridge="init",
        console_log=nowhere,
        accelerated=acceleration() == "kvm",
        nvram=nowhere,
        nvram_copied=True,
    )
    derived = hypervisor.derive(source.xml, spec)
    machine = etree.fromstring(derived.xml.encode())
    memory = int(machine.findtext("./memory", "0")) << 10
    cpus = int(machine.findtext("./vcpu", "1"))
    disks = [f"{disk.target} ({disk.format}, {size(disk.size)})" for disk in source.disks]
    return [
        f"Found: {source.kind} {source.name} on {hypervisor.uri}",
        f"- {count(cpus, 'processor')}, {size(memory)} of memory",
        f"- {count(len(disks), 'disk')}: {', '.join(disks)}",
        *(f"- not in its clone: {thing}" for thing in derived.dropped),
        *(f"- different in its clone: {thing}" for thing in derived.changed),
    ]


# --- what runs in it ---------------------------------------------------------------------------


def _look_inside(
    scenario: Scenario, hypervisor: Hypervisor, settings: Settings, limits: Limits
) -> RunningServices:
    """Boot a clone, look, and remove it, however that ends."""
    _require_key(scenario)
    folder = Store(settings).create(hypervisor.uri)
    lease = CloneLease(hypervisor, folder)
    try:
        deadline = Deadline(PLAN_SECONDS, "plan")
        fast = acceleration() == "kvm"
        plan = make_plan(scenario, hypervisor, folder, fast, deadline, limits)
        return _boot_and_look(plan, hypervisor, folder)
    except GuestUnreachable as problem:
        hint = f"give --user and --key that the guest accepts; {_NO_BOOT}"
        if problem.refused:
            raise RequestError(problem.message, hint) from problem
        raise GuestUnreachable(problem.message, hint) from problem
    except KeyboardInterrupt:
        click.echo("\ninterrupted: the clone is being removed, nothing is written", err=True)
        raise
    finally:
        lease.end(Deadline(CLEANUP_SECONDS, "removing the clone"), keep=False)
        _tell_removal(lease, folder)


def _require_key(scenario: Scenario) -> None:
    try:
        scenario.login.private_key()
    except RequestError as problem:
        raise RequestError(problem.message, f"give --key FILE; {_NO_BOOT}") from problem


def _boot_and_look(plan: Plan, hypervisor: Hypervisor, folder: RunFolder) -> RunningServices:
    order, seconds = plan.order, plan.seconds
    limit = duration(seconds[Phase.BOOT])
    click.echo(f"booting a clone of {order.source.name} to look inside (at most {limit})", err=True)
    with ExitStack() as undo:
        drop = partial(_drop, hypervisor, folder)
        undo.enter_context(space_guard(hypervisor, folder, order.source.disks, drop))
        clone = create_clone(hypervisor, order, folder, Deadline(seconds[Phase.CLONE], "clone"))
        guest = undo.enter_context(
            Guest(hypervisor, clone.entrance, order.login, folder.clone, folder.register)
        )
        deadline = Deadline(seconds[Phase.BOOT], "boot")
        guest.enter(deadline)
        guest.wait_until_up(deadline)
        deadline = Deadline(seconds[Phase.BASELINE], "looking")
        return RunningServices(observe(guest, deadline), _manager(guest, deadline))


def _drop(hypervisor: Hypervisor, folder: RunFolder, why: str) -> None:
    """The disk is nearly full: a running source's writes matter more than our look."""
    click.echo(why, err=True)
    remove_run(hypervisor, folder)


def _manager(guest: Guest, deadline: Deadline) -> str:
    try:
        return detect(guest, deadline).name
    except RequestError as problem:
        return f"{problem.message}: {problem.hint}"


def _tell_removal(lease: CloneLease, folder: RunFolder) -> None:
    left = lease.reaped.failed if lease.reaped else ()
    if left:
        click.echo(f"not removed: {'; '.join(left)}; `sandbox reap` tries again", err=True)
        return
    shutil.rmtree(folder.artifacts, ignore_errors=True)
    click.echo("the clone is removed again", err=True)


# --- what is written ---------------------------------------------------------------------------


@contextlib.contextmanager
def _draft(place: Path) -> Iterator[Path]:
    """A folder beside the final one, gone afterwards unless it was moved."""
    parent = place.parent
    fresh = not parent.exists()
    draft = parent / f".{place.name}.{secrets.token_hex(3)}"
    try:
        draft.mkdir(parents=True)
    except OSError as problem:
        raise RequestError(
            f"cannot write in {parent}: {problem.strerror}", "change to a folder of your own"
        ) from problem
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        if fresh:
            with contextlib.suppress(OSError):  # not empty: the scenario is in it
                parent.rmdir()


def _write(
    draft: Path,
    name: str,
    request: Request,
    key: Path | None,
    comments: Sequence[str],
    seen: RunningServices | None,
) -> None:
    inside = _comments_of(seen) if seen else []
    observation = seen.observation if seen else None
    ports = {p.port for p in observation.ports if p.protocol == "tcp"} if observation else set()
    text = render_template(
        guest=request.guest,
        image=(str(request.image.resolve()), str(request.format)) if request.image else None,
        user=request.user or "root",
        key=None if key is None else str(key),
        inject=False,
        ports=sorted(ports),
        services=own_services(observation) if observation else (),
        comments=[line for text in (*comments, *inside) for line in _folded(text)],
        # A URI is no name of the inventory: it is said on the command line.
        host=request.host if request.host and "://" not in request.host else None,
    )
    (draft / FILE_NAME).write_text(text)
    module = f"test_{name.replace('-', '_')}.py"
    subject = request.guest or str(request.image)
    (draft / module).write_text(checks_text(subject, request.user or "root", observation))


def _comments_of(seen: RunningServices) -> list[str]:
    observation = seen.observation
    boot = observation.boot_seconds
    booted = f", booted in {duration(boot)}" if boot else ""
    return [
        f"Seen in a clone{booted}:",
        f"- kernel {observation.kernel}, system {observation.state}",
        f"- package manager {seen.manager}, {count(len(observation.packages), 'package')}",
        *(f"- failed before any upgrade: {unit}" for unit in observation.failed_units),
    ]


def _folded(text: str) -> list[str]:
    """A comment that fits a screen; text of the guest may hold line breaks."""
    return textwrap.wrap(one_line(text), _COMMENT_WIDTH, subsequent_indent="  ")


def _move(draft: Path, place: Path) -> None:
    try:
        draft.rename(place)
    except OSError as problem:
        raise RequestError(
            f"{_short(place)} could not be written: {problem.strerror}",
            "another process made it in the meantime? nothing was changed",
        ) from problem


def _tell(place: Path, host: str | None) -> None:
    short = _short(place)
    for file in sorted(place.iterdir()):
        click.echo(f"written  {short / file.name}")
    click.echo("read them, then")
    click.echo(f"  sandbox scenario check {short}")
    click.echo(f"  sandbox run {short}" + (f" --host {host}" if host and "://" in host else ""))


def _short(place: Path) -> Path:
    here = Path.cwd().resolve()
    return place.relative_to(here) if place.is_relative_to(here) else place
