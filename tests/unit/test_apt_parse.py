"""apt's and dpkg's words as facts, from real transcripts and from junk."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.core.errors import RequestError
from sandbox.core.records import PackageChange, UpgradeStatus
from sandbox.managers import apt_parse as parse
from sandbox.managers.transcript import ManagerTranscript, sections_of
from tests.support.paths import DATA


def lines_of(name: str) -> list[str]:
    return (DATA / name).read_text().splitlines()


def changes(line: str) -> PackageChange:
    (found,) = parse.changes_of([line])
    return found


# --- simulation -----------------------------------------------------------------------------


def test_a_real_simulation() -> None:
    found = parse.changes_of(lines_of("apt-simulate.txt"))
    by_name = {change.name: change for change in found}
    assert by_name["libgcrypt20"] == PackageChange(
        name="libgcrypt20",
        old="1.10.1-3",
        new="1.10.1-3+deb12u1",
        architecture="amd64",
        origin="Debian:12.15/oldstable, Debian-Security:12/oldstable-security",
    )
    assert by_name["linux-image-6.1.0-37-amd64"].old is None
    assert by_name["obsolete"].new is None
    assert len(found) == len(by_name) == 9
    assert parse.kept_back_of(lines_of("apt-simulate.txt")) == ("docker-ce", "pinned")


def test_security_is_read_from_the_origin() -> None:
    found = parse.changes_of(lines_of("apt-simulate.txt"))
    assert parse.security_selection(found) == (
        "libgcrypt20:amd64=1.10.1-3+deb12u1",
        "linux-image-amd64:amd64=6.1.140-1",
        "tzdata=2024a-0ubuntu0.22.04",
    )


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Inst a (1 Docker CE:bookworm [amd64])", "Docker CE:bookworm"),
        ("Inst a [1] (2 local-deb [all])", "local-deb"),
        ("Inst a:i386 [1] (2 localhost [i386]) []", "localhost"),
        ("Inst a [1] (2 [amd64]) [b:amd64 ]", ""),
    ],
)
def test_unusual_origins(line: str, expected: str) -> None:
    change = changes(line)
    assert (change.name, change.origin) == ("a", expected)


def test_removed_and_then_installed_is_an_upgrade() -> None:
    found = parse.changes_of(["Remv a [1]", "Inst a [1] (2 x [all])", "Remv b:i386 [1] [c:amd64 ]"])
    assert [(c.name, c.old, c.new, c.architecture) for c in found] == [
        ("a", "1", "2", "all"),
        ("b", "1", None, "i386"),
    ]


def test_download_size() -> None:
    lines = [
        "'http://mirror.example/a_1%2b1_all.deb' a_1+1_all.deb 608 SHA256:ab",
        "'http://mirror.example/b_1_all.deb' b_1_all.deb 2",
        "Need to get 610 B of archives.",
    ]
    assert parse.download_size_of(lines) == 610


# --- sources, progress ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "deb http://mirror.example/debian stable main",
        "deb [arch=amd64 signed-by=/etc/k.gpg] http://mirror.example/debian stable main",
        "deb-src  http://mirror.example/debian ./",
    ],
)
def test_repository_lines(line: str) -> None:
    assert parse.repository_uri(line) == "http://mirror.example/debian"


@pytest.mark.parametrize(
    "line",
    ["", "http://mirror.example", "deb", "deb x y", "deb http://m.example", "rpm http://m/ x y",
     "deb http://m.example/ x\ndeb http://evil.example/ x", "deb http://m.example/ x\x00"],
)  # fmt: skip
def test_lines_that_are_no_repositories(line: str) -> None:
    with pytest.raises(RequestError, match="not a one-line package source"):
        parse.repository_uri(line)


def test_status_lines() -> None:
    status = parse.status_of("pmstatus:libc6:amd64:12.5:Unpacking libc6 (amd64)")
    assert status == parse.Status("pmstatus", "libc6:amd64", 12.5, "Unpacking libc6 (amd64)")
    error = parse.status_of("pmerror:/var/cache/apt/archives/a_1_all.deb:50:trying to overwrite: x")
    assert error
    assert (error.item, error.text) == (
        "/var/cache/apt/archives/a_1_all.deb",
        "trying to overwrite: x",
    )
    assert parse.status_of("pmstatus:without percent") is None
    assert parse.status_of("Unpacking libc6") is None


# --- configuration files --------------------------------------------------------------------


def test_prompts() -> None:
    lines = """\
Setting up web (2.0) ...
Configuration file '/etc/web.conf'
 ==> Modified (by you or by a script) since installation.
 ==> Package distributor has shipped an updated version.
 ==> Keeping old config file as default.
Setting up other:amd64 (1) ...
Configuration file '/etc/other.conf' (actually '/root/etc/other.conf')
 ==> File on system created by you or by a script.
 ==> File also in package provided by package maintainer.
 ==> Using new config file as you requested.
Configuration file '/etc/unanswered'
Setting up third (1) ...
 ==> Keeping old config file as default.
