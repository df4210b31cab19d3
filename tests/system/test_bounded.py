"""Calls of libvirt's that hang: a driver is left waiting for none of them, whoever hangs."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest

from sandbox.core.deadline import Deadline
from sandbox.core.errors import HostError
from sandbox.hosts.drivers import bounded as module
from sandbox.hosts.drivers.bounded import bounded
from sandbox.hosts.drivers.libvirt_base import failed
from sandbox.hosts.drivers.libvirt_xen import LibvirtXen
from sandbox.hosts.transport import HostLost, LocalHost
from tests.support.waiting import holds_soon

SOON = 0.2


class Driver:
    """One whose calls do what a test wants."""

    uri = "xen+ssh://root@a/system?keyfile=/secret"

    def __init__(self) -> None:
        self.abandoned = 0
        self.release = threading.Event()
        self.done: list[str] = []

    def abandon(self) -> None:
        self.abandoned += 1

    @bounded
    def hang(self, *_: object, deadline: Deadline | None = None) -> str:
        self.release.wait(20)
        self.done.append("hang")
        return "done"

    @bounded
    def ask(self, number: int) -> tuple[int, str]:
        return number, threading.current_thread().name

    @bounded
    def ask_inside(self) -> tuple[int, str]:
        return self.ask(7)

    @bounded
    def fail(self) -> None:
        raise ZeroDivisionError("oops")


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    monkeypatch.setattr(module, "CALL_SECONDS", SOON)
    made = Driver()
    yield made
    made.release.set()


def test_what_answers_is_passed_on(driver: Driver) -> None:
    assert driver.ask(3) == (3, "libvirt-ask")
    assert driver.ask_inside() == (7, "libvirt-ask_inside"), "one thread for both"
    with pytest.raises(ZeroDivisionError, match="oops"):
        driver.fail()
    assert driver.abandoned == 0
    assert Driver.ask.__name__ == "ask"


def test_what_hangs_is_left_and_said_of_the_host(driver: Driver) -> None:
    began = time.monotonic()
    with pytest.raises(
        HostLost, match=r"xen\+ssh://root@a/system does not answer \(hang\)"
    ) as told:
        driver.hang()
    assert time.monotonic() - began < 10
    assert "keyfile" not in str(told.value)
    assert driver.abandoned == 1


def test_the_deadline_of_a_call_is_its_own(driver: Driver) -> None:
    threading.Timer(2.5, driver.release.set).start()
    assert driver.hang(deadline=Deadline(20, "start")) == "done"
    driver.release.clear()
    with pytest.raises(HostLost):
        driver.hang(1, Deadline(0.1, "start"))


def test_an_interruption_waits_for_what_is_being_made(driver: Driver) -> None:
    """Else it would be there after everything was removed."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it is ignored
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    threading.Timer(0.8, driver.release.set).start()
    with pytest.raises(KeyboardInterrupt):
        driver.hang(deadline=Deadline(20, "start"))
    assert driver.done == ["hang"]
    assert driver.abandoned == 0


# -- libvirt's own words ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("domain", "lost"),
    [
        (libvirt.VIR_FROM_RPC, True),
        (libvirt.VIR_FROM_REMOTE, True),
        (libvirt.VIR_FROM_LIBXL, False),
    ],
)
def test_a_connection_that_broke_is_told_from_a_refusal(domain: int, lost: bool) -> None:
    class Problem(libvirt.libvirtError):  # type: ignore[misc]
        def get_error_domain(self) -> int:
            return domain

    found = failed("removing 'x'", Problem("client socket is closed"))
    assert isinstance(found, HostError)
    assert isinstance(found, HostLost) is lost


# -- a libvirtd of our own --------------------------------------------------------------------


class Daemon:
    def __init__(self, place: Path) -> None:
        self.uri = f"test+unix:///default?socket={place / 'run' / 'libvirt-sock'}"
        (place / "conf").write_text(f'unix_sock_dir = "{place / "run"}"\n')
        for name in ("run", "home"):
            (place / name).mkdir(mode=0o700)
            os.chown(place / name, 65534, 65534)
        place.chmod(0o755)
        # As nobody: it has no part in the state of the machine's own.
        self._child = subprocess.Popen(
            [
                *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
                *("libvirtd", "--config", place / "conf", "--pid-file", place / "run" / "pid"),
            ],
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(place / "home"),
                "XDG_RUNTIME_DIR": str(place / "run"),
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            assert holds_soon(lambda: listens(place / "run" / "libvirt-sock"), 30)
        except BaseException:
            self.end()
            raise

    def stop(self) -> None:
        os.kill(self._child.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self._child.pid, signal.SIGCONT)

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()


def listens(path: Path) -> bool:
    """The file alone is there a moment before."""
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with tempfile.TemporaryDirectory(prefix="sbtest-", dir="/tmp") as place:
        made = Daemon(Path(place))
        yield made
        made.end()


def test_a_libvirtd_that_is_stopped_costs_the_time_of_a_call(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From several threads at once, as a run has them; then it goes on, and so do we."""
    monkeypatch.setattr(module, "CALL_SECONDS", 1.0)
    driver = LibvirtXen(daemon.uri, libvirt.open(daemon.uri), LocalHost())
    assert driver.guests() == ("test",)
    daemon.stop()
    told: list[str] = []

    def ask() -> None:
        try:
            driver.state("test")
        except HostLost as problem:
            told.append(problem.message)

    began = time.monotonic()
    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(told) == 3
    with pytest.raises(HostLost):
        driver.guests()
    driver.close()
    assert time.monotonic() - began < 30
    daemon.go_on()
    monkeypatch.setattr(module, "CALL_SECONDS", 20.0)
    assert driver.guests() == ("test",)
    assert driver.state("test") == "running"
    driver.close()


def test_a_libvirtd_that_died_is_lost(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox.hosts.drivers.libvirt_base._RECONNECT_SECONDS", 1.0)
    driver = LibvirtXen(daemon.uri, libvirt.open(daemon.uri), LocalHost())
    daemon.end()
    for ask in (driver.guests, driver.marked_domains, lambda: driver.destroy("x", "y")):
        with pytest.raises(HostLost):
            ask()
    driver.close()
