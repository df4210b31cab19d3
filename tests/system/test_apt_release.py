"""To the next release with real apt and dpkg: whose suites change, in which order, and what not."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox.core.records import UpgradeStatus
from sandbox.managers import UpgradeRequest
from tests.support.fakes.apt_world import AptWorld, Rehearsal

NEXT = UpgradeRequest("release", release="trixie")


@pytest.fixture
def releases(debian: AptWorld) -> AptWorld:
    """The guest runs bookworm. In trixie web needs something new, and lib does not."""
    for name in ("bookworm", "bookworm-updates", "trixie", "trixie-updates"):
        setattr(debian, name.replace("-", "_"), debian._suite(name, "Test", name))
    debian.install(
        debian.build("web", "1.0"), debian.build("lib", "1.0"), debian.build("own", "1.0")
    )
    debian.offer(debian.trixie, debian.build("web", "2.0", depends="newdep"))
    debian.offer(debian.trixie, debian.build("newdep", "1"))
    debian.offer(debian.trixie_updates, debian.build("lib", "1.1"))
    debian.offer(debian.main, debian.build("own", "1.1"))
    for deb in debian.debs.glob("*.deb"):  # where a suite with a name of its own looks for them
        (debian.folder / "www" / deb.name).write_bytes(deb.read_bytes())
    (debian.root / "etc/os-release").write_text('ID=debian\nVERSION_CODENAME="bookworm"\n')
    return debian


def line(debian: AptWorld, *suites: str) -> str:
    return "".join(f"deb [trusted=yes] {debian.url} {suite}/\n" for suite in suites)


def sources(debian: AptWorld) -> dict[str, str]:
    folder = debian.root / "etc/apt"
    files = [folder / "sources.list", *(folder / "sources.list.d").iterdir()]
    return {str(file): file.read_text() for file in files if file.is_file()}


def copies(rehearsal: Rehearsal) -> dict[str, str]:
    found = [rehearsal.work / "sources.list", *(rehearsal.work / "sources").iterdir()]
    return {file.name: file.read_text() for file in found if file.is_file()}


def test_every_suite_of_the_release_becomes_one_of_the_next(
    releases: AptWorld, rehearsal: Rehearsal
) -> None:
    (releases.root / "etc/apt/sources.list").write_text("# bookworm\n" + line(releases, "bookworm"))
    (releases.root / "etc/apt/sources.list.d/more.sources").write_text(
        f"Types: deb\nURIs: {releases.url}\nSuites: bookworm-updates/\nTrusted: yes\n"
        f"\nTypes: deb\nURIs: {releases.url}\nSuites:\n bookworm/\n bookworm-updates/\n"
        "Trusted: yes\n"
    )
    before = sources(releases)
    log = rehearsal.run(NEXT)
    assert (log.status, log.error) == (UpgradeStatus.APPLIED, "")
    assert [(c.name, c.old, c.new) for c in log.changes] == [
        ("lib", "1.0", "1.1"),
        ("newdep", None, "1"),
        ("own", "1.0", "1.1"),  # from a source that names no release
        ("web", "1.0", "2.0"),
    ]
    assert log.requested == "the release trixie"
    assert sources(releases) == before, "the guest's own files stay as they are"
    assert [releases.version(name) for name in ("web", "lib", "own")] == ["2.0", "1.1", "1.1"]


def test_what_needs_nothing_new_comes_first(releases: AptWorld, rehearsal: Rehearsal) -> None:
    """As Debian's release notes have it."""
    releases.write_sources()
    (releases.root / "etc/apt/sources.list").write_text(
        line(releases, "bookworm", "bookworm-updates")
    )
    rehearsal.run(NEXT)
    set_up = [row for row in rehearsal.lines if row.startswith("Setting up")]
    assert [row.split()[2] for row in set_up] == ["lib", "newdep", "web"]
    assert sum("newly installed" in row for row in rehearsal.lines) >= 2, "two steps"
    percents = [percent for percent, _ in rehearsal.progress if percent is not None]
    assert percents == sorted(percents), "the second step does not begin at 0 again"


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("a.list", "deb URL [bookworm] main\n"),
        ("a.list", "deb URL [bookworm]"),
        ("a.list", "deb [arch=amd64] URL [bookworm]/updates x\n"),
        ("a.list", "deb-src URL [bookworm]-backports a b\n"),
        ("a.list", "deb URL/bookworm [bookworm] main\n"),
        ("a.list", "deb URL bookwormish main\ndeb URL [bookworm] c\n"),
        ("a.list", "# deb URL bookworm main\n  deb URL\t[bookworm]\tc\n"),
        ("a.sources", "URIs: URL\nSuites: [bookworm] [bookworm]-updates\nComponents: main\n"),
        ("a.sources", "suites:[bookworm]\nURIs: URL/bookworm\n"),
        ("a.sources", "Suites:\n bookwormish\n [bookworm]\nURIs: URL/bookworm\n"),
        ("a.sources", "X-Old: bookworm\nSuites: [bookworm]\n"),
    ],
)
def test_suites_and_nothing_else_change(
    releases: AptWorld, rehearsal: Rehearsal, file: str, text: str
) -> None:
    """In brackets: what changes. Whatever apt says afterwards: these are not all served."""
    releases.write_sources()
    text = text.replace("URL", releases.url)
    stated = text.replace("[bookworm]", "bookworm")
    (releases.root / "etc/apt/sources.list.d" / file).write_text(stated)
    rehearsal.simulate(NEXT)
    assert copies(rehearsal)[file] == text.replace("[bookworm]", "trixie")


