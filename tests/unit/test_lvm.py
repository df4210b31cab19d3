"""Logical volumes: what `lvs` says, the mark as tags, and that only ours are ever removed.

What `lvs` says is a sample here; test_lvm_itself.py asks LVM.
"""

from __future__ import annotations

import string
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.core.errors import CommandFailed, HostError, ToolMissing
from sandbox.hosts.drivers import Mark
from sandbox.hosts.volumes import lvm
from tests.support.fakes.lvm_world import GIB, MARK, MIB, RUN, Scripted, ours, pool_row, row
from tests.support.waiting import soon

# -- what lvs says ----------------------------------------------------------------------------


def test_a_thin_volume_is_found_by_either_name_of_its_device() -> None:
    seen = lvm.parse_survey([pool_row(), row("web01-root", lv_tags="a,b")])
    for path in ("/dev/vg0/web01-root", "/dev/mapper/vg0-web01--root"):
        assert seen.by_path[path] == lvm.Volume(
            "vg0", "web01-root", 2 * GIB, "thin", GIB, ("a", "b")
        )
    assert seen.by_path.get("/dev/vg0/web01") is None
    volume = seen.by_path["/dev/vg0/web01-root"]
    assert volume.path == "/dev/vg0/web01-root"
    assert seen.pool_of(volume) == lvm.Pool("vg0", "thin", 2 * GIB, 51.2, 12.34)


def test_a_pool_that_is_a_cache_is_no_thin_pool() -> None:
    cached = row("db01", segtype="cache", pool_lv="[fast_cpool]")
    assert lvm.parse_survey([cached]).by_path["/dev/vg0/db01"].pool == ""
    assert "--size" in lvm.snapshot_command(
        lvm.parse_survey([cached]).by_path["/dev/vg0/db01"], "x", MARK
    )


def test_two_groups_may_have_pools_of_one_name() -> None:
    other = pool_row(data="97.00") | {"vg_name": "vg1"}
    seen = lvm.parse_survey([other, pool_row(), row("web01")])
    assert seen.pool_of(seen.by_path["/dev/vg0/web01"]).data == 51.2


def test_a_pool_that_is_not_active_is_not_an_empty_one() -> None:
    pool = lvm.parse_pool(pool_row("", ""))
    assert "vg0/thin is not active" in pool.problem(lvm.POOL_LIMIT)
    assert pool.hint == "activate it: lvchange --activate y vg0/thin"
    assert pool.danger(lvm.POOL_DANGER) == "", "nobody's writes are at stake"


UNWELL = [
    ({"lv_health_status": "out_of_data"}, "is out of space for data"),
    ({"lv_health_status": "metadata_read_only"}, "needs a repair"),
    ({"lv_health_status": "failed"}, "has failed"),
    ({"lv_health_status": "partial"}, "is not well: partial"),
    ({"lv_check_needed": "check needed"}, "needs a check of its metadata"),
    ({"lv_permissions": "read-only"}, "can only be read"),
    ({"lv_permissions": "read-only-override"}, "can only be read"),
]


@pytest.mark.parametrize(("facts", "words"), UNWELL)
@pytest.mark.parametrize("data", ["4.00", ""])
def test_a_pool_that_is_not_well_gets_no_clone_and_keeps_none(
    facts: dict[str, str], words: str, data: str
) -> None:
    rows = [pool_row(data) | facts, ours("sbabcdef-xvda")]
    pool = lvm.parse_pool(rows[0])
    for said in (pool.problem(90), pool.danger(95), lvm.parse_survey(rows).danger(RUN)):
        assert said.startswith("the thin pool vg0/thin ")
        assert words in said
    assert "lv_health_status" in pool.hint


