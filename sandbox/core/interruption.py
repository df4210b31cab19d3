"""Ctrl-C, a lost terminal and SIGTERM: all end a run in the same clean way."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from types import FrameType


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Signals raise KeyboardInterrupt, once; a second one does not cut the clean-up short."""
    asked = False

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            click.echo("\nalready cleaning up; one moment", err=True)
            return
        asked = True
        raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
