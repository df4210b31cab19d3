"""What keeps a paused guest from standing still for ever, and is ended with the copies."""

from __future__ import annotations

import pytest

from sandbox.core.deadline import Deadline
from sandbox.core.process import run
from sandbox.hosts.volumes.pausing import PAUSE
from tests.support.fakes.xen_host import SHELLS

TIMES = 40  # of which a signal that comes too early met some three
XL = """
xl() {
    case $1 in
        domid) echo 7 ;;
        pause) return 1 ;;
    esac
}
"""


@pytest.mark.parametrize("shell", SHELLS)
def test_a_watchdog_is_ended_however_young_it_is(shell: str) -> None:
    """It would be waited for as long as it watches."""
    argv = [*(("busybox", "sh") if shell == "busybox" else (shell,)), "-c"]
    for _ in range(TIMES):
        done = run([*argv, f"{XL}{PAUSE}\nbegin web 600\n"], Deadline(60, "ending it"), check=False)
        assert done.status == 1
