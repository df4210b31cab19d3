"""What listened still listens."""

from __future__ import annotations

import time

from testinfra.host import Host

from sandbox.checks.compare import parse_listening, port_problem
from sandbox.core.deadline import Deadline
from sandbox.core.records import Observation, Port


def test_still_listens(each_port: Port, now: Observation, host: Host, patience: Deadline) -> None:
    problem = port_problem(each_port, now.ports)
    while problem and patience.remaining() > 1:
        # Measured a while ago: a service may open its port well after it was started.
        try:
            ports = parse_listening(host.socket.get_listening_sockets())
        except RuntimeError:  # a guest with neither ss nor netstat: the measurement stands
            break
        problem = port_problem(each_port, ports)
        if problem:
            time.sleep(1)
    assert not problem, problem
