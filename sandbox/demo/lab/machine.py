"""The lab's machine: one QEMU process, reached over SSH on a loopback port.

The CPU line and the disks are those that were measured to be stable and fast under emulation:
with QEMU's model "max" dom0's programs die at random, and on IDE disks write 2 MB/s.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from sandbox.core.deadline import Deadline
from sandbox.core.errors import CommandFailed, DeadlineExceeded, HostError
from sandbox.core.process import Completed, run, start
from sandbox.core.store import start_time
from sandbox.demo.lab.build import LabImages, build_lab
from sandbox.hosts.drivers.acceleration import acceleration

FOLDER = Path("/var/lib/upgrade-sandbox/lab")
PORT = 22522
# One processor would do with an eighth less of the host's time; but beside other work a write to
# its NVMe disk failed then (once in one start), which two never did.
MEMORY_MIB, DOM0_MIB, CPUS = 5120, 1536, 2
CPU = "qemu64,+svm,+npt,+ssse3,+sse4.1,+sse4.2,+popcnt,+cx16"
# Its processors wait for each other: kept from running by other work, it was 4 to 5 times slower.
NICE = -10
BOOT_SECONDS, GUEST_SECONDS, STOP_SECONDS = 900, 900, 180
_ANSWER_SECONDS, _PAUSE = 90, 2
XEN_ARGUMENTS = (
    f"console=com1 com1=115200,8n1 dom0_mem={DOM0_MIB}M,max:{DOM0_MIB}M dom0_max_vcpus={CPUS} "
    # An emulated processor has no flaws to work around; Xen's stuffing of return predictors at each
    # entry from a PV guest took a tenth of a guest's boot.
    "no-real-mode edd=off spec-ctrl=no"
)
KERNEL_ARGUMENTS = "root=/dev/nvme0n1 rw console=hvc0 quiet mitigations=off"
DISKS = ("lab-root", "lab-data")  # by QEMU's names
GUESTS = {"web01": "00:16:3e:5a:0b:01"}  # that dom0 starts by itself


@dataclass(frozen=True)
class Lab:
    """Where a lab is, running or not."""

    folder: Path = FOLDER
    port: int = PORT

    @property
    def ssh_config(self) -> Path:
        return self.folder / "ssh_config"

    @property
    def console(self) -> Path:
        return self.folder / "console.log"

    @property
    def monitor(self) -> Path:
        """A socket on which QEMU takes commands."""
        return self.folder / "qmp.sock"

    @property
    def ssh_program(self) -> Path:
        """What stands for ``ssh`` in the lab's URI: it knows the lab's key and host key."""
        return self.folder / "ssh"

    @property
    def uri(self) -> str:
        """As of any remote Xen host; libvirt runs ``command`` in place of ``ssh``."""
        return f"xen+ssh://root@xen-lab/system?command={self.ssh_program}"

    def pid(self) -> int | None:
        """The QEMU process, where it runs."""
        with contextlib.suppress(OSError, ValueError):
            pid, started = (self.folder / "qemu.id").read_text().split()
            if start_time(int(pid)) == started:
                return int(pid)
        return None

    def ssh(self, argv: tuple[str, ...], deadline: Deadline, *, check: bool = True) -> Completed:
        """Run a command in dom0."""
        return run([self.ssh_program, "xen-lab", shlex.join(argv)], deadline, check=check)


def up(lab: Lab, progress: Callable[[str], None]) -> None:
    """Build what is not cached, start it, and wait until its guests can be rehearsed.

    Raises :class:`HostError` and :class:`DeadlineExceeded`, with the console's last lines.
    """
    if lab.pid() is not None:
        progress("the lab runs already")
    else:
        images = build_lab(progress, lambda made, guest: _first_start(lab, made, guest, progress))
        if lab.pid() is None:  # they were cached
            _make_overlays(lab, images)
            progress("starting Xen (two minutes under emulation)")
            _start(lab, images, *_overlays(lab), None)
    wait_for_dom0(lab, Deadline(BOOT_SECONDS, "starting the lab"))
    for name in GUESTS:
        progress(f"waiting for the guest {name}")
        wait_for_guest(lab, name, Deadline(GUEST_SECONDS, f"starting {name}"))
    progress("the lab is up")


def down(lab: Lab) -> bool:
    """Power it off and drop what was written in it; false when it did not run."""
    pid = lab.pid()
    if pid is not None:
        os.kill(pid, signal.SIGKILL)  # its disks are throw-away overlays
        deadline = Deadline(STOP_SECONDS, "ending the lab")
        while lab.pid() is not None:
            deadline.sleep(0.1)
    own = ("root.qcow2", "data.qcow2", "qemu.id", "qmp.sock", "ssh", "ssh_config", "known_hosts")
    for name in own:
        (lab.folder / name).unlink(missing_ok=True)
    return pid is not None


def wait_for_dom0(lab: Lab, deadline: Deadline) -> None:
    """Until libvirt in dom0 answers."""
    command = ("virsh", "--quiet", "--connect", "xen:///system", "version")
    _wait(lab, command, deadline, "dom0's libvirt does not answer")


def wait_for_guest(lab: Lab, name: str, deadline: Deadline) -> None:
    """Until a guest's sshd introduces itself on production's bridge."""
    from sandbox.clone.discovery import link_local

    address = f"{link_local(GUESTS[name])}%xenbr0"
    _wait(lab, ("bash", "-c", _GREET, "bash", name, address), deadline, f"{name} has no SSH")


# Asked for a while by one connection: a new one takes an emulated host a second of work.
# libxl ends a domain whose disks were plugged in too slowly; on a busy machine that can happen to
# the guests that dom0 starts by itself, and is tried once more.
_GREET = """while [ "$SECONDS" -lt 40 ]; do
    timeout 20 bash -c "exec 3<>/dev/tcp/$2/22 && head -c 4 <&3 | grep -q SSH-" && exit
    sleep 2
