"""Memory that was promised to one run is not promised to the next, and starts are exclusive."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.core.deadline import Deadline
from sandbox.core.errors import DeadlineExceeded, HostError
from sandbox.hosts.admission import admitted, overhead
from tests.support.waiting import soon
from tests.unit.test_admission import GIB, MIB, host
from tests.unit.test_admission import place as place


@settings(deadline=None, max_examples=20)  # they wait for one another
@given(st.integers(1, 5), st.integers(1, 8))
def test_of_many_that_begin_at_once_as_many_start_as_fit(fitting: int, many: int) -> None:
    """In threads, as a worker has them; a start takes the host's memory bit by bit."""
    one = 512 * MIB
    xen = host(fitting * (one + overhead(one)))
    refused: list[HostError] = []
    inside: list[str] = []

    def build(run: str) -> None:
        inside.append(run)
        xen.memory -= one
        assert inside == [run], "two domains are being built at once"
        xen.memory -= overhead(one)
        inside.clear()

    def rehearse(run: str) -> None:
        try:
            with admitted(xen, run, one, 0, soon(60)) as mine:
                mine.start(lambda: build(run))
        except HostError as problem:
            refused.append(problem)

    threads = [threading.Thread(target=rehearse, args=(f"r{n}",)) for n in range(many)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == max(0, many - fitting)
    assert all("MiB free" in problem.message for problem in refused)
    assert xen.memory >= 0


def test_who_waits_too_long_for_another_start_is_told_of_the_phase() -> None:
    xen = host(8 * GIB)
    with admitted(xen, "first", GIB, 0, soon()) as first:

        def while_it_starts() -> None:
            with pytest.raises(DeadlineExceeded, match="clone"):
                admitted(xen, "second", GIB, 0, Deadline(0.3, "clone")).__enter__()

        first.start(while_it_starts)
