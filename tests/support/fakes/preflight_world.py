"""What the preflight's tests share: its script, asking it, and what its guest is offered."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from importlib.resources import files

from sandbox.core.deadline import Deadline
from sandbox.core.process import Completed
from sandbox.managers import UpgradeRequest
from sandbox.preflight.judge import look_ahead
from sandbox.preflight.parse import GuestSurvey, parse
from sandbox.preflight.points import Preflight, PreflightSeverity
from tests.support.fakes.apt_world import AptWorld, offer_updates
from tests.support.fakes.local_shell import LocalShell

FOLDER = files("sandbox")
SCRIPT = "".join(
    (FOLDER / name).read_text() for name in ("managers/apt_restarts.sh", "preflight/preflight.sh")
)
SHELLS = [
    argv for argv in (("dash",), ("bash", "--posix"), ("busybox", "sh")) if shutil.which(argv[0])
]
MARK = "%%mark%%"
EVERYTHING = UpgradeRequest("all")


def parsed(sections: str) -> GuestSurvey:
    """Sections written as "@name" lines, after the least that a guest says."""
    return parse(f"{MARK} kernel\n6.1.0-37-amd64\n" + sections.replace("@", f"{MARK} "), MARK)


def asked(shell: LocalShell, request: UpgradeRequest, keep: Sequence[str] = ()) -> Preflight:
    def ask(script: str, arguments: Sequence[str]) -> Completed:
        answer = shell.run(script, Deadline(60, "preflight"), args=arguments)
        assert answer.stderr == ""
        return answer

    return look_ahead(ask, "web01", request, keep)


def called(interpreter: Sequence[str], words: str, *arguments: object, **env: object) -> list[str]:
    """Lines that a function of the script prints; ``words`` call it, as a shell has them."""
    script = SCRIPT.removesuffix('main "$@" </dev/null\n') + f"{words}\n"
    shell = LocalShell(interpreter, {name: str(value) for name, value in env.items()})
    answer = shell.run(
        script, Deadline(60, "preflight"), args=[str(argument) for argument in arguments]
    )
    assert answer.stderr == ""
    return answer.stdout.splitlines()


def topics(found: Preflight, severity: PreflightSeverity) -> dict[str, str]:
    return {p.topic: p.text for p in found.points if p.severity is severity}


def refresh(world: AptWorld) -> None:
    """What the guest's own apt does at some time, and the preflight never."""
    subprocess.run(
        ["apt-get", "-q", "update"], env=os.environ | world.env, check=True, capture_output=True
    )


def offered(world: AptWorld) -> None:
    """web and lib have updates, lib a security update that needs something new; one is held."""
    offer_updates(world, {"/etc/same.conf": "same\n"})
    refresh(world)