""".splitlines()
    assert parse.prompts_of(lines) == (
        parse.Prompt("/etc/web.conf", "web", "kept"),
        parse.Prompt("/etc/other.conf", "other", "replaced"),
    )


# --- failures -------------------------------------------------------------------------------

FAILURES = {
    "mirror": (
        UpgradeStatus.UNAVAILABLE,
        "Failed to fetch http://mirror.example/d/dists/x/InRelease  403  not a package source",
        "",
        """\
Err:1 http://mirror.example/d x InRelease
  403  not a package source
E: Failed to fetch http://mirror.example/d/dists/x/InRelease  403  not a package source
E: Some index files failed to download. They have been ignored, or old ones used instead.
""",
    ),
    "hash": (
        UpgradeStatus.UNAVAILABLE,
        "Failed to fetch http://mirror.example/a.deb  Hash Sum mismatch",
        "",
        """\
E: Failed to fetch http://mirror.example/a.deb  Hash Sum mismatch
   Hashes of expected file:
E: Unable to fetch some archives, maybe run apt-get update or try with --fix-missing?
""",
    ),
    "unsigned": (
        UpgradeStatus.UNAVAILABLE,
        "The repository 'http://mirror.example/d x InRelease' is not signed.",
        "",
        "E: The repository 'http://mirror.example/d x InRelease' is not signed.\n",
    ),
    "expired": (
        UpgradeStatus.UNAVAILABLE,
        "Release file for http://mirror.example/d/InRelease is expired (invalid since 2d).",
        "",
        "E: Release file for http://mirror.example/d/InRelease is expired (invalid since 2d).\n",
    ),
    "unknown package": (
        UpgradeStatus.IMPOSSIBLE,
        "Unable to locate package nginxx",
        "",
        "Reading package lists...\nE: Unable to locate package nginxx\n",
    ),
    "unknown version": (
        UpgradeStatus.IMPOSSIBLE,
        "Version '9' for 'nginx' was not found",
        "",
        "E: Version '9' for 'nginx' was not found\n",
    ),
    "unmet": (
        UpgradeStatus.IMPOSSIBLE,
        "web : Depends: lib (>= 2) but 1 is to be installed (Unable to correct problems, you have "
        "held broken packages.)",
        "",
        """\
The following packages have unmet dependencies:
 web : Depends: lib (>= 2) but 1 is to be installed
E: Unable to correct problems, you have held broken packages.
""",
    ),
    "postinst": (
        UpgradeStatus.FAILED,
        "nginx: installed nginx package post-installation script subprocess returned error exit "
        'status 1: nginx: [emerg] unknown directive "wroker_processes" in /etc/nginx/nginx.conf:3',
        "nginx",
        """\
Setting up nginx-common (1.22) ...
error: of the one before
Setting up nginx (1.22) ...
Upgrading binary: nginx.
nginx: [emerg] unknown directive "wroker_processes" in /etc/nginx/nginx.conf:3
nginx: configuration file /etc/nginx/nginx.conf test failed
dpkg: error processing package nginx (--configure):
 installed nginx package post-installation script subprocess returned error exit status 1
dpkg: dependency problems prevent configuration of nginx-extras:
 nginx-extras depends on nginx; however:
  Package nginx is not configured yet.

dpkg: error processing package nginx-extras (--configure):
 dependency problems - leaving unconfigured
Errors were encountered while processing:
 nginx
 nginx-extras
E: Sub-process /usr/bin/dpkg returned an error code (1)
""",
    ),
    "a postinst that wants an answer": (
        UpgradeStatus.FAILED,
        "grub-pc: installed grub-pc package post-installation script subprocess returned error "
        "exit status 1: You must correct your GRUB install devices before proceeding:",
        "grub-pc",
        """\
Setting up grub-pc (2.12-9+deb13u4) ...
Replacing config file /etc/default/grub with new version
grub-pc: Running grub-install ...
You must correct your GRUB install devices before proceeding:
  DEBIAN_FRONTEND=dialog dpkg --configure grub-pc
  dpkg --configure -a
dpkg: error processing package grub-pc (--configure):
 installed grub-pc package post-installation script subprocess returned error exit status 1
E: Sub-process /usr/bin/dpkg returned an error code (1)
""",
    ),
    "a postinst that downloads": (
        UpgradeStatus.FAILED,
        "fonts: installed fonts package post-installation script subprocess returned error exit "
        "status 100: E: Failed to fetch http://fonts.example/a  Could not connect",
        "fonts",
        """\
Setting up fonts (1) ...
E: Failed to fetch http://fonts.example/a  Could not connect
dpkg: error processing package fonts:amd64 (--configure):
 installed fonts package post-installation script subprocess returned error exit status 100
E: Sub-process /usr/bin/dpkg returned an error code (1)
""",
    ),
    "a file conflict": (
        UpgradeStatus.FAILED,
        "web: trying to overwrite '/etc/x', which is also in package y 1",
        "web",
        """\
