"""A stopped guest's disks, or plain images, served read-only by qemu-nbd.

qemu-nbd opens the image read-only and without taking QEMU's file locks, so that neither the
image's bytes nor its owner, mode or locks change. A source that is started meanwhile does start;
the run then ends as `error`, because the source's files changed under the clone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sandbox.core.deadline import Deadline
from sandbox.core.errors import HostError
from sandbox.core.process import start, tail
from sandbox.core.records import Disk
from sandbox.core.store import RunFolder
from sandbox.hosts.drivers import Export


class ReadonlyExporter:
    """One qemu-nbd process per disk, registered with the run before it can be forgotten."""

    method = "read-only export"
    consistency = "clean"

    def export(
        self, disks: Sequence[Disk], folder: RunFolder, deadline: Deadline
    ) -> tuple[Export, ...]:
        return tuple(self._serve(disk, folder, deadline) for disk in disks)

    def _serve(self, disk: Disk, folder: RunFolder, deadline: Deadline) -> Export:
        socket = folder.clone / f"{disk.target}.sock"
        log = folder.clone / f"{disk.target}.nbd.log"
        ready = folder.clone / f"{disk.target}.nbd.pid"
        with log.open("wb") as output:
            server = start(nbd_command(disk, socket, ready), output)
        folder.register(server.pid, "qemu-nbd")
        # The socket alone is there before the image was opened, and when it cannot be.
        while not ready.exists():
            if server.poll() is not None:
                said = tail(log.read_text(errors="replace"))
                raise HostError(f"{disk.path} cannot be exported: {said}")
            deadline.sleep(0.01)
        # The clone's QEMU runs as another user; the folder's mode keeps all others out.
        socket.chmod(0o666)
        return Export(disk.target, socket, disk.target, disk.size)


def nbd_command(disk: Disk, socket: Path, ready: Path) -> tuple[str, ...]:
    """qemu-nbd's argument list: always read-only, always with the stated format.

    ``ready`` is a file that it writes once it serves.
    """
    options = {
        "driver": disk.format,
        "force-share": "on",
        "read-only": "on",
        "file.driver": "host_device" if Path(disk.path).is_block_device() else "file",
        "file.filename": disk.path.replace(",", ",,"),
        "file.locking": "off",
    }
    return (
        *("qemu-nbd", "--read-only", "--persistent", "--shared=8"),
        *("--socket", str(socket), "--pid-file", str(ready), "--export-name", disk.target),
        *("--image-opts", ",".join(f"{key}={value}" for key, value in options.items())),
    )
