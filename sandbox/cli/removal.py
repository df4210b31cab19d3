"""`sandbox rm` and `sandbox reap`: clones are removed on the hosts that they are on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import click

from sandbox.cli.listing import readable_store
from sandbox.clone.reaper import Reaped, reap, remove_run
from sandbox.core.clean_text import one_line
from sandbox.core.errors import HostError, RequestError, SandboxError
from sandbox.core.records import RunRecord
from sandbox.core.settings import Settings
from sandbox.core.store import RunFolder, Store, is_alive
from sandbox.hosts.inventory import KnownHost, at, connected, default_host, find_host, inventory
from sandbox.rehearsal import recovery

NOT_REMOVED = 4


def remove(settings: Settings, run_id: str, *, with_record: bool, host: str | None = None) -> None:
    """Remove the clone of a run, and with ``with_record`` all that is known of it.

    ``host`` is asked instead of the one that the run noted. Raises :class:`RequestError` for a
    run that still runs, :class:`HostError` when something could not be removed; the record then
    stays.
    """
    store = readable_store(settings)
    folder = _find(store, settings, run_id)
    record = _record(store, folder)
    facts = folder.facts()
    going_on = record is None or record.state == "running"
    if going_on and facts.get("kept") != "yes" and is_alive(facts.get("owner", "")):
        pid = facts["owner"].partition(":")[0]
        raise RequestError(
            f"run {folder.id} is still running", f"end it first: Ctrl-C there, or kill {pid}"
        )
    if _is_gone(folder, record):
        done = Reaped(folder.id, (), ())  # its host need not even exist any more
    else:
        with connected(_host_of(folder, record, settings, host)) as hypervisor:
            done = remove_run(hypervisor, folder)
    if record is not None:
        recovery.close(folder, record, left_behind=done.failed)
    _tell(done)
    if done.failed:
        raise HostError(
            f"not everything of run {folder.id} could be removed", "`sandbox rm` tries again"
        )
    if with_record:
        try:
            if folder.artifacts.exists():
                shutil.rmtree(folder.artifacts)
        except OSError as problem:
            raise HostError(f"the record cannot be removed: {problem}") from problem
        click.echo(f"{folder.id}: removed the record and its artifacts")
    elif not done.removed:
        click.echo(f"{folder.id}: no clone is left; --record removes its record as well")


def _is_gone(folder: RunFolder, record: RunRecord | None) -> bool:
    """Whether the run itself removed its clone, and said so."""
    over = record is not None and record.state == "finished" and not record.left_behind
    return over and not folder.clone.exists()


def _host_of(
    folder: RunFolder, record: RunRecord | None, settings: Settings, stated: str | None
) -> KnownHost:
    """Where a run's clone is: as it is stated, as the run noted it, as its record has it."""
    if stated is not None:
        return find_host(stated, settings)
    recorded = "" if record is None or record.source is None else record.source.host
    uri = folder.facts().get("uri") or recorded
    return at(uri) if "://" in uri else at(settings.uri)


def _find(store: Store, settings: Settings, text: str) -> RunFolder:
    """A run by what the user said; also one whose record was never written or is lost."""
    try:
        return store.find(text)
    except RequestError:
        bare = {*store.clone_ids()}
        if settings.runs.is_dir():
            bare |= {path.name for path in settings.runs.iterdir() if path.is_dir()}
        matches = sorted(n for n in bare if text and (n.startswith(text) or n.endswith(text)))
        exact = [name for name in matches if name == text] or matches
        if len(exact) != 1:
            raise
        return store.folder(exact[0])


def _record(store: Store, folder: RunFolder) -> RunRecord | None:
    try:
        return store.load(folder)
    except RequestError:
        return None  # damaged: that must not keep its clone from being removed


def _tell(done: Reaped) -> None:
    if done.danger:
        click.echo(
            f"{done.run}: was kept, and ends now so that production can write: {done.danger}"
        )
    if done.removed:
        click.echo(f"{done.run}: removed {', '.join(done.removed)}")
    for problem in done.failed:
        click.secho(f"{done.run}: not removed: {one_line(problem)}", fg="red", err=True)


def print_reaped(settings: Settings, host: str | None = None) -> int:
    """Remove what dead runs left and close their records; 0, or 4 when something stayed.

    Without ``host`` on all hosts: one that cannot be reached does not keep the others from it.
    """
    store = readable_store(settings)
    hosts = [find_host(host, settings)] if host is not None else list(_all_hosts(store, settings))
    if len(hosts) == 1:
        with connected(hosts[0]) as hypervisor:
            reaped, unreached = list(reap(hypervisor, store)), 0
    else:
        reaped, unreached = _reap_everywhere(hosts, store, settings)
    for done in reaped:
        _tell(done)
    closed = recovery.close_killed(store, reaped)
    for run_id in closed:
        click.echo(f"{run_id}: its record says now that it was killed")
    if not reaped and not closed:
        click.echo("nothing to remove: no run left anything behind")
    return NOT_REMOVED if unreached or any(done.failed for done in reaped) else 0


def _reap_everywhere(
    hosts: list[KnownHost], store: Store, settings: Settings
) -> tuple[list[Reaped], int]:
    """What was removed, and how many hosts could not be asked."""
    reaped: list[Reaped] = []
    unreached = 0
    listed = {known.uri for known in inventory(settings)}
    for host in hosts:
        try:
            with connected(host) as hypervisor:
                reaped += reap(hypervisor, store)
        except SandboxError as problem:
            if isinstance(problem, RequestError) and host.uri == settings.uri:
                raise  # SANDBOX_URI is wrong
            # With an inventory, this machine need not have a hypervisor of its own.
            if host.uri in listed or _noted(store, host.uri):
                unreached += 1
            words = f"{host.name}: not looked at: {one_line(problem.message)}"
            click.secho(words, fg="yellow", err=True)
    return reaped, unreached


def _noted(store: Store, uri: str) -> bool:
    folders = map(store.folder, store.clone_ids())
    return any(folder.facts().get("uri") == uri for folder in folders)


def _all_hosts(store: Store, settings: Settings) -> Iterator[KnownHost]:
    """The default host, those of the inventory, and those that a run folder names; each once."""
    known = inventory(settings)
    first = default_host(settings)
    noted = (store.folder(run_id).facts().get("uri", "") for run_id in store.clone_ids())
    seen: set[str] = set()
    for host in (first, *known, *(at(uri, known) for uri in noted if "://" in uri)):
        if host.uri not in seen:
            seen.add(host.uri)
            yield host
