"""Whom a preflight finds running what would be replaced: its functions, in real shells."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from sandbox.preflight.parse import services_in
from tests.support.fakes.preflight_world import SHELLS, called

in_every_shell = pytest.mark.parametrize("shell", SHELLS, ids=lambda argv: argv[0])


@in_every_shell
def test_a_program_is_found_by_its_whole_path(shell: tuple[str, ...], tmp_path: Path) -> None:
    """coreutils' /bin/pr is not /usr/bin/prometheus."""
    program = tmp_path / "usr/bin/prometheus"
    program.parent.mkdir(parents=True)
    shutil.copy("/bin/sleep", program)
    (tmp_path / "coreutils.list").write_text(f"{tmp_path}/usr/bin/pr\n/bin/pr\n/usr/bin/prom\n")
    (tmp_path / "prometheus.list").write_text(f"/usr\n{program}\n")
    with subprocess.Popen([program, "60"]) as child:
        try:
            maps = f"/proc/{child.pid}/maps"
            assert maps not in called(shell, 'running "$@"', tmp_path / "coreutils.list")
            assert maps in called(shell, 'running "$@"', tmp_path / "prometheus.list")
            program.unlink()
            assert maps in called(shell, 'running "$@"', tmp_path / "prometheus.list")
        finally:
            child.kill()


@in_every_shell
def test_a_library_that_a_package_has_beneath_the_root_runs_beneath_usr(
    shell: tuple[str, ...], tmp_path: Path
) -> None:
    text = Path("/proc/self/maps").read_text()
    library = next(line for line in text.splitlines() if "libc.so" in line).split()[-1]
    owned = tmp_path / "libc6.list"
    owned.write_text(library.removeprefix("/usr") + "\n")
    assert f"/proc/{os.getpid()}/maps" in called(shell, 'running "$@"', owned)


GROUPS = {
    "hybrid": "12:freezer:/\n11:devices:/system.slice/a.service\n0::/system.slice/a.service\n",
    "unified": "0::/system.slice/system-b.slice/b@1.service\n",
    "session": "0::/user.slice/user-0.slice/session-1.scope\n",
    "gone": "",
}


@in_every_shell
def test_the_unit_is_found_in_whatever_control_group_has_it(
    shell: tuple[str, ...], tmp_path: Path
) -> None:
    for name, text in GROUPS.items():
        (tmp_path / name).mkdir()
        if text:
            (tmp_path / name / "cgroup").write_text(text)
    paths = [tmp_path / name / "maps" for name in (*GROUPS, "gone", "hybrid")]
    lines = called(shell, """printf '%s\\n' "$@" | units_of""", *paths)
    assert services_in(lines) == ("a.service", "b@1.service")


@in_every_shell
def test_the_controller_of_a_disk_is_known(shell: tuple[str, ...], tmp_path: Path) -> None:
    """As sysfs has a disk of virtio-scsi, and one of a controller that is built in."""
    host = tmp_path / "devices/pci0000:00/0000:00:05.0/virtio2"
    for path, own, module in ((host.parent, "virtio-pci", "virtio_pci"), (host, "scsi", "x_y-z")):
        (tmp_path / f"module/{module}").mkdir(parents=True)
        driver = tmp_path / f"bus/drivers/{own}"
        driver.mkdir(parents=True)
        (driver / "module").symlink_to(tmp_path / f"module/{module}")
        path.mkdir(parents=True)
        (path / "driver").symlink_to(driver)
    disk = host / "host2/target2:0:0/2:0:0:0"
    disk.mkdir(parents=True)
    (disk / "driver").symlink_to(tmp_path / "bus/drivers/virtio-pci")  # the disk's own is no matter
    built_in = tmp_path / "devices/ata1/host0/0:0:0:0"
    built_in.mkdir(parents=True)
    (tmp_path / "bus/drivers/ahci").mkdir()
    (tmp_path / "devices/ata1/driver").symlink_to(tmp_path / "bus/drivers/ahci")
    for name, device in (("sda", disk), ("sdb", built_in)):
        (tmp_path / "block" / name).mkdir(parents=True)
        (tmp_path / "block" / name / "device").symlink_to(device)
    blocks = [tmp_path / "block" / name for name in ("sda", "sdb", "sd*")]
    assert called(shell, 'host_drivers "$@"', *blocks) == ["sda x_y-z"]
    assert called(shell, 'file_names "$@"; echo; echo $#', "sda", "x_y") == ["|sda|x.y", "2"]
