"""What a clone's frames say of where it wants to go, and what it is answered."""

from __future__ import annotations

import subprocess

from sandbox.hosts.transport import LocalHost, by_text


def test_nothing_of_ours_is_found_by_programs_that_run_by_their_text() -> None:
    argv = by_text(LocalHost(), "sandbox.network.egress_listener")[:-1]
    done = subprocess.run([*argv, "import sandbox"], capture_output=True, text=True, check=False)
    assert "No module named 'sandbox'" in done.stderr
