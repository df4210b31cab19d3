"""The proxy's rules: one spelling of every URL, and addresses that a guest may not reach."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.network.proxy.rules import (
    Addresses,
    AllowList,
    Refused,
    canonical_path,
    forbidden_address,
    parse_url,
)
from tests.support.machine.package_server import DEB, Source, get, proxy_for


@given(st.binary(max_size=300))
def test_no_bytes_break_the_url_parser(junk: bytes) -> None:
    for text in (junk.decode("latin-1"), "http://mirror.example/" + junk.decode("latin-1")):
        try:
            target = parse_url(text)
        except Refused:
            continue
        assert parse_url(target.url) == target
        assert ".." not in target.path.split("/")


@given(st.text("./%2eEfF5cC\\a", max_size=30))
def test_no_path_leaves_its_prefix(text: str) -> None:
    rules = AllowList()
    rules.add(["http://mirror.example/debian/"])
    try:
        target = parse_url("http://mirror.example/debian/" + text)
    except Refused:
        return
    rules.find(target)
    decoded = target.path
    for _ in range(5):
        decoded = decoded.replace("%25", "%").replace("%2e", ".").replace("%2f", "/")
        assert ".." not in decoded.split("/")


# --- rules ----------------------------------------------------------------------------------


def test_spellings_that_apt_uses() -> None:
    assert canonical_path("/a%2bb%7ec%3ad") == canonical_path("/a+b~c%3Ad") == "/a%2bb~c%3ad"
    assert canonical_path("/flat/././Packages") == "/flat/Packages"
    assert canonical_path("/foo_1%253a2.deb") == "/foo_1%253a2.deb"


def test_a_rule_ends_at_a_folder() -> None:
    rules = AllowList()
    rules.add(["http://User:Secret@Mirror.Example.:80/debian?x"])
    assert rules.find(parse_url("http://mirror.example/debian/pool/x")).base.path == "/debian"
    for url in ("http://mirror.example/debian2/x", "https://mirror.example/debian/x"):
        with pytest.raises(Refused, match="not a package source"):
            rules.find(parse_url(url))


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.9.9.9", "::1", "0.0.0.0", "::", "169.254.169.254", "169.254.1.1",
        "fe80::1", "224.0.0.1", "ff02::1", "255.255.255.255", "240.0.0.1", "::ffff:127.0.0.1",
        "64:ff9b::7f00:1", "2002:7f00:1::", "100.100.100.200", "fd00:ec2::254", "fe80::1%lo",
    ],
)  # fmt: skip
def test_forbidden_addresses(address: str) -> None:
    assert forbidden_address(address)


def test_public_and_private_addresses_are_fine() -> None:
    for address in ("192.0.2.7", "203.0.113.80", "198.51.100.4", "2001:db8::1", "10.255.254.253"):
        assert forbidden_address(address) == ""


def test_this_hosts_own_address_is_forbidden() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            probe.connect(("127.0.0.1", 9))
        own = probe.getsockname()[0]
    assert forbidden_address(own)


def test_a_name_is_resolved_once_and_the_checked_address_used(
    source: Source, tmp_path: Path
) -> None:
    answers = iter([["192.0.2.1", "127.0.0.1"], ["127.0.0.1"], ["127.0.0.1"]])
    addresses = Addresses(lambda host, port: next(answers))
    assert addresses.of("mirror.example", 80, operator=False) == ["192.0.2.1"]
    assert addresses.of("mirror.example", 80, operator=False) == ["192.0.2.1"]

    asked: list[str] = []

    def resolver(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"]

    base = f"http://mirror.example:{source.port}/debian/"
    with proxy_for(tmp_path, operator_allowed=[base], resolver=resolver) as proxy:
        url = f"http://mirror.example:{source.port}{DEB}"
        assert get(proxy.socket, url).status == 200
    assert source.requests[0][2]["Host"] == f"mirror.example:{source.port}"
    assert asked == ["mirror.example"]


def test_a_source_that_points_home_is_refused(source: Source, tmp_path: Path) -> None:
    base = f"http://mirror.example:{source.port}/debian/"
    with proxy_for(tmp_path, resolver=lambda host, port: ["127.0.0.1"]) as proxy:
        proxy.allow([base])
        answer = get(proxy.socket, base + "x.deb")
    assert answer.status == 403
    assert "mirror.example is the host's loopback" in answer.reason
    assert source.requests == []


def test_a_name_that_nobody_knows(tmp_path: Path) -> None:
    def resolver(host: str, port: int) -> list[str]:
        raise socket.gaierror("no such name")

    with proxy_for(tmp_path, resolver=resolver) as proxy:
        proxy.allow(["http://mirror.example/"])
        answer = get(proxy.socket, "http://mirror.example/x")
    assert (answer.status, "could not resolve" in answer.reason) == (502, True)
