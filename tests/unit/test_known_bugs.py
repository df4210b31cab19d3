"""A site's list of versions that it does not want."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox.core.errors import RequestError
from sandbox.core.records import PackageChange
from sandbox.preflight.known_bugs import bug_points, read_bugs
from sandbox.preflight.points import Preflight, PreflightPoint, PreflightSeverity

LIST = """\
bugs:
  - {package: 'nginx*', versions: ['1.22.1-9+deb12u10'], text: drops connections, blocks: true}
  - {package: openssl, versions: ['3.0.2*'], text: "slow (#1234)"}
"""
CHANGES = (
    PackageChange(name="nginx-common", old="1.22.1-9", new="1.22.1-9+deb12u10"),
    PackageChange(name="nginx", old="1.22.1-9", new="1.22.1-9+deb12u11"),
    PackageChange(name="openssl", old="3.0.19-1", new="3.0.20-1"),
    PackageChange(name="openssl-tool", old="3.0.19-1", new="3.0.20-1"),
    PackageChange(name="gone", old="3.0.20-1"),
)


def test_only_versions_that_come_are_named(tmp_path: Path) -> None:
    (tmp_path / "bugs.yaml").write_text(LIST)
    points = bug_points(read_bugs(tmp_path / "bugs.yaml"), CHANGES)
    assert [(point.severity, point.text) for point in points] == [
        (PreflightSeverity.BLOCKER, "nginx-common 1.22.1-9+deb12u10: drops connections"),
        (PreflightSeverity.WARNING, "openssl 3.0.20-1: slow (#1234)"),
    ]
    note = PreflightPoint(
        severity=PreflightSeverity.NOTE, topic="packages", text="5 packages would change"
    )
    found = Preflight(guest="web01", upgrade="all updates", points=(note,)).and_also(points)
    assert found.points == (*points, note)
    assert found.blocked


def test_a_package_that_is_removed_brings_no_bugs(tmp_path: Path) -> None:
    (tmp_path / "bugs.yaml").write_text("bugs:\n  - {package: '*', versions: ['*'], text: bad}\n")
    points = bug_points(read_bugs(tmp_path / "bugs.yaml"), CHANGES)
    assert [point.text.partition(" ")[0] for point in points] == [
        *("nginx-common", "nginx", "openssl", "openssl-tool")
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("bugs:\n  - {package: nginx, versions: [], text: x}\n", "versions"),
        ("bugs:\n  - {package: nginx, text: x}\n", "versions"),
        ("bugs:\n  - {package: nginx, versions: ['1'], text: x, block: true}\n", "blocks"),
        ("bugs: {}\n", "bugs"),
        ("- a\n", "mapping"),
    ],
)
def test_a_wrong_list_is_a_wrong_request(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "bugs.yaml").write_text(text)
    with pytest.raises(RequestError) as caught:
        read_bugs(tmp_path / "bugs.yaml")
    assert said in caught.value.message
    assert "bugs.yaml" in caught.value.message


def test_a_list_that_is_not_there_is_a_wrong_request(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"bugs\.yaml"):
        read_bugs(tmp_path / "bugs.yaml")
