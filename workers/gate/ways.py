"""Which way it is: what was asked for, else what there is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console

from sandbox.core.errors import RequestError
from sandbox.core.settings import read_settings
from sandbox.scenario.request import Request
from workers.gate.job import Job
from workers.gate.progress import ProgressLine
from workers.gate.values import Ending, Queue

CANCELS = "--cancel is for a CI job that asked a server: by the job it knows the run"


@dataclass(frozen=True)
class Way:
    """The one that it is."""

    name: str  # server, service, local
    gate: Callable[..., Ending]
    take_back: Callable[[], bool]


@dataclass(frozen=True)
class Ways:
    """All of them, for one wish."""

    request: Request
    job: Job
    console: Console
    fresh: bool

    def chosen(self, server: str | None, *, here: bool, local: bool) -> Way:
        """Says which one it is, and why."""
        from workers.settings import read_server

        if local:
            return self._local("as --local says")
        told = None if here else read_server(server)
        if told is not None:
            from workers.gate.server import Server

            queue = Server(told, self.request, self.job, fresh=self.fresh)
            if queue.in_the_clear:
                self._say("the token goes over plain HTTP: an eavesdropper can read it")
            return self._queued("server", queue)
        return self._service() if here else self._service_or_local()

    def _service(self) -> Way:
        from workers.context import open_service
        from workers.database import require_schema
        from workers.gate.service import DatabaseQueue

        settings, database = open_service()
        require_schema(database)
        queue = DatabaseQueue(database, settings, self.request, self.fresh, self._say)
        return self._queued("service", queue)

    def _service_or_local(self) -> Way:
        """A database without workers is no service: a job would wait for it in vain."""
        from workers.database import open_database
        from workers.gate.service import runs_here
        from workers.settings import read_service_settings

        settings = read_service_settings()
        own = settings.database.startswith(f"sqlite:///{settings.embedded}/")
        if not own:  # the user configured it
            return self._service()
        if not (settings.embedded / "truth.db").exists():
            return self._local("no service was ever started here")
        database = open_database(settings.database)
        try:
            runs = runs_here(database)
        finally:
            database.close()
        return self._service() if runs else self._local("the service does not run here")

    def _local(self, why: str) -> Way:
        from workers.gate import foreground

        def gate(seconds: float, *, leave: bool) -> Ending:
            if leave:
                raise RequestError("--leave is for a service", "without one nothing can go on")
            self._say(f"rehearsing here: {why}")
            return foreground.gate(self.request, read_settings(), seconds, self.console)

        return Way("local", gate, _refuse)

    def _queued(self, name: str, queue: Queue) -> Way:
        from workers.gate import wait

        def gate(seconds: float, *, leave: bool) -> Ending:
            self._say(f"asking {queue.where}")
            with ProgressLine(self.console) as tell:
                return wait.gate(queue, seconds, tell, leave=leave)

        def take_back() -> bool:
            with ProgressLine(self.console) as tell:
                return wait.take_back(queue, tell)

        known = queue.repeatable and bool(self.job.words) and not self.fresh
        return Way(name, gate, take_back if known else _refuse)

    def _say(self, text: str) -> None:
        self.console.print(text, markup=False, style="dim")


def _refuse() -> bool:
    raise RequestError(CANCELS, "`sandbox cancel RUN` cancels any run, on a machine of the service")
