"""Scenarios are read strictly: what is right is typed, what is wrong is named with its line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from sandbox.core.errors import RequestError
from sandbox.scenario import (
    ScenarioError,
    load_scenario,
    parse_upgrade,
)
from tests.support.fakes.scenario_world import FULL, SHARED, UP, load, make_folder, problems


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path)


def test_everything_that_can_be_said_is_read(folder: Path) -> None:
    scenario = load(folder, FULL, require_source=True)
    assert (scenario.name, scenario.folder) == ("web01", folder)
    assert scenario.source is not None
    image = scenario.source.image
    assert image is not None
    assert image.files == ((folder / "disk.qcow2", "qcow2"), (folder / "data.raw", "raw"))
    assert (image.memory, image.cpus, image.firmware) == (2 << 30, 4, "uefi")
    assert scenario.login.private_key() == folder / "id"
    request = scenario.upgrade.request()
    assert request.packages == ("nginx", "openssl=3.0.20-1~deb12u2", "libc6:i386")
    assert request.repositories == (
        "deb [trusted=yes] https://mirror.example/debian bookworm-proposed main contrib",
    )
    assert request.files == (folder / "local/nginx-local.deb",)
    assert scenario.reboot == "always"
    assert [path.name for path in scenario.shared_checks] == ["test_ports.py", "test_boot.py"]
    assert scenario.own_checks == (folder / "test_web.py",)
    settings = scenario.checks.settings(sudo=True)
    assert settings.ignore_ports == ("tcp/68", "8080")
    assert settings.http == ("http://127.0.0.1/",)
    assert settings.sudo
    seconds = scenario.deadlines.model_dump()
    assert (seconds["upgrade"], seconds["reboot"], seconds["verify"]) == (5400, 605, 86400)
    expected = scenario.expectations
    assert (expected.kernel, expected.must_change) == ("6.1.0-18-amd64", ("nginx*",))
    assert (expected.must_not_change, expected.allow_nothing) == (("postgresql-15",), False)
    assert scenario.memory == 512 << 20
    assert [(one.kind, one.host, one.port) for one in scenario.dependencies] == [
        ("http", "api.example", 8080),
        ("http", "10.1.2.3", 80),
        ("tcp", "db.example", 5432),
        ("smtp", "mail.example", 25),
    ]


def test_little_needs_to_be_said(folder: Path) -> None:
    scenario = load(folder, "upgrade: {what: security}\n")
    assert scenario.source is None
    assert scenario.login.user == "root"
    assert scenario.reboot == "if-needed"
    assert {path.parent for path in scenario.shared_checks} == {SHARED}
    assert len(scenario.shared_checks) == len(list(SHARED.glob("test_*.py")))
    assert scenario.expectations.kernel is None
    assert scenario.expectations.allow_nothing


def test_a_release_implies_reboot_and_newest_kernel(folder: Path) -> None:
    release = load(folder, "upgrade: {what: release, release: trixie}\n")
    assert (release.reboot, release.expectations.kernel) == ("always", "newest")
    request = release.upgrade.request()
    assert (request.release, request.describe()) == ("trixie", "the release trixie")
    assert not load(folder, UP).upgrade.request().release


def test_a_kernel_upgrade_implies_reboot_and_newest_kernel(folder: Path) -> None:
    kernel = load(folder, "upgrade: {what: kernel}\n")
    assert (kernel.reboot, kernel.expectations.kernel) == ("always", "newest")
    stated = load(folder, "upgrade: {what: kernel}\nreboot: never\n")
    assert (stated.reboot, stated.expectations.kernel) == ("never", None)
    asked = load(folder, "upgrade: {what: security}\n").with_upgrade(parse_upgrade("kernel"))
    assert (asked.reboot, asked.expectations.kernel) == ("always", "newest")


PACKAGES = "upgrade:\n  what: packages\n  packages:\n  - "

# (what follows `upgrade`, the start of the message, words in the rest of it)
BAD = [
    ("upgrad: {what: all}\n", "1: upgrad: unknown key", "did you mean 'upgrade'?"),
    ("description: x\n", "1: upgrade: is required", "what is rehearsed"),
    ("upgrade: {}\n", "1: upgrade.what: is required", "security updates only"),
    ("upgrade:\n", "1: upgrade: is empty", "give it a mapping"),
    ("upgrade: all\n", "1: upgrade: must be a mapping", "not 'all'"),
    ("upgrade:\n  what: securty\n", "2: upgrade.what: 'securty'", "did you mean 'security'?"),
    ("upgrade: {what: packages}\n", "1: upgrade.what: what: packages needs", "or files"),
    ("upgrade:\n  what: packages\n  package: [a]\n", "2: upgrade.what:", "needs packages"),
    ("upgrade:\n  what: all\n  packages: [nginx]\n", "3: upgrade.packages:", "what: packages"),
    ("upgrade:\n  what: all\n  script: up.sh\n", "3: upgrade.script:", "what: script"),
    ("upgrade: {what: script}\n", "1: upgrade.script: is required", "what: script"),
    ("upgrade: {what: release}\n", "1: upgrade.release: is required", "as in trixie"),
    ("upgrade:\n  what: all\n  release: trixie\n", "3: upgrade.release:", "what: release"),
    ("upgrade:\n  what: release\n  release: 13\n", "3: upgrade.release:", "text"),
    ("upgrade:\n  what: release\n  release: Debian 13\n", "3: upgrade.release:", "code name"),
    (
        "upgrade:\n  what: release\n  release: trixie\n  packages: [nginx]\n",
        "4: upgrade.packages:",
        "what: packages",
    ),
    ("upgrade:\n  what: script\n  script: gone.sh\n", "3: upgrade.script:", "does not exist"),
    ("upgrade:\n  what: script\n  script: /bin/sh\n", "3: upgrade.script:", "beneath"),
    ("upgrade:\n  what: script\n  script: ../x.sh\n", "3: upgrade.script:", "beneath"),
    ("upgrade:\n  what: script\n  script: out.sh\n", "3: upgrade.script:", "link that leads out"),
    ("upgrade:\n  what: script\n  script: local\n", "3: upgrade.script:", "is a folder"),
    ('upgrade:\n  what: script\n  script: "a\\0b"\n', "3: upgrade.script:", "control"),
    (
        "upgrade:\n  what: script\n  script: up.sh\n  files: [local/nginx-local.deb]\n",
        "4: upgrade.files:",
        "alone",
    ),
    (PACKAGES + "Nginx\n", "4: upgrade.packages.0: 'Nginx'", "did you mean 'nginx'?"),
    (PACKAGES + "nginx=\n", "4: upgrade.packages.0: ''", "is not a version"),
    (PACKAGES + "nginx=v1\n", "4: upgrade.packages.0: 'v1'", "is not a version"),
    (PACKAGES + "nginx-\n", "4: upgrade.packages.0: 'nginx-'", "not a package name"),
    (PACKAGES + "-oDir::Etc=x\n", "4: upgrade.packages.0:", "not a package name"),
    (PACKAGES + "3.1\n", "4: upgrade.packages.0: must be text", "quotes"),
    (PACKAGES + "nginx\n  - nginx=1.2\n", "5: upgrade.packages.1:", "named twice"),
    (PACKAGES.replace("\n  - ", " nginx\n"), "3: upgrade.packages: must be a list", "[a, b]"),
    (UP + "packages: [nginx]\n", "2: packages: unknown key", "'upgrade.packages'?"),
    (UP + "checks: {shared: [bot]}\n", "2: checks.shared.0:", "did you mean 'boot'?"),
    (UP + "checks: {sharde: []}\n", "2: checks.sharde: unknown", "did you mean 'shared'?"),
    (UP + "checks: {http: ['ftp://x/']}\n", "2: checks.http.0:", "http:// or https://"),
    (UP + "checks: {http: ['http://a:b@x/']}\n", "2: checks.http.0:", "password"),
    (UP + "checks:\n  filesystems_max_percent: 101\n", "3: checks.files", "at most 100"),
    (UP + "checks:\n  ignore: {kernel_log: ['(']}\n", "3: checks.ignore.kernel_log.0:", "regular"),
    (UP + "checks:\n  ignore: {ports: [tcp/0]}\n", "3: checks.ignore.ports.0:", "not a port"),
    (UP + "reboot: sometimes\n", "2: reboot: 'sometimes'", "known: always, if-needed, never"),
    (UP + "memory: 1GB\n", "2: memory: '1GB'", "2GiB"),
    (UP + "memory: 1KiB\n", "2: memory: '1KiB'", "between"),
    (UP + "deadlines: {boot: 5min}\n", "2: deadlines.boot: '5min'", "10m or 1h30m"),
    (UP + "deadlines: {boot: 0}\n", "2: deadlines.boot: 0", "between"),
    (UP + "deadlines: {boot: true}\n", "2: deadlines.boot: True", "not a time"),
    (UP + "deadlines: {bot: 1}\n", "2: deadlines.bot: unknown", "did you mean 'boot'?"),
    (UP + "login: {inject: yes}\n", "2: login.inject: must be true or false", "'yes'"),
    (UP + "login: {key: gone}\n", "2: login.key:", "does not exist"),
    (UP + "login: {key: id.pub}\n", "2: login.key:", "public half"),
    (UP + "login: {key: ~no-such-user/id}\n", "2: login.key:", "no such home"),
    (UP + "login: {user: -oProxyCommand=x}\n", "2: login.user:", "not a user name"),
    (UP + "login: {port: 70000}\n", "2: login.port: 70000", "at most 65535"),
    (UP + "login: {port: '22'}\n", "2: login.port: must be a whole number", "'22'"),
    (UP + "expect: {kernel: newst}\n", "2: expect.kernel: 'newst'", "did you mean 'newest'?"),
    (UP + "expect: {kernel: newest}\nreboot: never\n", "2: expect.kernel:", "reboot: never"),
    ("upgrade: {what: kernel}\nexpect: {kernel: unchanged}\n", "2: expect.kernel:", "contradicts"),
    (UP + "expect: {change: [a], keep: [b, a]}\n", "2: expect.keep.1: 'a'", "cannot do both"),
    (UP + "expect: {keep: ['a b']}\n", "2: expect.keep.0:", "pattern"),
    (UP + "dependencies: {tcp: 'a:1'}\n", "2: dependencies: must be a list", "a mapping"),
    (UP + "dependencies: [{}]\n", "2: dependencies.0: needs one of", "http, tcp, smtp"),
    (UP + "dependencies: [{tcp: 'a:1', smtp: a}]\n", "2: dependencies.0: needs one of", "smtp"),
    (UP + "dependencies: [{htp: 'http://a'}]\n", "2: dependencies.0.htp: unknown", "'http'?"),
    (UP + "dependencies: [{http: 'https://a'}]\n", "2: dependencies.0.http:", "only http:"),
    (UP + "dependencies: [{http: 'http://a:70000'}]\n", "2: dependencies.0.http:", "URL"),
    (UP + "dependencies: [{tcp: db}]\n", "2: dependencies.0.tcp: 'db' names no port", "HOST:PORT"),
    (UP + "dependencies: [{tcp: 'db:0'}]\n", "2: dependencies.0.tcp: 'db:0' is not", "HOST:PORT"),
    (UP + "dependencies: [{tcp: 'd b:1'}]\n", "2: dependencies.0.tcp: 'd b' is not a", "name"),
    (UP + "dependencies: [{tcp: '10.1.2:1'}]\n", "2: dependencies.0.tcp:", "IPv4 address"),
    (UP + "dependencies: [{tcp: '127.0.0.1:1'}]\n", "2: dependencies.0.tcp:", "elsewhere"),
    (UP + "dependencies: [{tcp: '198.19.0.1:1'}]\n", "2: dependencies.0.tcp:", "elsewhere"),
    (UP + "dependencies: [{smtp: 'm:'}]\n", "2: dependencies.0.smtp: 'm:' is not", "HOST:PORT"),
    (UP + "source: {}\n", "2: source: needs guest or image", "--guest"),
    (UP + "source: {guest: a, host: 'x y'}\n", "2: source.host: 'x y': letters", "digits"),
    (UP + "source: {host: xen1}\n", "2: source.host: needs guest", "this machine"),
    (UP + "source: {guest: 'a/b'}\n", "2: source.guest: 'a/b' holds '/'", "allowed"),
    (UP + "source: {gest: web01}\n", "2: source.gest: unknown", "did you mean 'guest'?"),
]
REPOSITORIES = [
    ("deb-src https://mirror.example/debian s main", "begins with 'deb-src'"),
    ("deb ftp://mirror.example/debian s main", "http:// or https://"),
    ("deb https://mirror.example/debian s", "needs a component"),
    ("deb https://mirror.example/debian ./ main", "takes no components"),
    ("deb https://me:pw@mirror.example/debian s main", "password"),
    ("deb https://mirror.example/debian?a=b s main", "query"),
    ("deb https:///debian s main", "no valid host"),
    ("deb https://mirror.example:99999/debian s main", "not a URL"),
    ("deb [truste=yes] https://mirror.example/debian s main", "did you mean 'trusted'?"),
    ("deb [trusted] https://mirror.example/debian s main", "needs a value"),
    ("deb https://mirror.example/debian s $(reboot)", "suite or component"),
    ("deb https://mirror.example/debian", "is not a line like"),
    ("Types: deb", "is not a line like"),
]


@pytest.mark.parametrize(("text", "start", "words"), BAD)
def test_a_mistake_is_named_with_line_key_and_remedy(
    folder: Path, text: str, start: str, words: str
) -> None:
    (folder / "out.sh").symlink_to("/bin/sh")
    found = problems(folder, text)
    assert [p for p in found if p.startswith(start) and words in p], found


@pytest.mark.parametrize(("line", "words"), REPOSITORIES)
def test_a_bad_repository_is_named(folder: Path, line: str, words: str) -> None:
    text = f"upgrade:\n  what: all\n  repositories:\n  - {line!r}\n"
    (found,) = problems(folder, text)
    assert found.startswith("4: upgrade.repositories.0: ")
    assert words in found


@pytest.mark.parametrize(
    ("text", "start", "words"),
    [
        (
            "  guest: web01\n  image: {path: disk.qcow2, format: qcow2}\n",
            "3: source.image:",
            "both",
        ),
        ("  image: {path: disk.qcow2}\n", "2: source.image.format: is required", "never probed"),
        ("  image: {path: disk.qcow2, format: qcow}\n", "2: source.image.format:", "'qcow2'?"),
        ("  image: {path: gone, format: raw}\n", "2: source.image.path:", "does not exist"),
        ("  image: {path: disk.qcow2, format: raw, cpu: 2}\n", "2: source.image.cpu:", "'cpus'?"),
        (
            "  image:\n    path: id\n    format: raw\n    machine: q35\n    disk_bus: ide\n",
            "6: source.image.disk_bus:",
            "use sata",
        ),
        (
            "  image:\n    path: id\n    format: raw\n    disks:\n    - {path: id, format: raw}\n",
            "6: source.image.disks.0.path:",
            "given twice",
        ),
    ],
)
def test_a_bad_source_is_named(folder: Path, text: str, start: str, words: str) -> None:
    found = problems(folder, f"source:\n{text}{UP}")
    assert [p for p in found if p.startswith(start) and words in p], found


def test_all_problems_are_listed_in_the_order_of_the_file(folder: Path) -> None:
    text = (
        "source: {guest: web01, image: {path: gone, format: raw}}\n"
        "login: {user: 'a b', prt: 22}\n"
        "upgrade:\n  what: all\n  packages: [nginx, NGINX]\n"
        "reboot: never\n"
        "expect: {kernel: newest}\n"
    )
    found = problems(folder, text)
    assert [problem.partition(": ")[0] for problem in found] == list("1122557")
    assert "did you mean 'port'?" in found[3] + found[2]


def test_a_source_can_be_demanded(folder: Path) -> None:
    assert problems(folder, UP, require_source=True) == [
        "1: source: is required: {guest: NAME}, or an image"
    ]


def test_own_checks_must_lie_in_the_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.py").write_text("")
    (folder / "test_out.py").symlink_to(tmp_path / "elsewhere.py")
    (found,) = problems(folder, UP)
    assert "test_out.py" in found
    assert "leads out" in found


def test_link_loops_and_dead_links_are_refused(folder: Path) -> None:
    (folder / "loop.sh").symlink_to("loop.sh")
    (folder / "dead.sh").symlink_to("nowhere")
    for name in ("loop.sh", "dead.sh", "x" * 300):
        text = f"upgrade:\n  what: script\n  script: {name}\n"
        assert problems(folder, text)[0].startswith("3: upgrade.script: ")


def test_a_scenario_may_be_named_by_its_file(folder: Path) -> None:
    load(folder, UP)
    assert load_scenario(folder / "scenario.yaml", shared=SHARED).name == "web01"


def test_a_wrong_folder_is_answered_with_the_nearest(folder: Path) -> None:
    load(folder, UP)
    with pytest.raises(RequestError, match=r"did you mean '.*/web01'\?"):
        load_scenario(folder.parent / "web1", shared=SHARED)
    with pytest.raises(RequestError, match=r"holds no scenario\.yaml"):
        load_scenario(folder / "local", shared=SHARED)
    with pytest.raises(RequestError):
        load_scenario(Path("x" * 5000), shared=SHARED)


def test_the_key_is_the_stated_the_usual_or_none(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    silent = load(folder, UP).login
    with pytest.raises(RequestError, match="inject: true"):
        silent.private_key()
    (tmp_path / ".ssh").mkdir()
    for name in ("id_rsa", "id_ed25519"):
        (tmp_path / ".ssh" / name).write_text("")
    assert silent.private_key() == tmp_path / ".ssh/id_ed25519"
    stated = load(folder, UP + "login: {key: ~/.ssh/id_rsa}\n").login
    assert stated.private_key() == tmp_path / ".ssh/id_rsa"
    assert load(folder, UP + "login: {inject: true}\n").login.private_key() is None


WORDS = st.sampled_from(
    [
        *("description", "source", "guest", "image", "path", "format", "disks", "memory", "cpus"),
        *("login", "user", "key", "port", "inject", "upgrade", "what", "packages", "files"),
        *("repositories", "script", "reboot", "checks", "shared", "http", "ignore", "units"),
        *("ports", "kernel_log", "deadlines", "boot", "expect", "kernel", "change", "keep"),
        *("all", "security", "qcow2", "newest", "never", "10m", "1GiB", "nginx", "web01", "tcp/1"),
        *("../x", "~", "~x/", "/", "\x00", "-", "deb", "(", "http://x", "http://[", "::1", ""),
    ]
) | st.text(max_size=8)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | WORDS
TREES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=20,
)
SECTIONS = st.fixed_dictionaries(
    {},
    optional={
        name: TREES | st.dictionaries(WORDS, TREES, max_size=4)
        for name in (
            *("source", "login", "upgrade", "reboot", "checks", "deadlines", "expect", "memory"),
            "description",
        )
    },
)


@given(st.dictionaries(WORDS, TREES, max_size=5) | SECTIONS)
@example({"upgrade": {"what": ["all"], "packages": {"a": 1}, "files": [[]], "script": {}}})
@example({"source": {"image": {"path": [], "disks": [[], {"path": []}]}}})
@example({"expect": {"change": [{}], "keep": [{}]}, "reboot": []})
def test_any_mapping_is_a_scenario_or_a_request_error(
    tmp_path_factory: pytest.TempPathFactory, data: dict[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    text = yaml.safe_dump(data, allow_unicode=True, default_style='"' if len(data) > 3 else None)
    try:
        scenario = load(folder, text)
    except ScenarioError as wrong:
        found = wrong.problems
    except RequestError:
        return
    else:
        scenario.checks.settings()
        scenario.upgrade.request()
        return
    assert found
    assert all(problem.startswith(f"{folder}/scenario.yaml:") for problem in found)