done
[ "$(virsh --quiet domstate "$1")" != "shut off" ] || virsh --quiet start "$1"
echo "$1 is $(virsh --quiet domstate "$1")" >&2
exit 1
"""


def _wait(lab: Lab, command: tuple[str, ...], deadline: Deadline, what: str) -> None:
    """Ask again and again; one answer that takes too long is no answer, not the end."""
    said = ""
    while not deadline.expired():
        if lab.pid() is None:
            raise HostError(f"the lab's QEMU ended: {_tail(lab.folder / 'qemu.log')}")
        try:
            done = lab.ssh(command, deadline.within(_ANSWER_SECONDS), check=False)
            if done.ok:
                return
            said = done.stderr.strip() or done.stdout.strip()
        except DeadlineExceeded as slow:
            said = slow.message
        time.sleep(_PAUSE)
    raise HostError(
        f"{what} after {deadline.seconds:.0f} s: {said[-200:]}",
        f"its console: {lab.console}; last line: {_tail(lab.console)}",
    )


def _tail(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines() if path.exists() else []
    return lines[-1] if lines else "nothing"


def _first_start(lab: Lab, images: LabImages, guest: Path, progress: Callable[[str], None]) -> None:
    """Have a new dom0 make its volumes; it runs on, on overlays over what it has written."""
    _start(lab, images, images.root, images.data, guest)
    try:
        wait_for_dom0(lab, Deadline(BOOT_SECONDS, "the first start of the lab"))
        progress("dom0 is up; making volumes and guests")
        lab.ssh(("lab-provision",), Deadline(BOOT_SECONDS, "provisioning the lab"))
        _go_on_with_overlays(lab)
    except CommandFailed as problem:
        down(lab)
        raise HostError(f"the lab cannot be provisioned: {problem.tail}", "report it") from problem
    except BaseException:
        down(lab)
        raise


def _overlays(lab: Lab) -> tuple[Path, Path]:
    """What the running lab writes to."""
    return lab.folder / "root.qcow2", lab.folder / "data.qcow2"


def _make_overlays(lab: Lab, images: LabImages) -> None:
    lab.folder.mkdir(parents=True, exist_ok=True)
    for backing, overlay in zip((images.root, images.data), _overlays(lab), strict=True):
        overlay.unlink(missing_ok=True)
        run(
            ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", backing, overlay],
            Deadline(60, "making the lab's disks"),
        )


def _go_on_with_overlays(lab: Lab) -> None:
    """From now on the images stay as they are: synced, and clean for any later start."""
    for disk, overlay in zip(DISKS, _overlays(lab), strict=True):
        overlay.unlink(missing_ok=True)
        _tell_qemu(
            lab,
            "blockdev-snapshot-sync",
            {"device": disk, "snapshot-file": str(overlay), "format": "qcow2"},
        )


def _tell_qemu(lab: Lab, command: str, arguments: dict[str, str]) -> None:
    """One command of QEMU's machine protocol (docs/interop/qmp-spec); raises :class:`HostError`."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_ANSWER_SECONDS)
        connection.connect(str(lab.monitor))
        with connection.makefile("rw") as stream:
            asked = {"execute": command, "arguments": arguments}
            for line in ({"execute": "qmp_capabilities"}, asked):
                stream.write(json.dumps(line) + "\n")
                stream.flush()
                answer = _answer(stream)
                if "error" in answer:
                    raise HostError(f"QEMU refused {command}: {answer['error']['desc']}")


