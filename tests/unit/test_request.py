"""From what a user asks for to a scenario: found by name or path, and overruled where it says."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from sandbox.core.errors import RequestError
from sandbox.core.settings import Settings, shipped_scenarios
from sandbox.scenario.request import Request, find_scenario, prepare, scenario_names
from tests.support.fakes.scenario_world import NAMES, UP, load, make_folder


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Scenario folders: the user's own, with web01, before the shipped ones."""
    own = tmp_path / "own"
    own.mkdir()
    folder = make_folder(own)
    load(folder, UP + "source: {guest: web01}\nlogin: {user: admin, key: id, port: 2222}\n")
    return Settings(scenarios=(own, shipped_scenarios()))


def test_by_name_in_the_users_own_folder_first(settings: Settings) -> None:
    own = settings.scenarios[0]
    assert find_scenario("web01", settings) == own / "web01"
    assert find_scenario("security", settings) == shipped_scenarios() / "security"
    mine = own / "security"
    mine.mkdir()
    (mine / "scenario.yaml").write_text(UP)
    assert find_scenario("security", settings) == mine
    assert scenario_names(settings) == [*NAMES, "web01"]


@pytest.mark.parametrize("text", ["./x", "/x", ".", "..", "x.yaml", "a/b"])
def test_a_path_is_a_path(settings: Settings, text: str) -> None:
    assert find_scenario(text, settings) == Path(text)


def test_a_folder_here_can_be_named_without_a_slash(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "scenario.yaml").write_text(UP)
    monkeypatch.chdir(tmp_path)
    assert find_scenario("here", settings) == Path("here")


@pytest.mark.parametrize("text", ["securty", "", "nothing like it", "*"])
def test_an_unknown_name_is_rejected_with_what_there_is(settings: Settings, text: str) -> None:
    with pytest.raises(RequestError, match="no scenario") as caught:
        find_scenario(text, settings)
    assert "there are: everything, kernel, package, release, security, web01" in caught.value.hint
    assert ("did you mean 'security'?" in caught.value.hint) is (text == "securty")


def test_without_overrides_the_scenarios_word_counts(settings: Settings) -> None:
    scenario = prepare(Request("web01"), settings)
    assert scenario.source is not None
    assert scenario.source.guest == "web01"
    assert (scenario.login.user, scenario.login.port) == ("admin", 2222)
    assert scenario.upgrade.what == "all"


def test_a_request_overrules_the_scenario(settings: Settings, tmp_path: Path) -> None:
    image, key = tmp_path / "disk.raw", tmp_path / "key"
    image.touch()
    key.touch()
    scenario = prepare(
        Request("web01", image=image, format="raw", upgrade="nginx=1.2", user="root", key=key),
        settings,
    )
    assert scenario.source is not None
    assert scenario.source.guest is None
    assert scenario.source.image is not None
    assert scenario.source.image.path == image
    assert scenario.upgrade.packages == ("nginx=1.2",)
    login = scenario.login
    assert (login.user, login.key, login.port, login.inject) == ("root", key, 2222, False)


def test_a_key_of_ones_own_needs_none_injected(settings: Settings, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.touch()
    folder = settings.scenarios[0] / "web01"
    load(folder, UP + "login: {inject: true}\n")
    assert prepare(Request("web01", guest="web02"), settings).login.inject
    login = prepare(Request("web01", guest="web02", key=key), settings).login
    assert (login.inject, login.private_key()) == (False, key)


def test_nothing_to_rehearse_is_rejected(settings: Settings) -> None:
    with pytest.raises(RequestError, match="does not say what to rehearse") as caught:
        prepare(Request("security"), settings)
    assert "--guest" in caught.value.hint
    assert prepare(Request("security", guest="web01"), settings).source is not None


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (Request("security", guest="web01", image=Path("/x"), format="raw"), "one of them"),
        (Request("security", image=Path("/nonexistent"), format="raw"), "does not exist"),
        (Request("security", image=Path("/etc/hostname")), "not stated"),
        (Request("security", image=Path("/etc/hostname"), format="iso"), "no format"),
        (Request("security", guest="a/b"), "guest"),
        (Request("security", guest="web01", upgrade=""), "names nothing"),
        (Request("security", guest="web01", upgrade="no such;package"), "--upgrade"),
        (Request("security", guest="web01", user="root\n  ProxyCommand x"), "--user"),
        (Request("security", guest="web01", user="-oProxyCommand=x"), "--user"),
        (Request("security", guest="web01", key=Path("/nonexistent")), "--key"),
        (Request("security", guest="web01", key=Path("/etc")), "--key"),
    ],
)
def test_a_wrong_request_is_rejected_before_anything_is_made(
    settings: Settings, request_: Request, words: str
) -> None:
    with pytest.raises(RequestError) as caught:
        prepare(request_, settings)
    assert words in caught.value.message
    assert caught.value.hint


def test_the_public_half_is_no_key(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "id.pub").touch()
    with pytest.raises(RequestError, match="public half"):
        prepare(Request("security", guest="web01", key=tmp_path / "id.pub"), settings)


@pytest.mark.parametrize(
    ("kind", "words"), [(stat.S_IFBLK, "is a block device"), (stat.S_IFIFO, "is a special file")]
)
def test_an_image_that_is_there_but_no_file_is_told_as_that(
    settings: Settings, tmp_path: Path, kind: int, words: str
) -> None:
    path = tmp_path / "loop0"
    os.mknod(path, kind | 0o600, os.makedev(7, 250))
    with pytest.raises(RequestError) as caught:
        prepare(Request("security", image=path, format="raw"), settings)
    assert words in str(caught.value)
    assert "does not exist" not in str(caught.value)
