"""What a preflight says that a guest would be asked, tried with the real dpkg and ucf."""

from __future__ import annotations

import os
import subprocess

from sandbox.preflight.points import Preflight
from tests.support.fakes.apt_world import AptWorld
from tests.support.fakes.local_shell import LocalShell
from tests.support.fakes.preflight_world import EVERYTHING, asked, offered


def questions(found: Preflight) -> list[str]:
    return [point.text for point in found.points if point.topic == "conffiles"]


def test_a_conffile_that_was_deleted_is_asked_about_as_dpkg_does(open_world: AptWorld) -> None:
    offered(open_world)
    (open_world.root / "etc/web.conf").unlink()
    (open_world.root / "etc/same.conf").unlink()  # the new version has none: nothing to ask about
    found = asked(LocalShell(("sh",), env=open_world.env), EVERYTHING)
    assert [text.partition("about ")[2] for text in questions(found)] == [
        "/etc/same.conf (web): it was deleted",
        "/etc/web.conf (web): it was deleted",
    ]
    upgraded = subprocess.run(
        ["dpkg", "-i", open_world.debs / "web_2.0_all.deb"],
        env=os.environ | open_world.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert upgraded.stdout.count("Deleted (by you or by a script) since installation") == 1
    assert "at conffile prompt" in upgraded.stdout, "it asked, and nobody answered"


def test_files_of_ucf_are_asked_about_too(open_world: AptWorld) -> None:
    """The real ucf keeps the books; only packages that change ask."""
    offered(open_world)
    state = open_world.root / "var/lib/ucf"
    state.mkdir()
    for name, package in (("a", "web"), ("b", "web"), ("c", "web"), ("d", "pinned")):
        fresh = open_world.folder / f"{name}.ini"
        fresh.write_text("as shipped\n")
        placed = open_world.root / f"etc/{name}.ini"
        for command in (["ucf", "--debconf-ok", fresh, placed], ["ucfr", package, placed]):
            subprocess.run(
                [command[0], "--state-dir", state, *command[1:]], check=True, capture_output=True
            )
    for book in (state / "hashfile", state / "registry"):  # as from inside
        book.write_text(book.read_text().replace(str(open_world.root), ""))
    (open_world.root / "etc/a.ini").write_text("edited\n")
    (open_world.root / "etc/b.ini").unlink()
    (open_world.root / "etc/d.ini").write_text("edited\n")
    found = asked(LocalShell(("sh",), env=open_world.env), EVERYTHING)
    assert [text.partition("about ")[2] for text in questions(found)] == [
        "/etc/a.ini (web): it was changed",
        "/etc/b.ini (web): it was deleted",
        "/etc/web.conf (web): it was changed",
    ]