def _answer(stream: TextIO) -> dict[str, Any]:
    """The next line that is neither the greeting nor an event."""
    for line in stream:
        said: dict[str, Any] = json.loads(line)
        if "return" in said or "error" in said:
            return said
    raise HostError("QEMU ended", "see qemu.log in the lab's folder")


def _start(lab: Lab, images: LabImages, root: Path, data: Path, guest: Path | None) -> None:
    lab.folder.mkdir(parents=True, exist_ok=True)
    _write_ssh(lab, images.key)
    lab.console.unlink(missing_ok=True)
    _require_free_port(lab.port)
    argv = qemu_command(lab, images, root, data, guest, acceleration() == "kvm")
    with (lab.folder / "qemu.log").open("wb") as log:
        child = start(("nice", "-n", str(NICE), *argv), log)
    # Where the kernel shares the processors out by sessions, niceness counts within one only.
    with contextlib.suppress(OSError):
        Path(f"/proc/{child.pid}/autogroup").write_text(str(NICE))
    (lab.folder / "qemu.id").write_text(f"{child.pid} {start_time(child.pid)}\n")


def qemu_command(
    lab: Lab, images: LabImages, root: Path, data: Path, guest: Path | None, accelerated: bool
) -> tuple[str, ...]:
    """QEMU's argument list; pure."""
    engine = ("kvm", "host,+svm") if accelerated else ("tcg,thread=multi,tb-size=512", CPU)
    disks = [(DISKS[0], root, "off"), (DISKS[1], data, "off")]
    disks += [("lab-guest", guest, "on")] if guest else []
    drives: list[str] = []
    for name, path, readonly in disks:
        drive = f"id={name},if=none,format=qcow2,file={path},cache=unsafe,readonly={readonly}"
        drives += [
            *(
                "-drive",
                drive,
            ),
            *("-device", f"nvme,drive={name},serial={name}"),
        ]
    return (
        *("qemu-system-x86_64", "-name", "upgrade-sandbox-lab", "-machine", "q35"),
        *("-accel", engine[0], "-cpu", engine[1], "-smp", str(CPUS), "-m", str(MEMORY_MIB)),
        *("-nodefaults", "-no-user-config", "-display", "none"),
        *("-kernel", str(images.hypervisor), "-append", XEN_ARGUMENTS),
        *("-initrd", f"{images.kernel} {KERNEL_ARGUMENTS},{images.initrd}"),
        *drives,
        # restrict: nothing in the lab reaches the network of this machine.
        *("-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{lab.port}-:22"),
        *("-device", "virtio-net-pci,netdev=net,iommu_platform=on,disable-legacy=on"),
        *("-object", "rng-random,id=rng,filename=/dev/urandom"),
        *("-device", "virtio-rng-pci,rng=rng,iommu_platform=on,disable-legacy=on"),
        *("-serial", f"file:{lab.console}"),
        *("-qmp", f"unix:{lab.monitor},server=on,wait=off"),
    )


def _write_ssh(lab: Lab, key: Path) -> None:
    # Of a lab that ended without `down`: this one may be newer, with another host key.
    (lab.folder / "known_hosts").unlink(missing_ok=True)
    lab.ssh_config.write_text(
        "Host xen-lab\n"
        "  HostName 127.0.0.1\n"
        f"  Port {lab.port}\n"
        "  User root\n"
        f"  IdentityFile {key}\n"
        "  IdentitiesOnly yes\n"
        "  BatchMode yes\n"
        "  ConnectTimeout 20\n"
        "  HostKeyAlias xen-lab\n"
        "  StrictHostKeyChecking accept-new\n"
        f"  UserKnownHostsFile {lab.folder}/known_hosts\n"
        "  GlobalKnownHostsFile /dev/null\n"
        "  LogLevel ERROR\n"
    )
    lab.ssh_program.write_text(f'#!/bin/sh\nexec ssh -F {lab.ssh_config} "$@"\n')
    lab.ssh_program.chmod(0o755)


def _require_free_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as problem:
            raise HostError(
                f"port {port} of this machine is taken: {problem.strerror}",
                "end what uses it (another lab?): ss -ltnp",
            ) from problem
