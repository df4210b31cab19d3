"""The apt upgrader with real apt and dpkg, in a root of its own and with its own repository."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from sandbox.core.deadline import Deadline
from sandbox.core.errors import RequestError
from sandbox.core.records import ConffileDecision, UpgradeLog, UpgradeStatus
from sandbox.managers import UpgradeRequest, choose, detect
from sandbox.managers.script import ScriptUpgrader
from sandbox.network.proxy.package_proxy import PackageProxy
from tests.support.fakes.apt_world import Rehearsal
from tests.support.fakes.local_shell import LocalShell
from tests.support.machine.package_server import loopback_port
from tests.support.waiting import wait_until

SHELLS = [s for s in (("dash",), ("bash", "--posix"), ("busybox", "sh")) if shutil.which(s[0])]


# --- what can be asked for ------------------------------------------------------------------


@pytest.mark.usefixtures("updates")
@pytest.mark.parametrize("interpreter", SHELLS, ids=lambda argv: argv[0])
def test_all(rehearsal: Rehearsal, interpreter: tuple[str, ...]) -> None:
    rehearsal.shell.interpreter = interpreter
    log = rehearsal.run(UpgradeRequest("all"))
    assert (log.status, log.error, log.exit_status) == (UpgradeStatus.APPLIED, "", 0)
    assert [(c.name, c.old, c.new) for c in log.changes] == [
        ("lib", "1.0", "1.1"),
        ("newdep", None, "1"),
        ("web", "1.0", "2.0"),
    ]
    assert log.held == log.kept_back == ("pinned",)
    assert log.download_bytes == sum(
        path.stat().st_size
        for path in (rehearsal.world.folder / "debs").glob("*.deb")
        if path.name.startswith(("lib_1.1", "newdep", "web_2"))
    )
    assert log.not_configured == ()
    assert log.requested == "all updates"
    assert rehearsal.world.version("web") == "2.0"
    assert "Setting up web (2.0)" in log.log
    assert "%%" not in log.log
    assert not rehearsal.work.exists()


@pytest.mark.usefixtures("updates")
@pytest.mark.parametrize("broken", ["one processor", "no room for the files"])
def test_sizes_and_holds_are_known_however_they_are_asked(
    rehearsal: Rehearsal, tmp_path: Path, broken: str
) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    if broken == "one processor":
        (tools / "nproc").write_text("#!/bin/sh\necho 1\n")
        (tools / "nproc").chmod(0o755)
    else:  # a folder in a file's place cannot be written to
        for name in ("uris", "selections"):
            (rehearsal.work / name).mkdir(parents=True)
    rehearsal.shell.env["PATH"] = f"{tools}:{os.environ['PATH']}"
    log = rehearsal.run(UpgradeRequest("all"))
    assert (log.status, log.held) == (UpgradeStatus.APPLIED, ("pinned",))
    assert log.download_bytes > 0


@pytest.mark.usefixtures("updates")
def test_a_changed_conffile_is_kept_and_told(rehearsal: Rehearsal) -> None:
    log = rehearsal.run(UpgradeRequest("all"))
    (decision,) = log.conffiles
    diff = decision.diff.splitlines()
    assert decision == ConffileDecision(
        path="/etc/web.conf", package="web", decision="kept", diff=decision.diff
    )
    assert diff[2:] == ["@@ -1 +1 @@", "-mine", "+new"]
    assert (rehearsal.world.root / "etc/web.conf").read_text() == "mine\n"


@pytest.mark.usefixtures("updates")
def test_a_conffile_left_by_an_earlier_upgrade_is_not_told(rehearsal: Rehearsal) -> None:
    (rehearsal.world.root / "etc/old.conf.dpkg-dist").write_text("long ago")
    last, probe = rehearsal.world.root / "etc/web.conf", rehearsal.world.root / "probe"
    last.write_text("old\n")

    def later() -> bool:
        probe.touch()
        return probe.stat().st_mtime_ns > last.stat().st_ctime_ns

    wait_until(later, "files of now to be newer")
    assert rehearsal.run(UpgradeRequest("all")).conffiles == ()


@pytest.mark.usefixtures("updates")
def test_progress_is_apts_own_and_only_grows(rehearsal: Rehearsal) -> None:
    rehearsal.run(UpgradeRequest("all"))
    percents = [percent for percent, _ in rehearsal.progress if percent is not None]
    assert percents == sorted(percents)
    assert len(set(percents)) > 5
    assert percents[0] < 20
    assert 90 <= percents[-1] <= 100
    texts = " ".join(text for _, text in rehearsal.progress)
    assert "fetching: Retrieving file 1 of 3" in texts
    assert "Unpacking web" in texts
    assert "/etc/web.conf was changed in this guest, and by the new version too" in texts


@pytest.mark.usefixtures("updates")
def test_security_only(rehearsal: Rehearsal) -> None:
    log = rehearsal.run(UpgradeRequest("security"))
    assert log.status == UpgradeStatus.APPLIED
    assert [change.name for change in log.changes] == ["lib", "newdep"]
    assert log.kept_back == ("pinned", "web")
    assert rehearsal.world.version("web") == "1.0"
    assert rehearsal.run(UpgradeRequest("security")).status == UpgradeStatus.NOTHING


def test_nothing_but_security_updates_is_simulated_once(rehearsal: Rehearsal) -> None:
    debian = rehearsal.world
    debian.install(debian.build("lib", "1.0"), debian.build("pinned", "1.0"))
    debian.hold("pinned")
    new = (debian.build("lib", "1.1", depends="newdep"), debian.build("newdep", "1"))
    debian.offer(debian.security, *new, debian.build("pinned", "2.0"))
    simulation = rehearsal.simulate(UpgradeRequest("security"))
    assert simulation.arguments == ("dist-upgrade",)
    log = rehearsal.run(UpgradeRequest("security"))
    assert log.status == UpgradeStatus.APPLIED
    assert [change.name for change in log.changes] == ["lib", "newdep"]
    assert log.held == log.kept_back == ("pinned",)
    assert log.download_bytes == sum(path.stat().st_size for path in new)
    assert debian.version("lib") == "1.1"


@pytest.mark.usefixtures("updates")
def test_named_packages(rehearsal: Rehearsal) -> None:
    log = rehearsal.run(UpgradeRequest("packages", packages=("web=2.0",)))
    assert (log.status, log.requested) == (UpgradeStatus.APPLIED, "web=2.0")
    assert [change.name for change in log.changes] == ["web"]
    assert rehearsal.world.version("lib") == "1.0"


@pytest.mark.usefixtures("updates")
def test_an_older_version_when_it_is_named(rehearsal: Rehearsal) -> None:
    rehearsal.run(UpgradeRequest("packages", packages=("web",)))
    old = rehearsal.world.debs / "web_1.0_all.deb"
    rehearsal.world.offer(rehearsal.world.main, old)
    log = rehearsal.run(UpgradeRequest("packages", packages=("web=1.0",)))
    assert (log.status, log.error) == (UpgradeStatus.APPLIED, "")
    assert rehearsal.world.version("web") == "1.0"


@pytest.mark.usefixtures("updates")
def test_the_kernels_metapackage(rehearsal: Rehearsal) -> None:
    debian = rehearsal.world
    assert "not installed through a metapackage" in rehearsal.run(UpgradeRequest("kernel")).error
    debian.install(
        debian.build("linux-image-6.1.0-1-amd64", "6.1.1"),
        debian.build("linux-image-amd64", "6.1.1", depends="linux-image-6.1.0-1-amd64"),
    )
    debian.offer(
        debian.main,
        debian.build("linux-image-6.1.0-2-amd64", "6.1.2"),
        debian.build("linux-image-amd64", "6.1.2", depends="linux-image-6.1.0-2-amd64"),
    )
    log = rehearsal.run(UpgradeRequest("kernel"))
    assert (log.status, log.requested) == (UpgradeStatus.APPLIED, "the kernel")
    assert [change.name for change in log.changes] == [
        "linux-image-6.1.0-2-amd64",
        "linux-image-amd64",
    ]


@pytest.mark.usefixtures("updates")
def test_proposed_repositories_count_only_for_the_rehearsal(rehearsal: Rehearsal) -> None:
    debian = rehearsal.world
    debian.offer(debian.proposed, debian.build("web", "3.0"))
    before = sorted(path.name for path in (debian.root / "etc/apt").rglob("*"))
    request = UpgradeRequest("all", repositories=(debian.line(debian.proposed),))
    assert rehearsal.run(request).status == UpgradeStatus.APPLIED
    assert debian.version("web") == "3.0"
    assert debian.version("lib") == "1.1"  # the guest's own sources count as well
    assert sorted(path.name for path in (debian.root / "etc/apt").rglob("*")) == before


@pytest.mark.usefixtures("updates")
@pytest.mark.parametrize("what", ["all", "security", "packages"])
def test_local_packages(rehearsal: Rehearsal, what: str) -> None:
    deb = rehearsal.world.build("web", "4.0", depends="newdep")
    log = rehearsal.run(UpgradeRequest(what, files=(deb,)))  # type: ignore[arg-type]
    assert (log.status, log.error) == (UpgradeStatus.APPLIED, "")
    assert rehearsal.world.version("web") == "4.0"
    assert rehearsal.world.version("newdep") == "1"
    assert rehearsal.world.version("lib") == ("1.0" if what == "packages" else "1.1")
    assert "web_4.0_all.deb" in log.requested


@pytest.mark.usefixtures("updates")
def test_nothing_changes_while_simulating(rehearsal: Rehearsal) -> None:
    status = rehearsal.world.root / "var/lib/dpkg/status"
    before = status.read_bytes()
    assert len(rehearsal.simulate(UpgradeRequest("all")).changes) == 3
    assert status.read_bytes() == before


@pytest.mark.usefixtures("updates")
def test_few_round_trips(rehearsal: Rehearsal) -> None:
    rehearsal.run(UpgradeRequest("all"))
    assert len(rehearsal.shell.scripts) == 3  # simulate, apply, aftermath


def test_nothing_to_upgrade(rehearsal: Rehearsal) -> None:
    log = rehearsal.run(UpgradeRequest("all"))
    assert (log.status, log.changes, log.exit_status) == (UpgradeStatus.NOTHING, (), 0)
    assert len(rehearsal.shell.scripts) == 1


# --- sources and the proxy ------------------------------------------------------------------


def test_sources_are_known_before_any_update(rehearsal: Rehearsal, tmp_path: Path) -> None:
    debian = rehearsal.world
    mirrors = tmp_path / "mirrors"
    mirrors.write_text("# list\nhttp://a.example/debian\tpriority:1\nhttps://b.example/x/\n")
    more = debian.root / "etc/apt/sources.list"
    more.write_text(f"deb mirror+file:{mirrors} stable main\ndeb-src http://c.example/ ./\n")
    request = UpgradeRequest("all", repositories=("deb http://p.example/new stable main",))
    found = rehearsal.upgrader.sources(rehearsal.shell, request, rehearsal.deadline())
    assert set(found) == {
        f"{debian.url}/main/",
        f"{debian.url}/security/",
        "http://a.example/debian",
        "https://b.example/x/",
        "http://c.example/",
        "http://p.example/new",
    }


@pytest.mark.usefixtures("updates")
def test_everything_goes_through_the_proxy(rehearsal: Rehearsal, tmp_path: Path) -> None:
    debian = rehearsal.world
    # A guest may send single hosts around its general proxy: not past ours.
    (debian.root / "etc/apt/apt.conf.d/proxy").write_text(
        'Acquire::http::Proxy::127.0.0.1 "DIRECT";\nAcquire::http::Proxy "http://p.example:1";\n'
    )
    before = (debian.root / "etc/apt/apt.conf.d/proxy").read_bytes()
    with PackageProxy([], tmp_path / "cache") as proxy, loopback_port(proxy.socket) as url:
        rehearsal.shell.proxy = url
        refused = rehearsal.run(UpgradeRequest("all"))
        assert refused.status == UpgradeStatus.UNAVAILABLE
        assert "not a package source of this guest (package proxy)" in refused.error
        sources = rehearsal.upgrader.sources(
            rehearsal.shell, UpgradeRequest("all"), rehearsal.deadline()
        )
        proxy.rules.add(sources, operator=True)
        log = rehearsal.run(UpgradeRequest("all"))
        assert (log.status, log.error) == (UpgradeStatus.APPLIED, "")
        told = proxy.statistics
    assert told.fetched >= log.download_bytes
    assert (debian.root / "etc/apt/apt.conf.d/proxy").read_bytes() == before


@pytest.mark.usefixtures("updates")
def test_a_second_rehearsal_fetches_no_package_twice(rehearsal: Rehearsal, tmp_path: Path) -> None:
    debian = rehearsal.world
    archives = debian.root / "var/cache/apt/archives"
    with PackageProxy([], tmp_path / "cache") as proxy, loopback_port(proxy.socket) as url:
        rehearsal.shell.proxy = url
        proxy.rules.add([debian.url + "/"], operator=True)
        request = UpgradeRequest("packages", packages=("web",))
        assert rehearsal.run(request).status == UpgradeStatus.APPLIED
        for deb in archives.glob("*.deb"):
            deb.unlink()
        debian.install(debian.debs / "web_1.0_all.deb")
        (debian.main.folder / "web_2.0_all.deb").unlink()
        assert rehearsal.run(request).status == UpgradeStatus.APPLIED


# --- choosing, scripts ----------------------------------------------------------------------


def test_detection(tmp_path: Path) -> None:
    deadline = Deadline(10, "test")
    assert detect(LocalShell(), deadline).name == "apt"
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "sh").symlink_to("/bin/sh")
    foreign = LocalShell(("/bin/sh",), env={"PATH": str(folder)})
    with pytest.raises(RequestError, match=r"it has: none that we know.*supported: apt-get"):
        detect(foreign, deadline)
    (folder / "dnf").write_text("#!/bin/sh\n")
    (folder / "dnf").chmod(0o755)
    with pytest.raises(RequestError, match="it has: dnf"):
        detect(foreign, deadline)
    script = UpgradeRequest("script", script=tmp_path / "x")
    assert choose(foreign, script, deadline).name == "script"


def test_a_script_is_the_upgrade(tmp_path: Path) -> None:
    upgrader = ScriptUpgrader(work=str(tmp_path / "work"))
    shell = LocalShell(("sh",), proxy="http://127.0.0.1:1")
    script = tmp_path / "upgrade.sh"
    script.write_text('#!/bin/sh\nset -u\necho "by $http_proxy $HTTPS_PROXY"\nread x || echo end\n')
    request = UpgradeRequest("script", script=script)
    seen: list[str] = []

    def run() -> UpgradeLog:
        deadline = Deadline(20, "upgrade")
        simulation = upgrader.simulate(shell, request, deadline)
        return upgrader.apply(shell, request, simulation, deadline, on_line=seen.append)

    log = run()
    assert (log.status, log.requested) == (UpgradeStatus.APPLIED, "script upgrade.sh")
    assert seen == ["by http://127.0.0.1:1 http://127.0.0.1:1", "end"]
    script.write_text("echo fine\necho 'cp: cannot stat x' >&2\necho bye\nexit 7\n")
    log = run()
    assert (log.status, log.exit_status) == (UpgradeStatus.FAILED, 7)
    assert log.error == "the script ended with status 7: cp: cannot stat x"
    assert not (tmp_path / "work").exists()
    script.unlink()
    with pytest.raises(RequestError, match="no such script"):
        run()
