"""The Shell protocol on this machine, through any POSIX shell: what the guest's sshd would run."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sandbox.core.deadline import Deadline
from sandbox.core.errors import DeadlineExceeded
from sandbox.core.process import Completed, kill_group, run


class LocalShell:
    """Runs scripts with ``interpreter`` ("dash", "busybox sh") and exactly ``env``."""

    def __init__(
        self,
        interpreter: Sequence[str] = ("sh",),
        env: Mapping[str, str] | None = None,
        proxy: str = "",
    ) -> None:
        self.interpreter = tuple(interpreter)
        self.env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **(env or {})}
        self.proxy = proxy
        self.scripts: list[str] = []

    def run(self, script: str, deadline: Deadline, *, args: Sequence[str] = ()) -> Completed:
        self.scripts.append(script)
        argv = (*self.interpreter, "-s", "--", *args)
        return run(argv, deadline, input=script.encode(), check=False, env=self.env)

    def follow(
        self,
        script: str,
        deadline: Deadline,
        on_line: Callable[[str], None],
        *,
        args: Sequence[str] = (),
    ) -> int:
        self.scripts.append(script)
        child = subprocess.Popen(
            (*self.interpreter, "-s", "--", *args),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=self.env,
        )
        assert child.stdin
        assert child.stdout
        late = threading.Timer(deadline.remaining(), kill_group, args=(child.pid,))
        late.start()
        try:
            with contextlib.suppress(BrokenPipeError):  # it was killed before it had read that
                child.stdin.write(script.encode())
                child.stdin.close()
            for line in child.stdout:
                on_line(line.decode(errors="replace").removesuffix("\n"))
            status = child.wait()
        finally:
            late.cancel()
            child.stdout.close()
        if deadline.expired():
            raise DeadlineExceeded(deadline.phase, deadline.seconds)
        return status

    def put(self, local: Path, remote: str, deadline: Deadline) -> None:
        target = Path(remote)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(local, target)
        target.chmod(0o600)

    def proxy_url(self) -> str:
        return self.proxy
