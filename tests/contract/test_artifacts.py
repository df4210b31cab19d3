"""Where artifacts are copied: one suite on a folder and on a real S3 server."""

from __future__ import annotations

import logging
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import boto3
import pytest
from moto.moto_server.threaded_moto_server import ThreadedMotoServer

from sandbox.core.errors import HostError, RequestError
from workers.artifacts.places import S3, Folder, NoSuchFile, Place, files_of, place_for
from workers.settings import ServiceSettings, read_service_settings

RECORD = "20261125-031500-abc123"


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """A server on loopback; its address."""
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # not a line a request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@pytest.fixture(params=["folder", "s3", "s3 with a prefix"])
def place(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Place]:
    if request.param == "folder":
        yield Folder(tmp_path / "place")
        return
    endpoint: str = request.getfixturevalue("s3_server")
    for name, value in (("ACCESS_KEY_ID", "key"), ("SECRET_ACCESS_KEY", "secret")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    client = boto3.client("s3", endpoint_url=endpoint)
    client.create_bucket(Bucket="artifacts")
    prefix = "sandbox/team" if "prefix" in request.param else ""
    yield S3("artifacts", prefix, endpoint)
    for found in client.list_objects_v2(Bucket="artifacts").get("Contents", ()):
        client.delete_object(Bucket="artifacts", Key=found["Key"])
    client.delete_bucket(Bucket="artifacts")


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """A run's folder, with what may be in one."""
    folder = tmp_path / "runs" / RECORD
    (folder / "before").mkdir(parents=True)
    (folder / "run.json").write_text('{"id": 1}')
    (folder / "console.log").write_bytes(b"\0\xff" * 5000)
    (folder / "before" / "häßlich und lang.txt").write_text("units\n")
    (folder / "empty").touch()
    secret = tmp_path / "secret"
    secret.write_text("of the host")
    (folder / "link").symlink_to(secret)
    (folder / "out").symlink_to(tmp_path)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {one.name: (folder / one.name).read_bytes() for one in files_of(folder)}


def test_what_is_put_can_be_listed_fetched_and_removed(
    place: Place, record: Path, tmp_path: Path
) -> None:
    copied = place.put(RECORD, record)
    assert copied == 10_000 + 6 + 9
    listed = {one.name: one.size for one in place.files(RECORD)}
    assert listed == {
        "before/häßlich und lang.txt": 6,
        "console.log": 10_000,
        "empty": 0,
        "run.json": 9,
    }
    place.fetch(RECORD, tmp_path / "back")
    assert content(tmp_path / "back") == content(record)
    place.remove(RECORD)
    assert place.files(RECORD) == ()


def test_what_is_fetched_is_for_its_owner_only(place: Place, record: Path, tmp_path: Path) -> None:
    place.put(RECORD, record)
    before = os.umask(0)
    try:
        place.fetch(RECORD, tmp_path / "back")
    finally:
        os.umask(before)
    for path in (tmp_path / "back").rglob("*"):
        wanted = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path


def test_a_second_copy_replaces_the_first(place: Place, record: Path) -> None:
    place.put(RECORD, record)
    (record / "console.log").unlink()
    (record / "run.json").write_text('{"id": 22}')
    assert place.put(RECORD, record) == 6 + 10
    assert {one.name for one in place.files(RECORD)} == {
        "before/häßlich und lang.txt",
        "empty",
        "run.json",
    }


def test_records_do_not_mix(place: Place, record: Path) -> None:
    place.put(RECORD, record)
    place.put(f"{RECORD}4", record)
    place.remove(RECORD)
    assert place.files(RECORD) == ()
    assert len(place.files(f"{RECORD}4")) == 4


def test_nothing_there_is_nothing(place: Place, tmp_path: Path) -> None:
    assert place.files(RECORD) == ()
    place.remove(RECORD)
    place.fetch(RECORD, tmp_path / "back")
    assert files_of(tmp_path / "back") == ()


def test_more_files_than_an_answer_lists(place: Place, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(20):
        (folder / f"{number:04}").touch()
    if isinstance(place, S3):
        place = replace(place, page=6)
    place.put(RECORD, folder)
    assert [one.name for one in place.files(RECORD)] == [f"{n:04}" for n in range(20)]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../../etc"])
def test_a_name_is_one_folder(place: Place, record: Path, name: str) -> None:
    with pytest.raises(RequestError):
        place.put(name, record)
    with pytest.raises(RequestError):
        place.remove(name)


def test_it_says_whether_it_works(place: Place, record: Path) -> None:
    assert place.check()
    place.put(RECORD, record)
    if isinstance(place, Folder):
        assert {path.name for path in place.path.iterdir()} == {RECORD}


def test_a_place_that_is_away_is_an_error_with_a_hint(
    record: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    (tmp_path / "file").touch()
    for away in (Folder(tmp_path / "file" / "place"), S3("gone", "", "http://127.0.0.1:9")):
        for do in (
            lambda away=away: away.put(RECORD, record),
            lambda away=away: away.check(),
        ):
            with pytest.raises(HostError, match="artifacts could not be") as told:
                do()
            assert told.value.hint


def test_a_bucket_that_is_not_there_is_said(
    s3_server: str, record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with pytest.raises(HostError, match="s3://nobody"):
        S3("nobody", "", s3_server).check()


def test_names_in_a_bucket_do_not_lead_out(place: Place, tmp_path: Path) -> None:
    """Whoever may write to the bucket must not write to the machine that fetches."""
    if isinstance(place, S3):
        client = boto3.client("s3", endpoint_url=place.endpoint)
        key = "/".join(part for part in (place.prefix, RECORD, "../../planted") if part)
        client.put_object(Bucket=place.bucket, Key=key, Body=b"x")
        with pytest.raises(HostError, match="leads out"):
            place.fetch(RECORD, tmp_path / "deep" / "back")
    assert not (tmp_path / "planted").exists()


def test_a_copy_that_was_cut_off_is_not_seen(record: Path, tmp_path: Path) -> None:
    place = Folder(tmp_path / "place")
    (place.path / f".{RECORD}.0123abcd").mkdir(parents=True)
    assert place.files(RECORD) == ()
    place.put(RECORD, record)
    (record / "console.log").chmod(0)
    shutil.rmtree(record / "before")
    os.mkfifo(record / "fifo")  # not a regular file: neither copied nor waited for
    place.put(RECORD, record)
    assert [path.name for path in place.path.iterdir()] == [RECORD]


# -- settings ---------------------------------------------------------------------------------


def settings(text: str, **more: str) -> ServiceSettings:
    given = {"ARTIFACTS": text, **more}
    return read_service_settings({f"SANDBOX_SERVICE_{name}": v for name, v in given.items()})


def test_the_settings_choose() -> None:
    assert place_for(settings("")) is None
    assert place_for(settings("/srv/artifacts")) == Folder(Path("/srv/artifacts"))
    chosen = place_for(settings("s3://bucket/a/b/", S3_ENDPOINT="http://127.0.0.1:9000"))
    assert chosen == S3("bucket", "a/b", "http://127.0.0.1:9000")
    assert chosen.url == "s3://bucket/a/b"


@pytest.mark.parametrize("text", ["s3://", "relative/folder", "s3:/bucket"])
def test_a_place_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(RequestError):
        place_for(settings(text))


def test_one_file_is_read_in_portions_and_no_other(place: Place, record: Path) -> None:
    place.put(RECORD, record)
    (record.parent / "secret.txt").write_text("of the host")
    assert b"".join(place.stream(RECORD, "console.log")) == b"\0\xff" * 5000
    assert b"".join(place.stream(RECORD, "before/häßlich und lang.txt")) == b"units\n"
    assert b"".join(place.stream(RECORD, "empty")) == b""
    for name in ("", "nothing", "before", "../secret.txt", "/etc/passwd", "before/../console.log"):
        with pytest.raises(NoSuchFile, match="has no file"):
            place.stream(RECORD, name)
    with pytest.raises(NoSuchFile):
        place.stream("another", "console.log")
