"""LVM itself, on a loop device and without the device mapper: it keeps its metadata and allows,
refuses and reports as ever, but activates nothing. Thin pools need the device mapper.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from sandbox.doctor.xen_report import script
from sandbox.hosts.transport import LocalHost
from sandbox.hosts.volumes import lvm
from tests.support.fakes.lvm_world import MARK, MIB, RUN
from tests.support.waiting import soon


@dataclass(frozen=True)
class RealLvm:
    group: str

    def lvm(self, *argv: str) -> None:
        subprocess.run(argv, check=True, capture_output=True)

    def volume(self, name: str, *argv: str, size: str = "4M") -> None:
        """A volume that nothing is read from or written to: there are no devices."""
        self.lvm("lvcreate", "-an", "-Zn", "-Wn", "-L", size, "-n", name, *argv, self.group)

    def names(self) -> set[str]:
        shown = subprocess.run(
            ["lvs", "--noheadings", "-o", "lv_name", self.group],
            check=True,
            capture_output=True,
            text=True,
        )
        return set(shown.stdout.split())


@pytest.fixture
def real_lvm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RealLvm]:
    """A group of its own on a loop device; LVM is told to look at no other."""
    backing = tmp_path / "backing"
    with backing.open("wb") as file:
        file.truncate(64 * MIB)
    made = subprocess.run(
        ["losetup", "--find", "--show", backing], check=True, capture_output=True, text=True
    )
    device, group = made.stdout.strip(), f"sbtest{os.getpid()}"
    try:
        (tmp_path / "lvm.conf").write_text(
            f'devices {{ use_devicesfile=0 global_filter=[ "a|^{device}$|", "r|.*|" ] }}\n'
            f'global {{ activation=0 locking_dir="{tmp_path}/lock" }}\n'
            "backup { backup=0 archive=0 }\n"
        )
        monkeypatch.setenv("LVM_SYSTEM_DIR", str(tmp_path))
        monkeypatch.setenv("LVM_SUPPRESS_FD_WARNINGS", "1")
        lab = RealLvm(group)
        lab.lvm("vgcreate", "--yes", group, device)
        yield lab
        lab.lvm("vgremove", "--yes", group)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


def test_lvm_takes_and_gives_back_any_mark(real_lvm: RealLvm) -> None:
    mark = replace(MARK, folder="/srv/my runs/100%, ä#23/clones/x")
    real_lvm.volume("one", *(word for tag in lvm.tags(mark) for word in ("--addtag", tag)))
    real_lvm.volume("other")
    ((volume, found),) = lvm.marked(LocalHost(), soon())
    assert found == mark
    assert (volume.group, volume.name, volume.size) == (real_lvm.group, "one", 4 * MIB)
    assert volume.group_free > 0


def test_lvm_removes_a_volume_in_pieces_and_no_other(real_lvm: RealLvm) -> None:
    add = [word for tag in lvm.tags(MARK) for word in ("--addtag", tag)]
    real_lvm.volume("ours", *add)
    real_lvm.volume("production", "--addtag", "upgrade-sandbox")
    real_lvm.lvm("lvextend", "-L", "12M", f"{real_lvm.group}/ours")  # past the other: two pieces
    assert lvm.remove(LocalHost(), RUN, soon()) == (f"volume {real_lvm.group}/ours",)
    assert real_lvm.names() == {"production"}
    assert lvm.remove(LocalHost(), RUN, soon()) == ()


def test_a_volume_that_somebody_else_removed_meanwhile_is_gone(real_lvm: RealLvm) -> None:
    gone = lvm.Volume(real_lvm.group, "gone", 4 * MIB, "", 0)
    lvm._remove(LocalHost(), gone, soon())
    assert real_lvm.names() == set()


def test_a_survey_of_real_volumes(real_lvm: RealLvm) -> None:
    real_lvm.volume("web-01", size="8M")
    seen = lvm.survey(LocalHost(), soon())
    volume = seen.by_path[f"/dev/{real_lvm.group}/web-01"]
    assert (volume.name, volume.size, volume.pool, volume.tags) == ("web-01", 8 * MIB, "", ())
    assert seen.by_path[f"/dev/mapper/{real_lvm.group}-web--01"] == volume
    assert seen.pools == ()


def test_lvm_knows_every_field_that_doctor_asks_for(real_lvm: RealLvm) -> None:
    """One unknown word, and the whole report is refused."""
    real_lvm.volume("web-01")
    command = "lvs --reportformat" + script().split("lvs --reportformat")[1].split("\nsection")[0]
    shown = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    (row,) = lvm.parse_report(shown.stdout[shown.stdout.index("{") :])
    assert lvm.parse_pool(row).trouble == ""
    assert row["lv_permissions"] == "unknown", "it is not active here"
