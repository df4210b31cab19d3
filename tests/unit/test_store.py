"""Runs on disk: what they are called, who may read them, who owns them."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.core.errors import HostError, RequestError
from sandbox.core.settings import Settings
from sandbox.core.store import (
    OurProcess,
    RunFolder,
    Store,
    is_alive,
    is_elsewhere,
    start_time,
    this_process,
)
from tests.support.fakes.sample_records import LEDGER, broken_nginx, passed


@pytest.fixture
def store() -> Iterator[Store]:
    with tempfile.TemporaryDirectory(prefix="sbtest-") as state:
        yield Store(Settings(state=Path(state) / "state"))


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


# -- folders ----------------------------------------------------------------------------------


def test_a_new_run_is_closed_to_others_whatever_the_umask(store: Store) -> None:
    before = os.umask(0)
    try:
        run = store.create()
        run.save(passed().model_copy(update={"id": run.id}))
    finally:
        os.umask(before)
    assert mode(run.artifacts) == mode(run.artifacts.parent) == 0o700
    assert mode(run.clone) == mode(run.clone.parent) == 0o711, "QEMU's user passes, none lists"
    assert mode(run.clone / "facts.json") == mode(run.artifacts / "run.json") == 0o600


def test_ids_sort_by_time_and_never_clash(store: Store) -> None:
    made = [store.create().id for _ in range(20)]
    assert len(set(made)) == 20
    stamps = [run_id.rpartition("-")[0] for run_id in made]
    assert stamps == sorted(stamps)
    assert store.clone_ids() == tuple(sorted(made))
    assert store.ids() == (), "a run without a record is not listed"


def test_a_folder_that_cannot_be_made_is_the_hosts_fault(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HostError, match="cannot make a folder") as caught:
        Store(Settings(state=tmp_path / "file")).create()
    assert "SANDBOX_STATE" in caught.value.hint


# -- records ----------------------------------------------------------------------------------


def test_a_record_comes_back_as_it_was(store: Store) -> None:
    run = store.create()
    record = passed().model_copy(update={"id": run.id})
    run.save(record)
    assert store.load(run) == record
    assert store.ids() == (run.id,)
    assert list(store.records()) == [record]


def test_a_record_of_before_the_control_was_called_so_is_read(store: Store) -> None:
    run = store.create()
    record = broken_nginx().model_copy(update={"id": run.id})
    ledger = LEDGER.model_copy(update={"control_known": False})
    record = record.model_copy(update={"facts": record.facts.model_copy(update={"ledger": ledger})})
    run.save(record)
    path = run.artifacts / "run.json"
    text = path.read_text()
    older = text.replace('"control_known":', '"twin_known":').replace('"control": 2', '"twin": 2')
    older = older.replace('"control":2', '"twin":2').replace('"control":0', '"twin":0')
    assert older.count("twin") >= 2
    path.write_text(older)
    assert store.load(run) == record


@pytest.mark.parametrize("text", ["", "{", "null", "[]", '{"id": 1}', "\0\xff", '{"more": 1}'])
def test_a_damaged_record_is_named_and_hides_no_other(store: Store, text: str) -> None:
    good, bad = store.create(), store.create()
    good.save(passed().model_copy(update={"id": good.id}))
    (bad.artifacts / "run.json").write_text(text)
    with pytest.raises(RequestError, match="cannot be read"):
        store.load(bad)
    assert [record.id for record in store.records()] == [good.id]


def test_a_reader_never_sees_half_a_record(store: Store) -> None:
    run = store.create()
    small = passed().model_copy(update={"id": run.id})
    large = small.model_copy(update={"ssh_command": "x" * 200_000})
    run.save(small)
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            run.save(large)
            run.save(small)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(200):
            assert store.load(run) in (small, large)
    finally:
        stop.set()
        writer.join()


# -- finding ----------------------------------------------------------------------------------


def put(store: Store, *run_ids: str) -> None:
    for run_id in run_ids:
        folder = store.folder(run_id)
        folder.artifacts.mkdir(parents=True)
        folder.save(passed().model_copy(update={"id": run_id}))


def test_a_run_is_found_by_its_id_an_end_of_it_or_as_the_latest(store: Store) -> None:
    put(store, "20260101-000000-aaaaaa", "20260102-000000-bbbbbb")
    for text in ("20260101-000000-aaaaaa", "aaaaaa", "20260101", "20260101-0000"):
        assert store.find(text).id == "20260101-000000-aaaaaa"
    assert store.find("latest").id == "20260102-000000-bbbbbb"
    with pytest.raises(RequestError, match="fits 2 runs"):
        store.find("2026")


@pytest.mark.parametrize("text", ["", "nobody", "..", "../..", "/", "*", ".", "a" * 5000, "\0"])
def test_what_is_no_run_is_not_found(store: Store, text: str) -> None:
    put(store, "20260101-000000-aaaaaa")
    with pytest.raises(RequestError, match="no run") as caught:
        store.find(text)
    assert "sandbox list" in caught.value.hint


def test_nothing_is_the_latest_of_no_runs(store: Store) -> None:
    with pytest.raises(RequestError):
        store.find("latest")
    assert store.ids() == store.clone_ids() == ()


# -- facts and processes ----------------------------------------------------------------------


def test_facts_add_up(store: Store) -> None:
    run = store.create()
    assert run.facts() == {"owner": this_process()}
    run.note(source="web01")
    run.note(kept="yes", source="web02")
    assert run.facts() == {"owner": this_process(), "source": "web02", "kept": "yes"}


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", "\xff\xfe"])
def test_damaged_facts_are_none(store: Store, text: str) -> None:
    run = store.create()
    (run.clone / "facts.json").write_bytes(text.encode("latin-1"))
    assert run.facts() == {}


def test_processes_are_noted_with_their_start(store: Store) -> None:
    run = store.create()
    assert run.processes() == ()
    run.register(os.getpid(), "qemu-nbd")
    run.register(999_999_999, "ssh")
    first, second = run.processes()
    assert (first.pid, first.started, first.role) == (
        os.getpid(),
        start_time(os.getpid()),
        "qemu-nbd",
    )
    assert (second.started, second.role) == ("", "ssh")


@given(st.binary(max_size=60))
def test_a_list_of_processes_cut_short_does_not_raise(text: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder("x", Path(folder), Path(folder))
        (run.clone / "processes").write_bytes(b"12 34 ssh\n" + text)
        assert run.processes()[0] == OurProcess(12, "34", "ssh")


# -- who is alive -----------------------------------------------------------------------------


def test_we_are_alive() -> None:
    assert is_alive(this_process())
    assert int(start_time(1)) < int(start_time(os.getpid()))


def test_a_recycled_pid_is_not_the_owner() -> None:
    pid, started, boot, machine = this_process().split(":")
    assert not is_alive(f"{pid}:{int(started) - 1}:{boot}:{machine}")
    assert not is_alive(f"{pid}:{started}:00000000-0000-0000-0000-000000000000")


@pytest.mark.parametrize("mark", ["", ":", "::", "1", "1:2", "x:y:z", "-1:0:0", "1::", "9" * 30])
def test_nonsense_is_not_alive(mark: str) -> None:
    assert not is_alive(mark)


def test_a_process_of_another_machine_is_elsewhere() -> None:
    """Whether it lives nobody here can say: its process number is another's on this machine."""
    ours = this_process()
    assert not is_elsewhere(ours)
    pid, started, boot, machine = ours.split(":")
    assert machine, "this machine has no /etc/machine-id: nothing was checked"
    assert is_elsewhere(f"{pid}:{started}:{boot}:0123456789ab")
    assert is_elsewhere("1:1:00000000-0000-0000-0000-000000000000:0123456789ab")
    # Of an earlier boot of this machine: here, and dead.
    assert not is_elsewhere(f"1:1:00000000-0000-0000-0000-000000000000:{machine}")


@pytest.mark.parametrize("mark", ["", ":", "1:2:3", "1:2:3:", "nonsense"])
def test_a_mark_that_names_no_machine_is_of_this_one(mark: str) -> None:
    assert not is_elsewhere(mark)
