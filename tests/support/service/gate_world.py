"""`sandbox gate` for tests: as CI starts it, against a live service with pretended rehearsals, with
a connection in between that fails when it is told to."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sandbox.core.deadline import Deadline
from tests.support.service.api_world import HOST, MANY, Api, started
from tests.support.service.servers import short_folder
from tests.support.service.services import PATIENCE, service
from workers.web.auth.tokens import Scope

OF_CI = ("SANDBOX_", "GITHUB_", "CI_", "BUILD_", "JENKINS_")
GITHUB = {
    "GITHUB_ACTIONS": "true",
    "GITHUB_REPOSITORY": "example/shop",
    "GITHUB_RUN_ATTEMPT": "1",
    "GITHUB_JOB": "upgrade",
}


@dataclass
class Between:
    """A way to a server: it can be cut, and it may answer itself."""

    port: int  # of the server
    answers: list[bytes] = field(default_factory=list)  # given instead, each once
    listener: socket.socket = field(
        default_factory=lambda: socket.create_server(("127.0.0.1", 0), backlog=64)
    )
    open: list[socket.socket] = field(default_factory=list)
    asked: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def serve(self) -> None:
        with contextlib.suppress(OSError):  # the listener was closed: the end
            while True:
                client, _address = self.listener.accept()
                self.asked += 1
                threading.Thread(target=self._one, args=(client,), daemon=True).start()

    def cut(self) -> None:
        """All that there are now, in the middle of whatever they say."""
        while self.open:
            with contextlib.suppress(OSError):
                self.open.pop().shutdown(socket.SHUT_RDWR)

    def _one(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            if self.answers:
                client.recv(1 << 16)
                client.sendall(self.answers.pop(0))
                return
            with socket.create_connection(("127.0.0.1", self.port)) as server:
                self.open += [client, server]
                back = threading.Thread(target=_pump, args=(server, client), daemon=True)
                back.start()
                _pump(client, server)
                back.join()


def _pump(source: socket.socket, to: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            to.sendall(data)
    for one in (source, to):
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def between(port: int, *answers: bytes) -> Iterator[Between]:
    way = Between(port, list(answers))
    threading.Thread(target=way.serve, daemon=True).start()
    try:
        yield way
    finally:
        way.listener.shutdown(socket.SHUT_RDWR)
        way.listener.close()
        way.cut()


def answer(status: str, *headers: str, body: str = "") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return ("\r\n".join(lines) + f"\r\n\r\n{body}").encode()


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.out)
        assert told["exit_code"] == self.code
        return told


@dataclass
class Gate:
    """One that runs."""

    process: subprocess.Popen[str]
    log: Path

    def said(self, words: str) -> str:
        """Once it has said these words: all that it said."""
        deadline = Deadline(PATIENCE, f"{words!r} to be said")
        while words not in self.log.read_text():
            assert self.process.poll() is None, self.log.read_text()
            deadline.sleep(0.05)
        return self.log.read_text()

    def signal(self, number: signal.Signals) -> Done:
        self.process.send_signal(number)
        return self.done()

    def done(self) -> Done:
        out, _err = self.process.communicate(timeout=PATIENCE)
        return Done(self.process.returncode, out, self.log.read_text())


@dataclass
class Ci:
    """A machine of CI's: a folder, an environment, a server that it knows."""

    served: Api
    folder: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def environment(self, **more: str) -> dict[str, str]:
        kept = {name: v for name, v in os.environ.items() if not name.startswith(OF_CI)}
        server = {
            "SANDBOX_SERVER": f"http://127.0.0.1:{self.served.port}",
            "SANDBOX_TOKEN": self.served.token(Scope.SUBMIT),
            "SANDBOX_STATE": str(self.folder / "s"),
        }
        return {**kept, **server, **more}

    def start(self, *arguments: str, guest: str = "web01", host: str = HOST, **env: str) -> Gate:
        """Its progress goes to a file, where it can be read while it runs."""
        argv = [*(sys.executable, "-m", "workers.cli", "gate", "security", "--json")]
        return self.program(*argv, "--guest", guest, "--host", host, *arguments, **env)

    def program(self, *argv: str, **env: str) -> Gate:
        log = self.folder / f"log-{len(list(self.folder.glob('log-*')))}"
        with log.open("w") as file:
            process = subprocess.Popen(
                argv,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                cwd=self.folder,
                env=self.environment(**env),
            )
        self.started.append(process)
        return Gate(process, log)

    def gate(self, *arguments: str, guest: str = "web01", host: str = HOST, **env: str) -> Done:
        return self.start(*arguments, guest=guest, host=host, **env).done()

    def run(self, run_id: str) -> dict[str, Any]:
        told: dict[str, Any] = self.served.ask(f"/v1/runs/{run_id}").json
        return told

    def until(self, run_id: str, *states: str) -> dict[str, Any]:
        deadline = Deadline(PATIENCE, f"run {run_id} to be {states}")
        while (run := self.run(run_id))["state"] not in states:
            deadline.sleep(0.1)
        return run

    def until_there(self, guest: str) -> dict[str, Any]:
        """The one run that a guest has."""
        deadline = Deadline(PATIENCE, f"a run of {guest}")
        while not (runs := self.runs_of(guest)):
            deadline.sleep(0.1)
        (run,) = runs
        return run

    def runs_of(self, guest: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = self.served.ask(f"/v1/runs?guest={guest}").json["items"]
        return items


@contextlib.contextmanager
def ci() -> Iterator[Ci]:
    """With a worker for one of the two hosts."""
    with short_folder("sbgate-") as folder:
        given = {
            "EXECUTOR": f"simulated:{folder}/pretended?seconds=0.06",
            "API_LISTEN": "127.0.0.1:0",
            "API_RATE": MANY,
            "API_FAILURES": MANY,
            "ATTEMPTS": "1",
            "LEASE": "4",  # a worker hears of a cancelled run within a quarter of it
        }
        with service(**given) as there:
            served = started(there)
            there.start("worker", "--host", HOST, "--slots", "2")
            made = Ci(served, folder)
            try:
                yield made
            finally:
                for process in made.started:  # those of tests that failed
                    process.kill()
                    process.wait()
