"""The shared checks themselves, run against a real sshd. (What they decide: compare.)"""

from __future__ import annotations

import http.server
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sandbox.checks import CheckSettings
from sandbox.checks.answers import ask, discover, url_of
from sandbox.checks.connection import CheckConnection
from sandbox.checks.runner import run_checks
from sandbox.core.deadline import Deadline
from sandbox.core.records import (
    CheckEnd,
    CheckResult,
    CheckSession,
    Observation,
    Package,
)
from tests.support.fakes.check_samples import filesystem, seen, tcp
from tests.support.machine.sshd import Sshd, free_port, running_sshd
from tests.support.paths import ROOT

SHARED = ROOT / "scenarios" / "shared"


class Statuses(http.server.BaseHTTPRequestHandler):
    """Answers what its server is set to."""

    def do_GET(self) -> None:
        assert isinstance(self.server, Web)
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Not into the test's output."""


class Web(http.server.ThreadingHTTPServer):
    status = 200


@contextmanager
def web(certificate: Path | None = None) -> Iterator[Web]:
    server = Web(("127.0.0.1", 0), Statuses)
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


SYSTEMCTL = """#!/bin/sh
# Stands in for the guest's systemd, which these tests cannot boot: the unit late.service comes
# up at the third question.
echo "$*" >>"$0.asked"
case "$*" in
    *late.service*)
        if [ "$(grep -c late.service "$0.asked")" -lt 3 ]; then state=activating; sub=start
        else state=active; sub=running; fi
        printf 'LoadState=loaded\\nActiveState=%s\\nSubState=%s\\n' "$state" "$sub" ;;
    *nginx.service*) printf 'LoadState=loaded\\nActiveState=failed\\nSubState=failed\\n' ;;
    *NRestarts*loop.service*) grep -c NRestarts "$0.asked" ;;
    *NRestarts*) echo 1 ;;
    is-system-running)
        if [ "$(grep -c is-system "$0.asked")" -lt 2 ]; then echo starting; exit 1; fi
        echo running ;;
    *) exit 1 ;;
esac
"""


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    folder = tmp_path_factory.mktemp("sshd")
    (folder / "bin").mkdir()
    (folder / "bin" / "systemctl").write_text(SYSTEMCTL)
    (folder / "bin" / "systemctl").chmod(0o755)
    with running_sshd(folder, search=f"{folder}/bin:/usr/sbin:/usr/bin:/sbin:/bin") as running:
        yield running


@pytest.fixture
def asked(sshd: Sshd) -> Path:
    """What systemctl was asked in this test."""
    path = sshd.folder / "bin" / "systemctl.asked"
    path.write_text("")
    return path


Run = Callable[..., CheckSession]


@pytest.fixture
def check(sshd: Sshd, asked: Path, tmp_path: Path) -> Run:
    def go(
        names: str,
        current: Observation,
        baseline: Observation | None = None,
        **settings: object,
    ) -> CheckSession:
        return run_checks(
            files=[],
            shared=[SHARED / f"test_{name}.py" for name in names.split()],
            ssh_config=sshd.ssh_config,
            host="clone",
            phase="before" if baseline is None else "after",
            baseline=baseline,
            current=current,
            settings=CheckSettings.model_validate({"settle_seconds": 6, **settings}),
            work_dir=tmp_path / "run",
            deadline=Deadline(60, "checks"),
            on_result=lambda result: None,
        )

    return go


def not_passed(session: CheckSession) -> dict[str, str]:
    assert session.end is CheckEnd.COMPLETE, session.message
    return {r.name: r.message for r in session.results if r.outcome.value != "passed"}


def result_of(session: CheckSession, name: str) -> CheckResult:
    return next(result for result in session.results if result.name == name)


EVERY = " ".join(sorted(path.stem.removeprefix("test_") for path in SHARED.glob("test_*.py")))


def test_a_healthy_guest_passes_every_shared_check_in_both_phases(check: Run) -> None:
    before = seen()
    first, second = check(EVERY, before), check(EVERY, before, before)
    assert not_passed(first) == {}
    assert not_passed(second) == {}
    names = [result.name for result in first.results]
    assert names == [result.name for result in second.results]
    assert set(names) == {
        "shared/test_boot.py::test_default_target_is_reached",
        "shared/test_boot.py::test_start_is_not_much_slower",
        "shared/test_boot.py::test_system_state_is_no_worse",
        "shared/test_filesystems.py::test_has_room[/]",
        "shared/test_filesystems.py::test_has_room[/boot]",
        "shared/test_http.py::test_ports_that_spoke_http_still_do",
        "shared/test_kernel.py::test_newest_installed_kernel_runs",
        "shared/test_kernel_log.py::test_no_new_errors",
        "shared/test_packages.py::test_nothing_is_half_configured",
        "shared/test_ports.py::test_still_listens[tcp/0.0.0.0:22]",
        "shared/test_ports.py::test_still_listens[tcp/0.0.0.0:80]",
        "shared/test_services.py::test_services_still_run",
        "shared/test_units.py::test_no_new_failed_units",
        "shared/test_units.py::test_nothing_is_started_again_and_again",
        "shared/test_units.py::test_what_runs_is_still_enabled",
    }


