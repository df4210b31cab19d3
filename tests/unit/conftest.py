"""A unit test starts no process, opens no socket and does not sleep: what must is in tests/system.

Only the time between two tests is not watched: fixtures of a module, and pytest itself.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import NoReturn

import pytest

from tests.support.fakes.record_fixtures import alive, running

__all__ = ["alive", "running"]

# Of sys.addaudithook, https://docs.python.org/3/library/audit_events.html
FORBIDDEN = {
    "os.exec",
    "os.fork",
    "os.forkpty",
    "os.posix_spawn",
    "os.spawn",
    "os.system",
    "pty.spawn",
    "socket.__new__",
    "subprocess.Popen",
    "time.sleep",  # since Python 3.13
}
_watched: list[str] = []
_refused: list[str] = []


class NotPure(BaseException):
    """No ``except Exception`` of the code under test may hide it."""


def _refuse(event: str, _arguments: object) -> None:
    if _watched and event in FORBIDDEN:
        _refused.append(event)
        raise NotPure(f"{_watched[-1]}: {event}: a unit test may not; move it to tests/system")


sys.addaudithook(_refuse)


@pytest.fixture(autouse=True)
def pure(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail the test where it does what a unit test may not."""

    def sleep(_seconds: float) -> NoReturn:
        _refuse("time.sleep", ())
        raise AssertionError

    monkeypatch.setattr(time, "sleep", sleep)
    _watched.append(request.node.nodeid)
    yield
    _watched.clear()
    refused = _refused.copy()
    _refused.clear()
    assert not refused, f"{refused}: a unit test may not; move it to tests/system"
