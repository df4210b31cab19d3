"""The checks' process: limits first, then pytest. Run as ``python -m sandbox.checks.worker``.

Arguments: the job's file, the descriptor of the pipe for events, our parent's process id.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import resource
import shlex
import signal
import sys
from pathlib import Path

import pytest

from sandbox.checks.job import TEMPORARY, Job
from sandbox.checks.plugin import ChecksPlugin
from sandbox.checks.protocol import Channel, Event

GIB = 2**30
PR_SET_PDEATHSIG = 1  # linux/prctl.h
# Checks are code from a scenario's folder: a runaway one must not take the host with it.
# There is no limit on processes: it would count every process of this user, ours included.
LIMITS = {
    resource.RLIMIT_AS: 2 * GIB,
    resource.RLIMIT_NOFILE: 1024,
    resource.RLIMIT_CORE: 0,
    resource.RLIMIT_FSIZE: GIB // 4,
}


def limit_resources() -> None:
    """Lower our own limits, for good: a limit that is stricter already stays."""
    for kind, wanted in LIMITS.items():
        _, hard = resource.getrlimit(kind)
        value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(kind, (value, value))


def die_with_parent(parent: int) -> None:
    """End at once when the sandbox is killed: it could not end a check that hangs any more."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)  # it was killed before we could ask


def show_where_it_hangs() -> None:
    """On SIGTERM write every thread's stack to the log before dying of it."""
    log = os.fdopen(os.dup(2), "w")
    faulthandler.register(signal.SIGTERM, file=log, all_threads=True, chain=True)


def main() -> None:
    """Run the job and end the process with pytest's status."""
    die_with_parent(int(sys.argv[3]))
    limit_resources()
    show_where_it_hangs()
    job = Job.model_validate_json(Path(sys.argv[1]).read_bytes())
    os.set_inheritable(int(sys.argv[2]), False)  # nothing that a check starts may hold it open
    channel = Channel(int(sys.argv[2]), job.token)
    status = int(pytest.main(arguments(job), plugins=[ChecksPlugin(job, channel)]))
    channel.send(Event.FINISH, status=status)
    with contextlib.suppress(OSError):  # a check may have closed them
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)  # a check may have left threads behind that never end


def arguments(job: Job) -> list[str]:
    """pytest's command line: no configuration, cache or conftest from around the scenario."""
    return [
        *("-c", os.devnull),
        *("--rootdir", job.root),
        *("--confcutdir", job.root),
        *("-o", f"pythonpath={shlex.quote(job.root)}"),
        *("--basetemp", f"{job.work_dir}/{TEMPORARY}/pytest"),
        *("-p", "no:cacheprovider"),
        "--import-mode=importlib",
        "--color=no",
        "--tb=short",
        "-q",
        *job.shared,
        *job.own,
    ]


if __name__ == "__main__":
    main()