def test_a_broken_upgrade_fails_each_check_with_one_human_sentence(check: Run) -> None:
    before = seen()
    check("boot http", before)
    after = seen(
        state="degraded",
        target_reached=False,
        failed_units=("nginx.service",),
        packages={"nginx:amd64": Package(version="1.24", status="half-configured")},
        units={"nginx.service": "failed/failed", "ssh.service": "active/running"},
        ports=(tcp(22),),
        filesystems=(filesystem("/", 99), filesystem("/boot", 30)),
        kernels=("6.1.0-31-amd64", "6.1.0-32-amd64"),
        kernel_errors=("ata9: failed to resume link (SControl 1)", "EXT4-fs error: bad block"),
    )
    broken = not_passed(check(EVERY, after, before, settle_seconds=2))
    assert broken == {
        "shared/test_boot.py::test_default_target_is_reached": (
            "the guest did not reach graphical.target"
        ),
        "shared/test_boot.py::test_system_state_is_no_worse": (
            "the system was running before and is degraded now: nginx.service failed"
        ),
        "shared/test_filesystems.py::test_has_room[/]": (
            "/ is 99 % full (10 MiB free), more than 95 %"
        ),
        "shared/test_kernel.py::test_newest_installed_kernel_runs": (
            "6.1.0-32-amd64 is the newest installed kernel, but 6.1.0-31-amd64 runs"
        ),
        "shared/test_kernel_log.py::test_no_new_errors": (
            "the kernel log has a new error: EXT4-fs error: bad block"
        ),
        "shared/test_packages.py::test_nothing_is_half_configured": (
            "nginx:amd64 is half-configured"
        ),
        "shared/test_ports.py::test_still_listens[tcp/0.0.0.0:80]": (
            "nothing listens on port 80/tcp of nginx any more"
        ),
        "shared/test_services.py::test_services_still_run": (
            "nginx.service was active before and is failed now"
        ),
        "shared/test_units.py::test_no_new_failed_units": (
            "nginx.service has failed, it had not before"
        ),
    }


def test_what_the_next_start_would_lose_is_seen_at_once(check: Run) -> None:
    enabled = ("nginx.service", "ssh.service")
    before = seen(enabled=enabled)
    name = "shared/test_units.py::test_what_runs_is_still_enabled"
    assert not_passed(check("units", before, before)) == {}
    assert not_passed(check("units", seen(enabled=enabled[1:]), before)) == {
        name: "nginx.service was enabled before and is not now: the next start will be without it"
    }
    both = not_passed(check("units", seen(), before))
    assert both == {name: f"2 services were enabled before and are not now: {', '.join(enabled)}"}


def test_a_service_that_does_not_stay_up_is_seen(check: Run) -> None:
    name = "shared/test_units.py::test_nothing_is_started_again_and_again"
    said = {name: "loop.service ends and is started again, 2 times so far"}
    assert not_passed(check("units", seen(restarts={"loop.service": 1}), seen())) == said
    for unit, ignore in (("once.service", []), ("loop.service", ["loop.*"])):
        now = seen(restarts={unit: 1})
        session = check("units", now, seen(), settle_seconds=2, ignore_units=ignore)
        assert not_passed(session) == {}


def test_of_a_watched_guest_one_start_more_is_enough(check: Run) -> None:
    name = "shared/test_units.py::test_nothing_is_started_again_and_again"
    now = seen(restarts={"once.service": 1})
    session = check("units", now, seen(), settle_seconds=2, restarts_at_first={})
    assert not_passed(session) == {
        name: "once.service ended a while after its start and was started again, once so far"
    }
    known = {"once.service": 1}
    session = check("units", now, seen(), settle_seconds=2, restarts_at_first=known)
    assert not_passed(session) == {}, "an accident of the start"


def test_a_start_that_takes_much_longer_is_seen(check: Run) -> None:
    slow = seen(boot_id="c", boot_seconds=101)
    assert not_passed(check("boot", slow, seen(boot_seconds=20))) == {
        "shared/test_boot.py::test_start_is_not_much_slower": (
            "the start took 101 s, and 20 s before"
        )
    }


def test_a_pending_reboot_before_the_upgrade_passes_and_is_told(check: Run) -> None:
    session = check("kernel", seen(kernel="6.1.0-30-amd64"))
    assert not_passed(session) == {}
    assert "pending reboot: 6.1.0-31-amd64 is installed" in session.results[0].detail


