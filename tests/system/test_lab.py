"""The lab's machine as far as it can be told without starting it."""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from sandbox.core.deadline import Deadline
from sandbox.core.errors import HostError
from sandbox.core.store import start_time
from sandbox.demo.lab import machine
from sandbox.demo.lab.build import LabImages
from sandbox.demo.lab.machine import GUESTS, Lab, qemu_command

IMAGES = LabImages(
    *(Path("/images") / n for n in ("xen", "linux", "initrd", "root", "data", "key"))
)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path, 22999)


def command(lab: Lab, *, guest: Path | None = None, accelerated: bool = False) -> str:
    argv = qemu_command(lab, IMAGES, lab.folder / "r", lab.folder / "d", guest, accelerated)
    return " ".join(argv)


def test_nothing_in_the_lab_reaches_out_and_only_this_machine_reaches_in(lab: Lab) -> None:
    line = command(lab)
    assert "restrict=on,hostfwd=tcp:127.0.0.1:22999-:22" in line
    assert line.count("-netdev") == 1
    assert "-nodefaults" in line


def test_xen_boots_a_kernel_with_its_initramfs(lab: Lab) -> None:
    line = command(lab)
    assert "-kernel /images/xen " in line
    assert "-initrd /images/linux root=/dev/nvme0n1 " in line
    assert line.partition("-initrd ")[2].partition(" -drive")[0].endswith(",/images/initrd")
    assert f"dom0_mem={machine.DOM0_MIB}M,max:" in line, "dom0 gives up memory to guests without it"
    assert machine.DOM0_MIB < machine.MEMORY_MIB


def test_the_cached_images_are_only_read(lab: Lab) -> None:
    """The lab writes to overlays; at the first start the guests' image is read."""
    running = command(lab)
    assert "/images/root" not in running
    assert running.count("readonly=off") == 2
    first = command(lab, guest=Path("/images/guest"))
    assert "file=/images/guest,cache=unsafe,readonly=on" in first
    assert first.count("serial=lab-") == 3


def test_without_kvm_it_is_emulated_with_svm_for_xen(lab: Lab) -> None:
    assert "-accel tcg," in command(lab)
    assert "+svm" in command(lab)
    assert "-accel kvm -cpu host,+svm" in command(lab, accelerated=True)


def test_qemu_knows_every_option(lab: Lab) -> None:
    """Started for real with files that are no images: it must get as far as those."""
    qemu = shutil.which("qemu-system-x86_64")
    assert qemu
    argv = qemu_command(lab, IMAGES, lab.folder / "r", lab.folder / "d", None, False)
    done = subprocess.run([qemu, *argv[1:]], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"Could not open '{lab.folder}/r'" in done.stderr, done.stderr


def test_ssh_reads_the_labs_configuration_and_no_other(lab: Lab) -> None:
    (lab.folder / "known_hosts").write_text("[127.0.0.1]:22999 of an older lab\n")
    machine._write_ssh(lab, Path("/images/key"))
    assert not (lab.folder / "known_hosts").exists()
    shown = subprocess.run(
        [lab.ssh_program, "-G", "xen-lab"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for line in (
        "hostname 127.0.0.1",
        "port 22999",
        "user root",
        "identityfile /images/key",
        "identitiesonly yes",
        "batchmode yes",
        "stricthostkeychecking accept-new",
        f"userknownhostsfile {lab.folder}/known_hosts",
        "globalknownhostsfile /dev/null",
    ):
        assert line in shown


def test_the_labs_uri_is_that_of_a_remote_xen_host(lab: Lab) -> None:
    parts = urlsplit(lab.uri)
    assert (parts.scheme, parts.hostname, parts.path) == ("xen+ssh", "xen-lab", "/system")
    assert parse_qs(parts.query) == {"command": [str(lab.ssh_program)]}


def test_the_guests_are_those_that_dom0_is_given() -> None:
    from lxml import etree

    from sandbox.demo.lab.build import DATA
    from sandbox.hosts.drivers.clone_xml import macs

    for name, mac in GUESTS.items():
        xml = (DATA / f"{name}.xml").read_text()
        assert etree.fromstring(xml.encode()).findtext("./name") == name
        assert macs(xml) == (mac,)


# -- is it running? ---------------------------------------------------------------------------


@pytest.mark.parametrize("text", [None, "", "x y", "1", "999999999 5", "1 0", "\0"])
def test_no_process_is_no_lab(lab: Lab, text: str | None) -> None:
    if text is not None:
        (lab.folder / "qemu.id").write_text(text)
    assert lab.pid() is None
    assert machine.down(lab) is False


def test_down_ends_the_labs_own_process_and_drops_what_was_written(lab: Lab) -> None:
    child = subprocess.Popen(["sleep", "60"])
    (lab.folder / "qemu.id").write_text(f"{child.pid} {start_time(child.pid)}\n")
    for name in ("root.qcow2", "data.qcow2", "ssh", "ssh_config", "console.log"):
        (lab.folder / name).touch()
    assert lab.pid() == child.pid
    assert machine.down(lab) is True
    assert child.wait(10) == -9
    assert [path.name for path in lab.folder.iterdir()] == ["console.log"]


def test_a_recycled_pid_is_not_the_lab(lab: Lab) -> None:
    child = subprocess.Popen(["sleep", "60"])
    try:
        (lab.folder / "qemu.id").write_text(f"{child.pid} {int(start_time(child.pid)) - 1}\n")
        assert machine.down(lab) is False
        assert child.poll() is None
    finally:
        child.kill()
        child.wait()


def test_a_lab_that_ended_is_said_at_once_with_its_reason(lab: Lab) -> None:
    (lab.folder / "qemu.log").write_text("qemu: could not open disk\n")
    with pytest.raises(HostError, match="could not open disk"):
        machine.wait_for_dom0(lab, Deadline(60, "starting the lab"))


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(HostError, match=f"port {port} of this machine is taken"):
            machine._require_free_port(port)
    machine._require_free_port(port)