@pytest.mark.parametrize(
    "problem", [ToolMissing("lvs is not installed"), CommandFailed(("lvs",), 127, "not found")]
)
def test_a_host_without_lvm_has_no_volumes(problem: Exception) -> None:
    """All its guests may be in files: nothing of a run there may depend on lvm2."""
    host = Scripted(problem=problem)
    assert lvm.survey(host, soon()) == lvm.Survey({}, ())
    assert lvm.marked(host, soon()) == ()
    assert lvm.remove(host, RUN, soon()) == ()


def test_an_lvm_that_fails_is_said_so() -> None:
    host = Scripted(problem=CommandFailed(("lvs",), 5, "Reading VG vg0 failed"))
    for look in (lvm.survey, lvm.marked):
        with pytest.raises(CommandFailed, match="Reading VG vg0 failed"):
            look(host, soon())


# -- how full a pool may be -------------------------------------------------------------------


@given(st.floats(0, 100), st.floats(0, 100), st.floats(1, 100))
def test_a_pool_is_a_problem_from_the_limit_on(data: float, metadata: float, limit: float) -> None:
    problem = lvm.Pool("vg0", "thin", GIB, data, metadata).problem(limit)
    assert bool(problem) == (max(data, metadata) >= limit)
    if problem:
        assert "vg0/thin" in problem
        assert ("the data" if data >= limit else "the metadata") in problem


def test_a_clone_is_a_danger_only_to_its_own_pool() -> None:
    full = pool_row(metadata="95.10") | {"vg_name": "vg1", "lv_name": "slow"}
    ours = row("sbabcdef-xvda", lv_tags=",".join(lvm.tags(MARK)))
    assert lvm.parse_survey([full, pool_row(), ours]).danger(RUN) == ""
    near = [pool_row(data="94.90"), ours]
    assert lvm.parse_survey(near).danger(RUN) == ""
    filled = lvm.parse_survey([pool_row(data="95.00"), ours])
    assert "the data of the thin pool vg0/thin is 95 % full" in filled.danger(RUN)
    assert filled.danger("20260102-030405-000000") == ""
    thick = row("sbabcdef-xvdb", pool_lv="", segtype="linear", lv_tags=ours["lv_tags"])
    assert lvm.parse_survey([pool_row(data="99"), thick]).danger(RUN) == ""


# -- snapshots --------------------------------------------------------------------------------

THIN = lvm.Volume("vg0", "web01-root", 2 * GIB, "thin", 0)
THICK = lvm.Volume("vg0", "web01-root", 10 * GIB, "", 100 * GIB)


def test_a_thin_snapshot_takes_no_space_and_is_marked_from_its_first_moment() -> None:
    argv = lvm.snapshot_command(THIN, "sbabcdef-xvda", MARK)
    assert argv[0] == "lvcreate"
    assert argv[-1] == "vg0/web01-root"
    assert argv[argv.index("--name") + 1] == "sbabcdef-xvda"
    assert "--size" not in argv
    # Without this a thin snapshot exists, but has no device.
    assert argv[argv.index("--setactivationskip") + 1] == "n"
    given_tags = tuple(argv[i + 1] for i, word in enumerate(argv) if word == "--addtag")
    assert lvm.read_tags(given_tags) == MARK


def test_a_thick_snapshot_has_room_and_is_marked() -> None:
    argv = lvm.snapshot_command(THICK, "sbabcdef-xvda", MARK)
    size = argv[argv.index("--size") + 1]
    assert size.endswith("b")
    assert int(size[:-1]) >= 10 * GIB // 3
    assert "--setactivationskip" not in argv
    assert all(tag in argv for tag in lvm.tags(MARK))


@given(st.integers(4 * MIB, 1 << 50), st.integers(0, 1 << 50))
def test_a_thick_snapshot_fits_or_is_refused(size: int, free: int) -> None:
    origin = replace(THICK, size=size, group_free=free)
    if free < min(size, GIB) or 3 * free < size:
        with pytest.raises(HostError, match="the volume group vg0 has") as caught:
            lvm.thick_size(origin)
        assert "thin pool" in caught.value.hint
        return
    if free < size + 8 * MIB:
        return  # near what is needed, whole extents decide
    taken = lvm.thick_size(origin)
    assert taken % (4 * MIB) == 0
    assert min(size, GIB) <= taken <= free
    assert 3 * taken >= size
    assert taken <= size + 8 * MIB, "more than the origin can never be needed"