def test_a_guest_that_is_still_starting_is_waited_for(check: Run, asked: Path) -> None:
    assert not_passed(check("boot", seen(state="starting"))) == {}
    assert asked.read_text().count("is-system-running") == 2
    # The state it settled in, and not "starting", is what counts afterwards.
    assert "the system was running before and is degraded now" in str(
        not_passed(check("boot", seen(state="degraded", failed_units=("x.service",)), seen()))
    )


def test_a_service_that_is_still_starting_is_waited_for(check: Run) -> None:
    before = seen(units={"late.service": "active/running"})
    after = seen(units={"late.service": "activating/start"})
    assert not_passed(check("services", after, before)) == {}


def test_a_port_that_opens_late_is_waited_for(check: Run) -> None:
    with web() as server:
        before = seen(ports=(tcp(server.server_port, "127.0.0.1", process="late"),))
        assert not_passed(check("ports", seen(ports=()), before)) == {}


def test_a_guest_where_nothing_listens_has_no_port_checks(check: Run) -> None:
    session = check("ports", seen(ports=()))
    assert (session.end, session.results) == (CheckEnd.COMPLETE, ())


def test_ports_that_answered_http_must_go_on_answering(check: Run) -> None:
    with web() as server:
        dead = tcp(free_port(), "127.0.0.1", process="java")
        before = seen(ports=(tcp(server.server_port, "127.0.0.1", process="nginx"), dead))
        url = f"http://127.0.0.1:{server.server_port}/"
        assert not_passed(check("http", before)) == {}
        good = check("http", before, before)
        assert not_passed(good) == {}
        assert f"{url} answers 200" in good.results[0].detail
        server.status = 503
        bad = check("http", before, before, settle_seconds=0)
        assert list(not_passed(bad).values()) == [f"{url} answered 200 before and answers 503 now"]
    gone = check("http", before, before, settle_seconds=0)
    assert "answered 200 before and does not answer" in next(iter(not_passed(gone).values()))


def test_what_was_not_noted_before_is_no_evidence(check: Run) -> None:
    session = check("http", seen(), seen())
    assert "was not noted" in next(iter(not_passed(session).values()))


def test_urls_of_the_scenario_must_answer_well_and_as_before(check: Run) -> None:
    with web() as server:
        url = f"http://127.0.0.1:{server.server_port}/health?x=1"
        name = f"shared/test_http.py::test_url_answers[{url}]"
        options = {"http": [url], "settle_seconds": 0}
        good = check("http", seen(), **options)
        assert not_passed(good) == {}
        assert name in [result.name for result in good.results]
        server.status = 301
        moved = result_of(check("http", seen(), seen(), **options), name)
        assert moved.message == f"{url} answered 200 before and answers 301"
        server.status = 500
        assert not_passed(check("http", seen(), **options)) == {name: f"{url} answers 500"}


def test_https_is_asked_without_judging_the_certificate(sshd: Sshd, tmp_path: Path) -> None:
    certificate = tmp_path / "server.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "2", "-subj", "/CN=web.example.org",
         "-keyout", certificate, "-out", tmp_path / "cert.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    certificate.write_text(certificate.read_text() + (tmp_path / "cert.pem").read_text())
    connection = CheckConnection(sshd.ssh_config, "clone")
    with web(certificate) as server:
        port = tcp(server.server_port, "127.0.0.1", process="nginx")
        assert ask(connection, url_of(port, "https")).status == 200
        assert discover(connection, [port]) == {url_of(port, "https"): 200}


def test_something_that_is_not_http_is_no_answer_and_sshd_is_not_asked(sshd: Sshd) -> None:
    connection = CheckConnection(sshd.ssh_config, "clone")
    own = next(
        int(line.split()[1])
        for line in sshd.ssh_config.read_text().splitlines()
        if line.split()[0] == "Port"
    )
    answer = ask(connection, f"http://127.0.0.1:{own}/")
    assert answer.status is None
    assert "does not answer" in answer.words
    assert discover(connection, [tcp(own, process="sshd")]) == {}
    assert discover(connection, [tcp(own, "127.0.0.1", process="other")]) == {}


def test_a_scenarios_own_file_may_have_a_shared_ones_name(sshd: Sshd, tmp_path: Path) -> None:
    own = tmp_path / "kernel" / "test_kernel.py"
    own.parent.mkdir()
    own.write_text("def test_own(host):\n    assert host.run('true').rc == 0\n")
    session = run_checks(
        files=[own],
        shared=[SHARED / "test_kernel.py"],
        ssh_config=sshd.ssh_config,
        host="clone",
        phase="before",
        baseline=None,
        current=seen(),
        settings=CheckSettings(),
        work_dir=tmp_path / "run",
        deadline=Deadline(60, "checks"),
        on_result=lambda result: None,
    )
    assert session.end is CheckEnd.COMPLETE, session.message
    assert [result.name for result in session.results] == [
        "shared/test_kernel.py::test_newest_installed_kernel_runs",
        "test_kernel.py::test_own",
    ]
