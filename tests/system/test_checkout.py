"""What this checkout has, and may not have: asks git and this machine's package managers."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.support.paths import ROOT

TOP_FOLDERS = {"docs", "sandbox", "workers", "scenarios", "tests"}
TOP_FILES = {"README.md", "LICENSE", "Makefile", "pyproject.toml"}
MAY_BE_THERE = {"compose.yaml"}


def tracked() -> list[Path]:
    """What git has, or would have after `git add .`; without git (an archive) every file."""
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        check=False,
    )
    if listed.returncode:
        return [path for path in ROOT.rglob("*") if path.is_file()]
    names = listed.stdout.decode().split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def test_the_top_level_is_fixed() -> None:
    relative = [path.relative_to(ROOT) for path in tracked()]
    folders = {path.parts[0] for path in relative if len(path.parts) > 1}
    files = {path.parts[0] for path in relative if len(path.parts) == 1}
    assert {name for name in folders if not name.startswith(".")} == TOP_FOLDERS
    named = {name for name in files if not name.startswith(".")}
    assert named >= TOP_FILES
    assert named <= TOP_FILES | MAY_BE_THERE


# -- nothing of this machine ------------------------------------------------------------------


def registry_hosts() -> set[str]:
    """The hosts that this machine's own package managers are told to use."""
    found = set()
    apt = Path("/etc/apt")
    files = [apt / "sources.list", *(apt / "sources.list.d").glob("*")]
    for file in files:
        if file.is_file():
            found |= set(re.findall(r"https?://([^/\s]+)", file.read_text(errors="replace")))
    asked = subprocess.run(
        [
            sys.executable,
            "-c",
            "from pip._internal.models.index import PyPI as p; print(p.url, p.file_storage_domain)",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    words = asked.stdout.split()
    found |= {re.sub(r"^https?://([^/]*).*", r"\1", word) for word in words}
    return {host for host in found if "." in host}


def test_no_package_registry_is_named() -> None:
    """Hosts come from the machine that this runs on; examples use example.org."""
    hosts = registry_hosts()
    assert hosts, "this machine has no package sources: nothing was checked"
    pattern = re.compile("|".join(map(re.escape, sorted(hosts))))
    named = [
        f"{path.relative_to(ROOT)}: {found.group()}"
        for path in tracked()
        if (found := pattern.search(path.read_text(errors="replace")))
    ]
    assert named == []


def test_no_path_of_this_checkout_is_named() -> None:
    pattern = re.compile(rf"(?<![\w.-]){re.escape(str(ROOT.parent))}/")
    named = [p for p in tracked() if pattern.search(p.read_text(errors="replace"))]
    assert named == []
