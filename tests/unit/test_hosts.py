"""hosts.yaml: strict, every problem named with its line; and who is meant by --host."""

from __future__ import annotations

import contextlib
import itertools
import json
import shlex
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.core.errors import RequestError
from sandbox.core.settings import Settings
from sandbox.hosts import transport as hosts_over_ssh
from sandbox.hosts.capacity import Limits
from sandbox.hosts.drivers.fake import FakeHypervisor
from sandbox.hosts.inventory import KnownHost, default_host, find_host, inventory, read_hosts
from sandbox.hosts.transport import RemoteHost

WHOLE = """\
hosts:
  - name: xen1
    uri: xen+ssh://root@xen1.example.org/system
    jump: admin@bastion.example.org:2222
    identity: {key}
    ssh_config: {config}
    store: lvm-thin
    place: vg0/thin
    parallel: 2
    keep_free: 4GiB
    pool_data: 80
    pool_metadata: 70
  - {{name: here, uri: "qemu:///system", parallel: 1}}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "key").write_text("a key\n")
    (tmp_path / "config").write_text("")
    path = tmp_path / "hosts.yaml"
    path.write_text(WHOLE.format(key=tmp_path / "key", config=tmp_path / "config"))
    return path


def test_a_whole_entry_is_a_uri_and_limits(file: Path) -> None:
    xen1, here = read_hosts(file)
    assert here == KnownHost("here", "qemu:///system", Limits(parallel=1))
    assert (xen1.name, xen1.kind, xen1.remote) == ("xen1", "xen", True)
    assert xen1.limits == Limits(2, 4 << 30, 80, 70, "lvm-thin", "vg0/thin")
    parts = urlsplit(xen1.uri)
    assert (parts.scheme, parts.netloc) == ("xen+ssh", "root@xen1.example.org")
    assert dict(parse_qsl(parts.query)) == {
        "jump": "admin@bastion.example.org:2222",
        "keyfile": str(file.parent / "key"),
        "ssh_config": str(file.parent / "config"),
    }


def options(argv: str) -> dict[str, str]:
    words = shlex.split(argv)
    return dict(w.split("=", 1) for flag, w in itertools.pairwise(words) if flag == "-o")


def test_all_of_it_reaches_ssh_and_libvirt_gets_the_same_ssh(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts_over_ssh, "_SOCKETS", tmp_path / "s")
    host = RemoteHost(read_hosts(file)[0].uri)
    (program,) = host.command(["true"])[:1]
    assert dict(parse_qsl(urlsplit(host.uri).query)) == {"command": program}, "nothing of ours"
    line = Path(program).read_text().splitlines()[1]
    assert line.startswith(f"exec ssh -F {tmp_path}/config ")
    given = options(line)
    assert given["IdentityFile"] == f"{tmp_path}/key"
    assert given["User"] == "root"
    way = given["ProxyCommand"]
    assert way.endswith(" -p 2222 -W '[%h]:%p' -- admin@bastion.example.org")
    assert way.startswith(f"ssh -F {tmp_path}/config ")
    assert options(way)["IdentityFile"] == f"{tmp_path}/key", "the host on the way takes it, too"
    assert options(way)["BatchMode"] == "yes"
    assert "ControlPath" not in options(way)


def test_hosts_of_one_name_behind_different_ways_share_no_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts_over_ssh, "_SOCKETS", tmp_path)
    sockets = set()
    for jump in ("a.example.org", "b.example.org", "[fe80::1]:22"):
        host = RemoteHost(f"xen+ssh://root@xen1/system?jump={jump}")
        line = Path(host.command(["true"])[0]).read_text().splitlines()[1]
        sockets.add(options(line)["ControlPath"])
    assert len(sockets) == 3
    assert options(line)["ProxyCommand"].endswith(" -p 22 -W '[%h]:%p' -- fe80::1")
    # A unix socket's path may have 107 bytes; ssh replaces %C by 40, and adds a suffix of 17.
    usual = len("/run/upgrade-sandbox/ssh/") + len(Path(sockets.pop()).name) - 2 + 40 + 17
    assert usual <= 107


WRONG = [
    ("hosts: {a: 1}", 1, "hosts: must be a list, as in [a, b], not a mapping"),
    ("host: []", 1, "host: unknown key; did you mean 'hosts'?"),
    ("hosts:\n  - uri: qemu:///system", 2, "hosts.0.name: is required: for --host: xen1"),
    ("hosts:\n  - name: a", 2, "hosts.0.uri: is required"),
    ("- {paralel: 2}", 4, "unknown key; did you mean 'parallel'?"),
    ("- {parallel: two}", 4, "parallel: must be a whole number, not 'two'"),
    ("- {parallel: 0}", 4, "parallel: 0 is too small: at least 1"),
    ("- {pool_data: 95}", 4, "pool_data: 95 is too large: at most 90"),
    ("- {pool_data: true}", 4, "pool_data: must be a whole number"),
    ("- {keep_free: 4GB}", 4, "is not a size like 512MiB or 2GiB"),
    ("- {store: lvmthin}", 4, "did you mean 'lvm-thin'?"),
    ("- {place: vg0/thin}", 4, "place: needs store"),
    ("- {store: lvm-thin, place: /srv}", 4, "needs GROUP/POOL"),
    ("- {store: reflink, place: vg0/thin}", 4, "needs a folder"),
    ("- {store: reflink, place: here}", 4, "neither GROUP/POOL nor an absolute folder"),
    ("- {jump: 'a b'}", 4, "is not a host on the way"),
    ("- {jump: '-oProxyCommand=x'}", 4, "is not a host on the way"),
    ("- {identity: /nonexistent/key}", 4, "does not exist"),
    ("- {identity: key}", 4, "is not an absolute path"),
    ("- {identity: /root/id.pub}", 4, "name the private key"),
    ("- {ssh_config: /etc}", 4, "is a folder"),
    ("- {name: a}", 4, "'a' is given twice, first in hosts.0"),
    ("- {name: 'a b'}", 4, "letters, digits and ._- are allowed"),
    ("- {uri: 'xen+ssh://root@a/system'}", 4, "is given twice, first in hosts.0"),
    ("- {uri: 'vmware://x'}", 4, "is not a URI like"),
    ("- {uri: 'xen:system'}", 4, "is not a URI like"),
    ("- {uri: 'xen+tls://x/'}", 4, "supported are"),
    ("- {uri: 'qemu+ssh://root@x/system'}", 4, "supported are"),
    ("- {uri: 'xen+ssh:///system'}", 4, "names no host"),
    ("- {uri: 'xen://x/system'}", 4, "needs +ssh"),
    ("- {uri: 'xen+ssh://root:secret@x/system'}", 4, "must not hold a password"),
    ("- {uri: 'xen+ssh://root@[x/system'}", 4, "is no URI"),
    ("- {uri: 'xen:///system', jump: x}", 4, "jump: is for hosts that are reached by ssh"),
    ("- {uri: 'xen+ssh://x/system?jump=y', jump: x}", 4, "is in the uri as well"),
    ("- {uri: 'qemu:///system', store: lvm-thin}", 4, "store: is for Xen hosts"),
    ("- hosts", 4, "must be a mapping"),
    ("- null", 4, "is empty"),
]


@pytest.mark.parametrize(("text", "line", "words"), WRONG)
def test_what_is_wrong_is_named_with_file_line_and_key(
    tmp_path: Path, text: str, line: int, words: str
) -> None:
    path = tmp_path / "hosts.yaml"
    if text.startswith("- {"):
        given = text[3:-1]
        for key, value in (("name", "b"), ("uri", "'xen+ssh://root@b/system'")):
            given += "" if f"{key}:" in given else f", {key}: {value}"
        text = f"- {{{given}}}"
    if text.startswith("- "):
        text = f"hosts:\n  - name: a\n    uri: xen+ssh://root@a/system\n  {text}"
    path.write_text(f"{text}\n")
    with pytest.raises(RequestError) as caught:
        read_hosts(path)
    assert words in caught.value.message
    assert f"{path}:{line}: " in caught.value.message
    assert caught.value.hint
    assert "secret" not in caught.value.message


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "hosts.yaml"
    path.write_text("hosts:\n  - {name: a, uri: x}\n  - {name: a, uri: y, wat: 1}\n")
    with pytest.raises(RequestError) as caught:
        read_hosts(path)
    assert caught.value.message.startswith("4 problems:\n")


NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 99)
    | st.text(max_size=8)
    | st.just("xen:///system"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["hosts", "name", "uri", "jump", "store"]), inner)
    ),
    max_leaves=12,
)


@given(content=ANYTHING)
def test_whatever_stands_there_is_hosts_or_a_request_error(
    tmp_path_factory: pytest.TempPathFactory, content: object
) -> None:
    path = tmp_path_factory.mktemp("any") / "hosts.yaml"
    path.write_text(json.dumps({"hosts": content}))
    found: tuple[KnownHost, ...] = ()
    with contextlib.suppress(RequestError):
        found = read_hosts(path)
    assert len({host.name for host in found}) == len(found)


@given(
    names=st.lists(NAMES, unique=True, max_size=4),
    parallel=st.integers(1, 1000),
    percent=st.integers(1, 90),
)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], parallel: int, percent: int
) -> None:
    lines = [
        f"  - {{name: '{name}', uri: 'xen+ssh://root@{number}.example.org/system', "
        f"parallel: {parallel}, pool_data: {percent}}}"
        for number, name in enumerate(names)
    ]
    path = tmp_path_factory.mktemp("written") / "hosts.yaml"
    path.write_text("\n".join(["hosts:", *lines] if lines else ["hosts: []"]) + "\n")
    found = read_hosts(path)
    assert [host.name for host in found] == names
    assert all(host.limits == Limits(parallel, pool_data=percent) for host in found)


# -- who is meant -----------------------------------------------------------------------------


def test_the_default_host_is_the_settings_with_the_inventorys_limits(file: Path) -> None:
    assert default_host(Settings()) == KnownHost("this machine", "qemu:///system")
    settings = Settings(hosts=file)
    assert default_host(settings).limits.parallel == 1
    other = replace(settings, uri="xen+ssh://root@other.example.org/system")
    assert default_host(other) == KnownHost("other.example.org", other.uri)
    assert inventory(Settings()) == ()


def test_a_host_is_named_or_given_as_uri(file: Path) -> None:
    settings = Settings(hosts=file)
    assert find_host(None, settings).name == "here"
    assert find_host("xen1", settings).limits.parallel == 2
    assert find_host("qemu:///system", settings).name == "here"
    assert find_host("xen:///system", settings) == KnownHost("this machine", "xen:///system")


@pytest.mark.parametrize("uri", ["qemu:///system", "xen+ssh://root@xen1.example.org/system"])
def test_the_default_host_is_found_by_its_own_name(uri: str) -> None:
    """A queued run notes the host's name, with an inventory or without."""
    settings = Settings(uri=uri)
    default = default_host(settings)
    assert find_host(default.name, settings) == default


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("xen", "did you mean 'xen1'? hosts there: xen1, here"),
        ("foo", "hosts there"),
        ("vmware://x", "or give a name"),
    ],
)
def test_an_unknown_host_is_answered_with_those_that_there_are(
    file: Path, name: str, words: str
) -> None:
    with pytest.raises(RequestError) as caught:
        find_host(name, Settings(hosts=file))
    assert words in caught.value.hint
    with pytest.raises(RequestError):
        find_host(name, Settings())


def test_a_connection_is_closed_however_its_use_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    from sandbox.hosts.inventory import connected

    hypervisor = FakeHypervisor()
    monkeypatch.setattr("sandbox.hosts.drivers.driver_for", lambda *_: hypervisor)
    with pytest.raises(ZeroDivisionError), connected(KnownHost("a", "fake:///")):
        raise ZeroDivisionError
    assert hypervisor.closed