def test_sources_that_name_no_release_lead_to_none(
    releases: AptWorld, rehearsal: Rehearsal
) -> None:
    log = rehearsal.run(NEXT)
    assert log.status is UpgradeStatus.IMPOSSIBLE
    assert log.error == (
        "no package source of the guest names the release that runs (bookworm), so none can be"
        " changed to trixie"
    )
    assert releases.version("web") == "1.0"


def test_a_guest_that_does_not_say_what_it_runs(releases: AptWorld, rehearsal: Rehearsal) -> None:
    (releases.root / "etc/os-release").write_text("ID=other\nVERSION_CODENAME='$(reboot)'\n")
    (releases.root / "etc/apt/sources.list").write_text(line(releases, "bookworm"))
    log = rehearsal.run(NEXT)
    assert log.status is UpgradeStatus.IMPOSSIBLE
    assert "(unknown)" in log.error


def test_the_release_that_runs_already_is_all_its_updates(
    releases: AptWorld, rehearsal: Rehearsal
) -> None:
    log = rehearsal.run(UpgradeRequest("release", release="bookworm"))
    assert [(c.name, c.new) for c in log.changes] == [("own", "1.1")]
    assert log.status is UpgradeStatus.APPLIED


def test_a_release_that_the_archive_does_not_have_is_the_archives_fault(
    releases: AptWorld, rehearsal: Rehearsal
) -> None:
    (releases.root / "etc/apt/sources.list").write_text(line(releases, "bookworm"))
    log = rehearsal.run(UpgradeRequest("release", release="nowhere"))
    assert log.status is UpgradeStatus.UNAVAILABLE
    assert "nowhere" in log.error
    assert releases.version("web") == "1.0"


def test_a_proposed_source_counts_as_it_was_proposed(
    releases: AptWorld, rehearsal: Rehearsal, tmp_path: Path
) -> None:
    (releases.root / "etc/apt/sources.list").write_text(line(releases, "bookworm"))
    own = releases.build("own", "1.2")
    releases.offer(releases.bookworm_updates, own)
    (releases.folder / "www" / own.name).write_bytes(own.read_bytes())
    proposed = (line(releases, "bookworm-updates").strip(),)
    log = rehearsal.run(UpgradeRequest("release", release="trixie", repositories=proposed))
    assert ("own", "1.2") in [(c.name, c.new) for c in log.changes]
    assert ("web", "2.0") in [(c.name, c.new) for c in log.changes]