Unpacking web (2) ...
dpkg: error processing archive /var/cache/apt/archives/web_2_all.deb (--unpack):
 trying to overwrite '/etc/x', which is also in package y 1
E: Sub-process /usr/bin/dpkg returned an error code (1)
""",
    ),
    "disk full while unpacking": (
        UpgradeStatus.FAILED,
        "the guest's disk is full: cannot copy extracted data for './x' to '/x.dpkg-new': failed "
        "to write (No space left on device)",
        "web",
        """\
dpkg: error processing archive /var/cache/apt/archives/web_2_all.deb (--unpack):
 cannot copy extracted data for './x' to '/x.dpkg-new': failed to write (No space left on device)
E: Sub-process /usr/bin/dpkg returned an error code (1)
""",
    ),
    "disk full before": (
        UpgradeStatus.FAILED,
        "the guest's disk is full: You don't have enough free space in /var/cache/apt/archives/.",
        "",
        "E: You don't have enough free space in /var/cache/apt/archives/.\n",
    ),
    "interrupted before": (
        UpgradeStatus.UNFIT,
        "dpkg was interrupted, you must manually run 'dpkg --configure -a' to correct the problem.",
        "",
        "E: dpkg was interrupted, you must manually run 'dpkg --configure -a' to correct the "
        "problem. \n",
    ),
    "nothing said": (UpgradeStatus.FAILED, "apt-get exited 100", "", ""),
}


@pytest.mark.parametrize(
    ("status", "error", "package", "text"), FAILURES.values(), ids=FAILURES.keys()
)
def test_whose_fault(status: UpgradeStatus, error: str, package: str, text: str) -> None:
    failure = parse.explain(text.splitlines(), 100)
    assert (failure.status, failure.error, failure.package) == (status, error, package)


def test_an_update_that_fails_for_unknown_reasons_is_not_the_upgrades_fault() -> None:
    failure = parse.explain(["E: Something new"], 100, updating=True)
    assert (failure.status, failure.error) == (UpgradeStatus.UNAVAILABLE, "Something new")


def test_an_update_that_only_warned() -> None:
    warned = [
        "Reading package lists...",
        "W: Some index files failed to download. They have been ignored, or old ones used instead.",
        "W: Failed to fetch http://mirror.example/x  Could not connect to mirror.example:80",
    ]
    assert parse.fetch_trouble(warned) == warned[2]
    assert parse.fetch_trouble(["W: Target Packages is configured multiple times"]) == ""


def test_locks() -> None:
    held = "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 7 (apt-get)"
    assert parse.locked_out(["x", held]) == held.removeprefix("E: ")
    assert not parse.locked_out(["Waiting for cache lock: Could not get lock /var/lib/dpkg/lock"])


# --- junk -----------------------------------------------------------------------------------

WORDS = st.sampled_from(
    ["Inst ", "Remv ", "(", ")", "[", "]", "a", "1", " ", "E: ", "W: ", "dpkg: error processing ",
     "package x (--configure):", "archive /a_1_b.deb (--unpack):", "pmerror:", "pmstatus:", ":",
     "Configuration file '/etc/x'", " ==> ", "Keeping old config file", "%%m%% ", "stage ",
     "status ", "No space left on device", "\r", "\x1b[1m", "\0", "'", "é"]
)  # fmt: skip
JUNK = st.lists(st.one_of(st.text(max_size=20), st.lists(WORDS, max_size=9).map("".join)))


@given(JUNK)
def test_junk_gives_facts_or_nothing(lines: list[str]) -> None:
    for change in parse.changes_of(lines):
        assert change.name
        assert change.old or change.new
    parse.kept_back_of(lines)
    assert parse.download_size_of(lines) >= 0
    parse.prompts_of(lines)
    failure = parse.explain(lines, 100)
    assert failure.error
    assert failure.status not in (UpgradeStatus.APPLIED, UpgradeStatus.NOTHING)


@given(JUNK)
def test_only_the_mark_makes_stages(lines: list[str]) -> None:
    told = ManagerTranscript("%%other%%", lambda stage, line: None, lambda line: None)
    for line in lines:
        told.feed(line)
    assert list(told.stages) == [""]


def test_a_status_in_the_middle_of_a_line() -> None:
    seen: list[tuple[str, str]] = []
    shown: list[str] = []
    told = ManagerTranscript("%%m%%", lambda stage, line: seen.append((stage, line)), shown.append)
    for line in (
        "%%m%% stage apply",
        "(Reading database ... %%m%% status pmstatus:a:5:Preparing a",
        "(Reading database ... 5%\r(Reading database ... 12 files.)",
        "\x1b[1mbold\x1b[0m\x07",
    ):
        told.feed(line)
    assert seen == [("apply", "pmstatus:a:5:Preparing a")]
    assert shown == told.of("apply") == ["(Reading database ... 12 files.)", "bold"]


def test_sections() -> None:
    assert sections_of("x\n\n%m% stage a\n1\n\n2\n%m% stage b c\n3\n", "%m%") == {
        "": ["x"],
        "a": ["1", "2"],
        "b c": ["3"],
    }
