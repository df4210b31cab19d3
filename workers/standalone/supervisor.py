"""Programs kept alive: started on a leash, their lines passed on, started again when they die.

One thread, so that what starts programs lives as long as the process.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence

from workers.standalone import leash
from workers.standalone.lines import Lines
from workers.standalone.programs import Program

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds before a program that died is started again
STEADY = 60.0  # seconds after which the next death counts as the first again
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LONGEST_LINE = 65536


class Pipe:
    """A leash watches the reading end: its program lives while a process holds the writing end."""

    def __init__(self) -> None:
        self.read, self.write = os.pipe()  # not inherited unless named

    def close(self) -> None:
        os.close(self.read)
        os.close(self.write)


class Kept:
    """One program on its leash, and how often it died."""

    def __init__(self, program: Program, watches: Pipe, holds: Sequence[int]) -> None:
        self.program = program
        self.wanted = True
        self.due = 0.0  # when it is started again
        self._watches = watches
        self._holds = tuple(holds)  # file descriptors that its leash keeps open
        self._leash: subprocess.Popen[bytes] | None = None
        self.output = -1
        self._rest = b""
        self._started = 0.0
        self._deaths = 0

    @property
    def running(self) -> bool:
        return self._leash is not None

    @property
    def ended(self) -> bool:
        return self._leash is not None and self._leash.poll() is not None

    @property
    def pause(self) -> float:
        return float(min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** max(0, self._deaths - 1)))

    def start(self) -> int:
        """The file descriptor that its lines come from."""
        program, pipe = self.program, self._watches.read
        interpreter = (sys.executable, "-I", "-S", leash.__file__)
        words = (str(pipe), str(program.grace), str(program.lock or ""))
        self.output, written = os.pipe()
        os.set_blocking(self.output, False)
        self._started = time.monotonic()
        self._rest = b""
        try:
            self._leash = subprocess.Popen(
                [*interpreter, *words, *program.argv],
                stdin=subprocess.DEVNULL,
                stdout=written,
                stderr=written,
                pass_fds=(pipe, *self._holds),
                start_new_session=True,  # Ctrl-C is for us, who end them in their order
            )
        finally:
            os.close(written)
        return self.output

    def read(self) -> list[bytes]:
        """The whole lines that there are by now."""
        lines: list[bytes] = []
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.output, _LONGEST_LINE):
                *whole, self._rest = (self._rest + data).split(b"\n")
                lines += whole
                if len(self._rest) > _LONGEST_LINE:
                    lines.append(self._rest)
                    self._rest = b""
        return lines

    def ask_to_end(self) -> None:
        self.wanted = False
        if self._leash is not None:
            self._leash.terminate()

    def collect(self) -> int:
        """The exit status of one that has ended; it is due again after a pause."""
        assert self._leash is not None
        status = self._leash.wait()
        self._leash = None
        os.close(self.output)
        self._deaths = 1 if time.monotonic() - self._started > STEADY else self._deaths + 1
        self.due = time.monotonic() + self.pause
        return status


class Supervisor:
    """Keeps programs alive, until it is told to stop them."""

    def __init__(self, lines: Lines) -> None:
        self.asked = 0  # how often the end was requested: Ctrl-C, SIGTERM
        self._lines = lines
        self._kept: list[Kept] = []
        self._selector = selectors.DefaultSelector()

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Signals are counted from here on, and cut waiting short."""
        heard, wake = os.pipe()
        for end in (heard, wake):
            os.set_blocking(end, False)
        before = {number: signal.signal(number, self._ask) for number in STOPPING}
        before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        self._selector.register(heard, selectors.EVENT_READ)
        try:
            yield
        finally:
            self._selector.unregister(heard)
            signal.set_wakeup_fd(-1)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(heard)
            os.close(wake)

    def _ask(self, _number: int, _frame: object) -> None:
        self.asked += 1

    def start(self, kept: Kept) -> Kept:
        self._kept.append(kept)
        self._begin(kept)
        return kept

    def _begin(self, kept: Kept) -> None:
        self._selector.register(kept.start(), selectors.EVENT_READ, kept)

    def turn(self, seconds: float = 1.0) -> None:
        """Wait for lines, ends and signals; start again what is due."""
        dues = [kept.due for kept in self._kept if kept.wanted and not kept.running]
        left = min([seconds, *(due - time.monotonic() for due in dues)])
        for key, _events in self._selector.select(max(0.0, left)):
            if key.data is None:
                os.read(key.fd, 64)
            else:
                self._pass_on(key.data)
        for kept in self._kept:
            if kept.ended:
                self._bury(kept)
            elif kept.wanted and not kept.running and time.monotonic() >= kept.due:
                self._begin(kept)

    def until(self, done: Callable[[], bool], seconds: float) -> bool:
        """Go on until something is so; false when it took too long, or the end was asked for."""
        end = time.monotonic() + seconds
        while not done():
            if time.monotonic() > end or self.asked:
                return False
            self.turn(0.1)
        return True

    def stop(self, kept: Kept) -> None:
        """Ask a program to end and wait for that; who asks us again asks it again."""
        kept.ask_to_end()
        passed_on = self.asked
        while kept.running:
            self.turn()
            if self.asked > passed_on:
                passed_on = self.asked
                kept.ask_to_end()

    def _pass_on(self, kept: Kept) -> None:
        for line in kept.read():
            self._lines.pass_on(kept.program.name, line)

    def _bury(self, kept: Kept) -> None:
        self._pass_on(kept)
        self._selector.unregister(kept.output)
        status, name = kept.collect(), kept.program.name
        if kept.wanted:
            facts = {"status": status, "seconds": kept.pause}
            self._lines.say(f"{name} died; it is started again", "warning", **facts)
        else:
            self._lines.say(f"{name} has ended", status=status)
