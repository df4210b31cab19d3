"""External programs: argument lists only, always with a deadline, failures with their output."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from sandbox.core.deadline import Deadline
from sandbox.core.errors import CommandFailed, DeadlineExceeded, ToolMissing

# Programs and the Debian package that brings them, for the hint of ToolMissing.
PACKAGE_OF = {
    "qemu-img": "qemu-utils",
    "qemu-nbd": "qemu-utils",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "nft": "nftables",
    "ip": "iproute2",
    "virt-customize": "libguestfs-tools",
    "mmdebstrap": "mmdebstrap",
}
TAIL_LINES = 12
_WIDTH = 300


@dataclass(frozen=True)
class Completed:
    """What a finished program left: text is decoded with replacement, never raising."""

    argv: tuple[str, ...]
    status: int
    stdout: str
    stderr: str

    @property
    def ok(self) -> bool:
        return self.status == 0


def run(
    argv: Sequence[str | Path],
    deadline: Deadline,
    *,
    input: bytes | None = None,
    check: bool = True,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    hint: str = "",
) -> Completed:
    """Run ``argv`` in a process group of its own and wait for it.

    Raises :class:`ToolMissing`, :class:`CommandFailed` (unless ``check`` is false) and
    :class:`DeadlineExceeded`; on the last, and on any other exception such as Ctrl-C, the
    whole process group is killed first.
    """
    args = tuple(str(a) for a in argv)
    with _explained(args[0]):
        child = subprocess.Popen(
            args,
            stdin=subprocess.DEVNULL if input is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env=None if env is None else dict(env),
            cwd=cwd,
        )
    try:
        out, err = child.communicate(input, timeout=max(0.05, deadline.remaining()))
    except BaseException as problem:
        kill_group(child.pid)
        _abandon(child)
        if isinstance(problem, subprocess.TimeoutExpired):
            raise DeadlineExceeded(
                f"{deadline.phase}: {args[0]}", deadline.seconds, hint
            ) from problem
        raise
    done = Completed(
        args, child.returncode, out.decode(errors="replace"), err.decode(errors="replace")
    )
    if check and not done.ok:
        raise CommandFailed(args, done.status, tail(f"{done.stdout}\n{done.stderr}"), hint)
    return done


def _abandon(child: subprocess.Popen[bytes]) -> None:
    """Collect a killed child without waiting for the end of its output.

    Others may have that still open: a daemon that it left, or the SSH master, to which a
    multiplexed command hands its standard streams.
    """
    child.wait()
    for stream in (child.stdin, child.stdout, child.stderr):
        if stream is not None:
            with contextlib.suppress(OSError):  # input that was never taken
                stream.close()


def start(argv: Sequence[str], output: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start a program that goes on in the background, in a process group of its own."""
    with _explained(argv[0]):
        return subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


@contextlib.contextmanager
def _explained(program: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as missing:
        package = PACKAGE_OF.get(program)
        raise ToolMissing(
            f"{program} is not installed on this host",
            f"apt install {package}" if package else "install it and try again",
        ) from missing


def kill_group(pid: int) -> None:
    """SIGKILL a process group that we started; silent when it is already gone."""
    assert pid > 1, "killpg(1) is kill(-1): it would end every process there is"
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def tail(text: str, lines: int = TAIL_LINES) -> str:
    """The last non-empty lines of a program's output, long ones cut."""
    kept = [line.rstrip() for line in text.splitlines() if line.strip()]
    return "\n".join(line if len(line) <= _WIDTH else f"{line[:_WIDTH]}…" for line in kept[-lines:])