# -- the mark as tags -------------------------------------------------------------------------

LVM_ALLOWS = set(string.ascii_letters + string.digits + "_+.-/=!:&#")
WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60)


@given(run=WORDS.filter(bool), owner=WORDS, deadline=st.integers(0, 1 << 40), folder=WORDS)
def test_a_mark_comes_back_from_its_tags(run: str, owner: str, deadline: int, folder: str) -> None:
    """Also a folder with spaces: without it another state folder's kept clone would be reaped."""
    mark = Mark(run, owner, deadline, folder)
    found = lvm.tags(mark)
    assert all(set(tag) <= LVM_ALLOWS for tag in found)
    assert lvm.read_tags(found) == mark
    assert lvm.read_tags(tuple(reversed(found))) == mark


@pytest.mark.parametrize(
    "found",
    [
        (),
        ("upgrade-sandbox",),
        ("upgrade-sandbox.run=x",),
        ("upgrade-sandbox", "upgrade-sandbox.run="),
        ("upgrade-sandbox", "run=x", "owner=1:2:3"),
        ("upgrade-sandbox-2", "upgrade-sandbox.run=x"),
        ("upgrade-sandbox", "upgrade-sandboxes.run=x"),
    ],
)
def test_what_is_not_wholly_our_mark_is_not_ours(found: tuple[str, ...]) -> None:
    assert lvm.read_tags(found) is None


def test_tags_of_others_change_nothing_about_a_mark() -> None:
    others = ("run=nightly", "owner=somebody", "backup", "upgrade-sandbox.later=x")
    assert lvm.read_tags((*others, *lvm.tags(MARK), *others)) == MARK


def test_a_damaged_deadline_is_none() -> None:
    found = ("upgrade-sandbox", "upgrade-sandbox.run=x", "upgrade-sandbox.deadline=soon")
    assert lvm.read_tags(found) == Mark("x", "", 0, "")


# -- removal ----------------------------------------------------------------------------------


def test_only_the_runs_own_volumes_are_removed() -> None:
    host = Scripted(
        [
            ours("sbabcdef-xvda"),
            row("sbabcdef-xvdb"),  # has a name like ours
            row("web01-root", lv_tags="production"),
            row("tagged", lv_tags="upgrade-sandbox"),
            row("near", lv_tags=f"upgrade-sandbox,run={RUN}"),
            ours("sbffffff-xvda", "20260102-030405-ffffff"),
            ours("longer", f"{RUN}0"),
            ours("sbabcdef-xvdc"),
        ]
    )
    removed = lvm.remove(host, RUN, soon())
    assert removed == ("volume vg0/sbabcdef-xvda", "volume vg0/sbabcdef-xvdc")
    assert [argv[-1] for argv in host.ran] == ["vg0/sbabcdef-xvda", "vg0/sbabcdef-xvdc"]
    assert {argv[0] for argv in host.ran} == {"lvremove"}


def test_a_volume_in_several_pieces_is_removed_once() -> None:
    host = Scripted([ours("sbabcdef-xvda"), ours("sbabcdef-xvda")])
    assert lvm.remove(host, RUN, soon()) == ("volume vg0/sbabcdef-xvda",)
    assert len(host.ran) == 1


def test_a_removal_that_fails_is_not_repeated() -> None:
    host = Scripted([ours("sbabcdef-xvda")], busy=["Volume group vg0 is exported"])
    with pytest.raises(CommandFailed, match="is exported"):
        lvm.remove(host, RUN, soon())
    assert len(host.ran) == 1
