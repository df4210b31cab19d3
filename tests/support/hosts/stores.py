"""Where the disks of a Xen guest lie, on this machine or on a Xen host, and the hand of the
administrator who made them: the same verbs for files and for volumes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from sandbox.core.records import Disk
from sandbox.core.store import this_process
from sandbox.hosts.drivers import Mark
from sandbox.hosts.drivers.clone_devices import CloneDisk
from sandbox.hosts.transport import Host
from sandbox.hosts.volumes import MadeDisks, host_disks, lvm
from sandbox.hosts.volumes.host_disks import HostDisks
from tests.support.waiting import soon

SIZE = 8 << 20
OLD, NEW = 0xA5, 0x5A  # the byte in the source at the instant, and what is written later
RUN = "20260102-030405-abcdef"
MARK = Mark(RUN, this_process(), 0, "/nowhere")
REFLINK, EXPORT = "reflink copy", "read-only export"
THIN, THICK = "thin snapshot", "thick snapshot"


@dataclass
class Images:
    """Two image files of a guest in a folder of a host's."""

    host: Host
    folder: Path
    format: str
    method: str  # by which they are cloned
    disks: list[Disk] = field(default_factory=list)
    at_the_instant: list[Path] = field(default_factory=list)  # raw copies

    def add(self, target: str, name: str) -> None:
        path = self.create(name)
        self.io(self.format, path, f"write -P {OLD} 1M 1M", f"write -P {OLD} 7M 64k")
        copy = self.folder / f"{name}.instant"
        self.run("qemu-img", "convert", "-f", self.format, "-O", "raw", path, copy)
        self.at_the_instant.append(copy)
        stated = self.format if self.is_file else "block"
        self.disks.append(host_disks.inspect(self.host, target, path, stated, soon(120)))

    def create(self, name: str) -> str:
        path = str(self.folder / f"{name}.{self.format}")
        self.run("qemu-img", "create", "-q", "-f", self.format, path, SIZE)
        return path

    @property
    def is_file(self) -> bool:
        return self.method in (REFLINK, EXPORT)

    def run(self, *argv: object, check: bool = True) -> str:
        done = self.host.run([str(word) for word in argv], soon(120), check=check)
        return done.stdout if check or done.ok else ""

    def io(self, format: str, path: str | Path, *commands: str) -> str:
        """Read and write as QEMU does, with its locks; what it said."""
        options = [word for command in commands for word in ("-c", command)]
        done = self.host.run(["qemu-io", "-f", format, *options, str(path)], soon(120), check=False)
        assert done.ok or "verification failed" in done.stdout + done.stderr, done
        return done.stdout + done.stderr

    def same(self, left: tuple[str, str | Path], right: tuple[str, str | Path]) -> bool:
        argv = ["qemu-img", "compare", "-f", left[0], "-F", right[0], left[1], right[1]]
        return self.host.run([str(word) for word in argv], soon(120), check=False).ok

    def make(self) -> MadeDisks:
        return HostDisks(self.host, room=0).make("web01", False, self.disks, MARK, soon(120))

    def remove(self) -> tuple[str, ...]:
        return host_disks.remove(self.host, RUN, soon(120))

    def used(self) -> int:
        """Bytes that the store has given away."""
        self.run("sync")
        blocks, free, size = self.run("stat", "-f", "-c", "%b %f %S", self.folder).split()
        return (int(blocks) - int(free)) * int(size)

    def left(self) -> str:
        """What there is beside the disks themselves: files, and servers of the run."""
        servers = f"grep -las {RUN} /proc/[0-9]*/cmdline | xargs -r grep -las ^qemu-nbd"
        return self.run("sh", "-c", f'ls -A -- "$1"; {servers}; :', "sh", self.folder)

    def remove_everything(self) -> None:
        self.run("rm", "-rf", *(disk.path for disk in self.disks), *self.at_the_instant)


@dataclass
class Volumes(Images):
    """Two logical volumes of a guest; ``pool`` is empty for thick ones."""

    group: str = ""
    pool: str = ""

    def create(self, name: str) -> str:
        thick = ("-W", "n", "-L", f"{SIZE}b")
        size = ("-V", f"{SIZE}b", "--thinpool", self.pool) if self.pool else thick
        self.run("lvcreate", "-q", "-y", *size, "-n", f"sbtest-{name}", self.group)
        path = f"/dev/{self.group}/sbtest-{name}"
        if not self.pool:
            self.io("raw", path, f"write -P 0 0 {SIZE}")  # whatever was there before
        return path

    def used(self) -> int:
        pools = lvm.survey(self.host, soon(120)).pools
        return sum(round(p.size * p.data / 100) for p in pools if p.name == self.pool)

    def left(self) -> str:
        return self.run("lvs", "--noheadings", "-o", "lv_name", f"@{lvm.TAG}.run={RUN}")

    def remove_everything(self) -> None:
        for disk in self.disks:
            self.run("lvremove", "-q", "-y", disk.path, check=False)
        self.run("rm", "-f", *self.at_the_instant)


def opened(disk: CloneDisk) -> tuple[str, Path]:
    """A clone's disk for QEMU's tools."""
    return ("raw" if disk.format == "block" else disk.format), disk.overlay


def expect_faithful_clones(images: Images) -> MadeDisks:
    """The source's bytes at the instant; writes stay on their side; next to no space."""
    before = images.used()
    made = images.make()
    assert [disk.target for disk in made.disks] == [disk.target for disk in images.disks]
    assert (made.consistency, made.paused_ms) == ("clean", 0)
    assert made.method == images.method
    assert bool(made.warnings) is (images.method == THICK), "what it costs is said"
    if images.method != THICK:
        assert images.used() - before < 2 << 20
    assert made.allocated < 1 << 20
    for clone, source, copy in zip(made.disks, images.disks, images.at_the_instant, strict=True):
        assert images.same(opened(clone), ("raw", copy))
        images.io(*opened(clone), f"write -P {NEW} 0 64k")
        assert not images.same(opened(clone), ("raw", copy))
        assert images.same((source.format, source.path), ("raw", copy)), "it reached the source"
    return made


def expect_a_source_that_may_write(images: Images, made: MadeDisks) -> None:
    """It can be started and written while it has a clone, which sees nothing of that."""
    images.io(images.disks[0].format, images.disks[0].path, f"write -P {NEW} 3M 64k")
    if images.method != EXPORT:  # there the run notices, and is an error
        said = images.io(*opened(made.disks[0]), "read -P 0 3M 64k")
        assert "verification failed" not in said, "the instant has moved"


def expect_to_leave_nothing(images: Images, before: str) -> None:
    """Everything of the run goes, and what goes is named."""
    removed = images.remove()
    assert len(removed) >= len(images.disks), removed
    assert images.left() == before
    assert images.remove() == ()
