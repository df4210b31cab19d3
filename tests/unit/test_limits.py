"""A host's limits: who takes its room, where disks have to be, and when nothing more is made."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.core.deadline import Deadline
from sandbox.core.errors import HostError, RequestError
from sandbox.core.records import Disk
from sandbox.core.settings import Settings
from sandbox.core.store import RunFolder, Store
from sandbox.hosts.admission import overhead
from sandbox.hosts.capacity import (
    Limits,
    disk_problem,
    pool_fill,
    pool_problem,
    require_room,
    runs_there,
)
from sandbox.hosts.drivers import Mark
from sandbox.hosts.drivers.fake import FakeHypervisor
from sandbox.hosts.source import Source
from sandbox.hosts.volumes.lvm import Pool, Survey, Volume
from tests.support.fakes.run_world import DEAD

XML = "<domain><name>web01</name><memory unit='KiB'>1048576</memory><devices/></domain>"
HERE = "fake:///"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(Settings(state=tmp_path))


def named(store: Store, run_id: str, uri: str = HERE, owner: str | None = None) -> RunFolder:
    """A run of this process with an id of our choice."""
    made = store.create(uri)
    if owner is not None:
        made.note(owner=owner)
    for place in (made.artifacts, made.clone):
        place.rename(place.with_name(run_id))
    return store.folder(run_id)


def asked(limits: Limits, hypervisor: FakeHypervisor, folder: RunFolder) -> None:
    source = Source("web01", "stopped guest", XML, ())
    require_room(limits, hypervisor, source, None, folder, Deadline(5, "plan"))


# -- clones at once -------------------------------------------------------------------------


def test_a_run_notes_its_host(store: Store) -> None:
    assert store.create(HERE).facts()["uri"] == HERE
    assert "uri" not in store.create().facts()


def test_whoever_has_a_domain_or_began_before_takes_room(store: Store) -> None:
    mine = named(store, "20260101-000002-b")
    named(store, "20260101-000001-a")
    named(store, "20260101-000003-c")  # began after: it will find us
    named(store, "20260101-000000-d", uri="other:///")
    named(store, "20260101-000000-e", owner=DEAD)
    domains = [(run, Mark(run, DEAD, 0)) for run in ("x", mine.id)]
    assert runs_there(domains, HERE, mine) == ("20260101-000001-a", "x")


@given(st.permutations(["1", "2", "3"]), st.integers(1, 3))
def test_of_those_that_begin_at_once_the_limit_gets_through(
    tmp_path_factory: pytest.TempPathFactory, order: list[str], most: int
) -> None:
    """In whichever order they ask, before any has a domain."""
    store = Store(Settings(state=tmp_path_factory.mktemp("s")))
    folders = {run: named(store, run) for run in order}
    through = [run for run in order if len(runs_there([], HERE, folders[run])) < most]
    assert sorted(through) == ["1", "2", "3"][:most]


def test_one_clone_too_many_is_refused_with_who_is_there(store: Store) -> None:
    hypervisor, folder = FakeHypervisor(), named(store, "9")
    other = named(store, "1")
    asked(Limits(parallel=2), hypervisor, folder)
    asked(Limits(), hypervisor, folder)
    with pytest.raises(HostError, match="has 1 clone, and may have 1: 1") as caught:
        asked(Limits(parallel=1), hypervisor, folder)
    assert "sandbox rm" in caught.value.hint
    other.remove_clone()
    asked(Limits(parallel=1), hypervisor, folder)


# -- memory ---------------------------------------------------------------------------------


def test_memory_that_has_to_stay_free(store: Store) -> None:
    hypervisor, folder = FakeHypervisor(memory=3 << 30), store.create()
    least = (2 << 30) - overhead(1 << 30)
    asked(Limits(keep_free=least), hypervisor, folder)
    words = r"needs 1024 MiB .* 136 MiB beside it: .* 3072 MiB free, 1913 MiB have to stay free"
    with pytest.raises(HostError, match=words) as caught:
        asked(Limits(keep_free=least + (1 << 20)), hypervisor, folder)
    assert "keep_free" in caught.value.hint


# -- stores ---------------------------------------------------------------------------------

THIN = Volume("vg0", "web01", 1 << 30, "thin", 0)
THICK = Volume("vg0", "old", 1 << 30, "", 0)
VOLUMES = Survey(
    {"/dev/vg0/web01": THIN, "/dev/mapper/vg0-web01": THIN, "/dev/vg0/old": THICK},
    (Pool("vg0", "thin", 1 << 40, 85.0, 50.0),),
)


def disk(path: str) -> Disk:
    store = "lvm" if path.startswith("/dev/") else "file"
    return Disk(target="xvda", format="raw", path=path, size=1 << 30, store=store)


@pytest.mark.parametrize(
    ("store", "place", "path", "words"),
    [
        ("auto", "", "/dev/vg0/old", ""),
        ("lvm-thin", "", "/dev/vg0/web01", ""),
        ("lvm-thin", "vg0/thin", "/dev/mapper/vg0-web01", ""),
        ("lvm-thin", "vg1/thin", "/dev/vg0/web01", "is in the thin pool vg0/thin, not in vg1/thin"),
        ("lvm-thin", "", "/dev/vg0/old", "is in no thin pool"),
        ("lvm-thin", "", "/srv/web01.raw", "is in no thin pool"),
        ("reflink", "", "/srv/web01.raw", ""),
        ("reflink", "/srv", "/srv/web01.raw", ""),
        ("reflink", "/srv/a", "/srv/web01.raw", "is not beneath /srv/a"),
        ("reflink", "/srv/a", "/srv/ab/web01.raw", "is not beneath /srv/a"),
        ("reflink", "/srv/a", "/srv/a/../web01.raw", "is not beneath /srv/a"),
        ("reflink", "", "/dev/vg0/web01", "is no file"),
    ],
)
def test_disks_have_to_be_where_the_host_says(
    store: str, place: str, path: str, words: str
) -> None:
    limits = Limits(store=store, place=place)  # type: ignore[arg-type]
    found = disk_problem(limits, [disk(path)], VOLUMES)
    assert found.endswith(words)
    assert bool(found) == bool(words)


def test_a_pool_beyond_the_hosts_limits_gets_no_clone() -> None:
    full = Limits(pool_data=85)
    assert "85 % full (limit 85 %)" in pool_problem(full, [disk("/dev/vg0/web01")], VOLUMES)
    assert pool_problem(Limits(), [disk("/dev/vg0/web01")], VOLUMES) == ""
    assert pool_problem(full, [disk("/dev/vg0/old"), disk("/srv/a")], VOLUMES) == ""


@given(*[st.integers(0, 100)] * 2, *[st.integers(1, 90)] * 2)
def test_a_pool_has_a_problem_when_either_limit_is_reached(
    data: int, metadata: int, most_data: int, most_metadata: int
) -> None:
    pool = Pool("vg0", "thin", 1, data, metadata)
    found = pool_fill(Limits(pool_data=most_data, pool_metadata=most_metadata), pool)
    assert bool(found) == (data >= most_data or metadata >= most_metadata)


@pytest.mark.parametrize(
    ("limits", "problem"),
    [
        (Limits(), None),
        (Limits(pool_data=80), HostError),
        (Limits(store="reflink"), RequestError),
        (Limits(store="lvm-thin", place="vg0/thin"), None),
    ],
)
def test_xen_hosts_are_asked_for_their_volumes_only_where_it_matters(
    store: Store, monkeypatch: pytest.MonkeyPatch, limits: Limits, problem: type[Exception] | None
) -> None:
    seen = []
    monkeypatch.setattr("sandbox.hosts.capacity.lvm.survey", lambda *_: seen.append(1) or VOLUMES)
    source = Source("web01", "running guest", XML, (disk("/dev/vg0/web01"),))
    hypervisor, deadline = FakeHypervisor(kind="xen"), Deadline(5, "plan")

    def ask() -> None:
        require_room(limits, hypervisor, source, None, store.create(), deadline)

    if problem is None:
        ask()
    else:
        with pytest.raises(problem) as caught:
            ask()
        assert getattr(caught.value, "hint", "")
    assert len(seen) == (limits != Limits())
