"""Guests, upgrades and other words of a scenario, as the command line and the file give them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.core.config import scalars
from sandbox.core.errors import RequestError
from sandbox.scenario import (
    Repository,
    SourceSettings,
    Upgrade,
    parse_source,
    parse_upgrade,
    valid_guest_name,
    values,
)
from tests.support.fakes.scenario_world import UP, load, make_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path)


def test_upgrade_of_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.deb").write_text("")
    for word in ("all", "security", "kernel"):
        assert parse_upgrade(word).what == word
    assert parse_upgrade(" release=trixie") == Upgrade(what="release", release="trixie")
    mixed = parse_upgrade("nginx, openssl=1:3.0~rc1-1 ,./x.deb")
    assert (mixed.what, mixed.packages) == ("packages", ("nginx", "openssl=1:3.0~rc1-1"))
    assert mixed.files == (tmp_path / "x.deb",)
    assert parse_upgrade("x.deb").files == (tmp_path / "x.deb",)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "names nothing"),
        (" , ", "names nothing"),
        ("all,nginx", "cannot be combined"),
        ("script", "scenario files"),
        ("release", "release=trixie"),
        ("release=", "code name|empty|text"),
        ("release=1 2", "no release's code name"),
        ("nginx,release=trixie", "cannot be combined"),
        ("./gone.deb", "does not exist"),
        ("./up.sh", "does not exist"),
        ("/bin/sh", "not a package file"),
        ("nginx;reboot", "not a package name"),
        ("nginx=1 2", "not a version"),
        ("nginx,nginx=1.2", "names nginx twice"),
        ("--option", "not a package name"),
        ("./\0.deb", "control characters"),
        ("~no-such-user/x.deb", "no such home"),
    ],
)
def test_bad_upgrade_of_the_command_line(text: str, words: str) -> None:
    with pytest.raises(RequestError, match=words) as caught:
        parse_upgrade(text)
    assert caught.value.hint


@given(st.text() | st.text("abc=1.~:-+,/ "))
def test_any_upgrade_is_parsed_or_a_request_error(text: str) -> None:
    try:
        upgrade = parse_upgrade(text)
    except RequestError:
        return
    assert all(not word.startswith("-") and " " not in word for word in upgrade.packages)


def test_source_of_the_command_line(tmp_path: Path, folder: Path) -> None:
    disk = folder / "disk.qcow2"
    assert parse_source(guest="web01") == SourceSettings(guest="web01")
    image = parse_source(image=disk, format="qcow2").image
    assert image is not None
    assert image.files == ((disk, "qcow2"),)
    assert load(folder, UP).with_source(parse_source(guest="web01")).source is not None
    bad: list[tuple[dict[str, Any], str]] = [
        ({}, "one of them"),
        ({"guest": "a", "image": disk}, "one of them"),
        ({"guest": "a'b"}, "guest name"),
        ({"image": disk}, "not stated"),
        ({"image": disk, "format": "iso"}, "'iso' is no format"),
        ({"image": tmp_path / "gone", "format": "raw"}, "does not exist"),
    ]
    for options, words in bad:
        with pytest.raises(RequestError, match=words):
            parse_source(**options)


@pytest.mark.parametrize("name", ["web01", "Büro 2", "a", "db.example.org", "x" * 64, "vm:1 (old)"])
def test_good_guest_names(name: str) -> None:
    assert valid_guest_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", " ", "-x", ".", "..", "a/b", "a\\b", "a'b", 'a"b', "a\nb", "a\0", "x" * 65, "a ", "$(x)",
     "a;b", "<b>", "a\u202eb", "\ud800"],
)  # fmt: skip
def test_bad_guest_names(name: str) -> None:
    with pytest.raises(RequestError, match="guest name") as caught:
        valid_guest_name(name)
    assert caught.value.message.isprintable()


@given(st.integers(64 << 20, 1 << 44), st.integers(1, 604800))
def test_sizes_and_durations_may_be_numbers(size: int, seconds: int) -> None:
    assert scalars.size(size) == size
    assert scalars.duration(seconds) == seconds
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    assert scalars.duration(f"{hours}h{minutes}m{rest}s") == seconds


NAME = st.from_regex(r"[a-z0-9][a-z0-9+.-]{0,8}[a-z0-9+.]", fullmatch=True)
WORD = st.from_regex(r"[a-z][a-z0-9-]{0,8}", fullmatch=True)


@given(
    st.builds(
        Repository,
        uri=st.builds("https://mirror.example/{}".format, WORD),
        suite=WORD,
        components=st.lists(WORD, min_size=1, max_size=3).map(tuple),
        options=st.lists(
            st.tuples(st.sampled_from(["arch", "trusted", "signed-by"]), WORD), max_size=2
        ).map(tuple),
    )
)
def test_a_repository_line_survives_the_round_trip(repository: Repository) -> None:
    assert values.repository(str(repository)) == repository


@given(
    NAME, st.from_regex(r"(?:[0-9]:)?[0-9][A-Za-z0-9.+~]{0,8}(?:-[a-z0-9.+~]+)?", fullmatch=True)
)
def test_debian_names_and_versions_are_accepted(name: str, version: str) -> None:
    assert values.package_spec(f"{name}={version}") == f"{name}={version}"
