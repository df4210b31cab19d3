"""The command itself: starts fast, ends with the right code, and says what to do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from sandbox import __version__
from sandbox.cli.headings import HEADINGS
from sandbox.cli.options import EXIT_CODES
from sandbox.core.errors import DeadlineExceeded, GuestUnreachable, HostError, RequestError
from sandbox.core.records import Verdict
from sandbox.core.store import RunFolder
from tests.support.fakes.run_world import COMMAND, ESCAPE, World, in_terminal, sandbox
from tests.support.fakes.sample_records import broken_nginx, inconclusive, mirror_error, passed
from workers.cli import main

HEAVY = {"libvirt", "pydantic", "rich", "pytest", "jinja2", "lxml", "PIL", "yaml", "urllib3"} | {
    "alembic",
    "apprise",
    "boto3",
    "celery",
    "fastapi",
    "limits",
    "redis",
    "sqlalchemy",
    "structlog",
    "uvicorn",
}
SHELLS = ("bash", "zsh", "fish")


def commands(group: click.Group = main, path: Sequence[str] = ()) -> list[tuple[str, ...]]:
    """Every command and group, as it is typed."""
    found: list[tuple[str, ...]] = [tuple(path)]
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            found += commands(command, (*path, name))
        else:
            found.append((*path, name))
    return found


# --- start-up ----------------------------------------------------------------------------------


def test_help_of_every_command_imports_nothing_heavy() -> None:
    program = f"""
import sys
from workers.cli import main
for path in {commands()!r}:
    try:
        main([*path, "--help"], prog_name="sandbox")
    except SystemExit as end:
        assert end.code == 0, path
print("LOADED", *sorted({HEAVY!r} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "LOADED"


def test_help_says_what_the_product_is_for() -> None:
    done = sandbox("--help", environment=dict(os.environ))
    assert done.returncode == 0
    assert "Rehearse an upgrade on a throwaway clone" in done.stdout
    assert "..." not in done.stdout.partition("Options:")[2], "a description is cut off"
    for code in EXIT_CODES.splitlines()[2:]:
        assert code.strip() in done.stdout
    assert all(len(line) <= 100 for line in done.stdout.splitlines())
    assert done.stderr == ""


def test_every_command_stands_under_one_heading() -> None:
    """And none under "Others", where a new command lands that has no heading yet."""
    listed = [name for names in HEADINGS.values() for name in names]
    assert sorted(listed) == sorted({path[0] for path in commands() if path})
    told = sandbox("--help", environment=dict(os.environ)).stdout
    for heading, names in HEADINGS.items():
        below = told.partition(f"\n{heading}:\n")[2].partition("\n\n")[0]
        assert [line.split()[0] for line in below.splitlines()] == list(names)


def test_the_installed_command_is_this_one() -> None:
    installed = Path(sys.executable).with_name("sandbox")
    done = subprocess.run([installed, "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"sandbox, version {__version__}\n")


@pytest.mark.parametrize("path", commands(), ids=" ".join)
def test_every_command_has_help_of_its_own(world: World, path: tuple[str, ...]) -> None:
    told = world.invoke(*path, "-h")
    assert told.exit_code == 0
    assert told.stdout.startswith(f"Usage: {' '.join(('main', *path))}")
    assert len(told.stdout.splitlines()) > 4


EXAMPLES = (
    *("run", "report", "list", "show", "rm", "reap", "doctor", "guests", "init", "completion"),
    *("scenario check", "lab up"),
)


@pytest.mark.parametrize("command", EXAMPLES)
def test_help_has_examples(world: World, command: str) -> None:
    told = world.invoke(*command.split(), "--help").stdout
    examples = told.partition("Examples:\n")[2]
    assert f"sandbox {command}" in examples.partition("\n\n")[0]


def test_rejected_is_not_said_to_be_without_a_clone() -> None:
    """A key is refused by a clone that has booted."""
    assert "key refused" in EXIT_CODES
    assert "nothing was cloned" not in EXIT_CODES


# --- exit codes and messages -------------------------------------------------------------------


@pytest.mark.parametrize("verdict", list(Verdict))
def test_run_ends_with_the_verdicts_code(
    world: World, monkeypatch: pytest.MonkeyPatch, verdict: Verdict
) -> None:
    asked = []

    def rehearse(request: object, _settings: object, **options: object) -> Verdict:
        asked.append((request, options))
        return verdict

    monkeypatch.setattr("sandbox.cli.foreground.rehearse_in_terminal", rehearse)
    told = world.invoke("run", "security", "--guest", "web01", "--keep", "--json")
    codes = {"pass": 0, "fail": 1, "rejected": 2, "inconclusive": 3, "error": 4}
    assert told.exit_code == codes[verdict.value]
    ((request, options),) = asked
    assert (request.scenario, request.guest, request.upgrade) == ("security", "web01", None)
    assert options == {"keep": True, "as_json": True, "picture": None}


@pytest.mark.parametrize(
    ("problem", "status"),
    [
        (RequestError("bad words", "better words"), 2),
        (HostError("ill host", "a cure"), 4),
        (DeadlineExceeded("boot", 60, "be patient"), 4),
        (GuestUnreachable("no answer", "knock"), 4),
        (KeyboardInterrupt(), 130),
    ],
)
def test_errors_end_with_their_code_a_message_and_a_hint(
    world: World, monkeypatch: pytest.MonkeyPatch, problem: BaseException, status: int
) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise problem

    monkeypatch.setattr("sandbox.cli.listing.print_runs", fail)
    told = world.invoke("list")
    assert (told.exit_code, told.stdout) == (status, "")
    if isinstance(problem, KeyboardInterrupt):
        return
    assert told.stderr == f"sandbox: {problem.message}\n  {problem.hint}\n"  # type: ignore[attr-defined]


WRONG = [
    (("lst",), "Did you mean 'list'"),
    (("scenario", "chek"), "check"),
    (("run", "security", "--gest", "x"), "--guest"),
    (("run",), "SCENARIO"),
    (("report", "latest", "--format", "pdf"), "markdown"),
    (("completion", "ksh"), "fish"),
    (("run", "security", "--guest", "a", "--image", "b"), "exclude each other"),
    (("run", "securty", "--guest", "a"), "did you mean 'security'?"),
    (("run", "./nowhere", "--guest", "a"), "no scenario at nowhere"),
    (("run", "security"), "--guest NAME"),
    (("run", "security", "--guest", 'a"b'), "guest name"),
    (("run", "security", "--guest", "a/b"), "guest name"),
    (("run", "security", "--image", "/nowhere.raw", "--format", "raw"), "/nowhere.raw"),
    (("run", "security", "--image", "/etc/passwd"), "format"),
    (("run", "security", "--guest", "a", "--upgrade", "nginx="), "--upgrade"),
    (("show", "nonesuch"), "`sandbox list`"),
    (("show", "latest"), "no run 'latest'"),
    (("rm", "nonesuch"), "no run 'nonesuch'"),
    (("report", "../../etc"), "no run"),
    (("scenario", "check", "nowhere"), "no scenario at nowhere"),
    (("init", "a b", "--guest", "web01"), "letters, digits"),
]


@pytest.mark.parametrize(("arguments", "words"), WRONG)
def test_wrong_words_are_rejected_with_what_to_do(
    world: World, arguments: Sequence[str], words: str
) -> None:
    told = world.invoke(*arguments)
    assert told.exit_code == 2, told.output
    assert words in told.stderr
    assert told.stdout == ""
    assert len(told.stderr.splitlines()) >= 2, "a message and a hint"
    assert not world.settings.runs.exists(), "nothing was begun"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("SANDBOX_STAT", "/x", "unknown setting SANDBOX_STAT"),
        ("SANDBOX_STATE", "relative", "not an absolute path"),
        ("SANDBOX_STATE", "/" + "x" * 60, "too long"),
    ],
)
def test_a_wrong_setting_is_named(world: World, name: str, value: str, words: str) -> None:
    done = sandbox("list", environment={**world.environment, name: value})
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_no_libvirt_is_an_error_with_the_way_to_start_it(world: World) -> None:
    uri = "qemu+unix:///system?socket=/nonexistent/sock"
    kept = world.run(passed())
    kept.note(uri=uri)
    for command in (("reap",), ("rm", kept.id), ("init", "a", "--guest", "web01")):
        done = sandbox(*command, environment={**world.environment, "SANDBOX_URI": uri})
        assert done.returncode == 4
        assert "cannot connect to libvirt" in done.stderr
        assert "systemctl start libvirtd" in done.stderr
        assert "Traceback" not in done.stderr
    assert kept.clone.exists()
    done = sandbox("reap", environment={**world.environment, "SANDBOX_URI": "vmware://x"})
    assert done.returncode == 2
    assert "no driver" in done.stderr


# --- reports -----------------------------------------------------------------------------------


@pytest.fixture
def fail(world: World) -> RunFolder:
    return world.run(broken_nginx(), clone=False)


@pytest.mark.usefixtures("fail")
def test_json_that_programs_read(world: World) -> None:
    assert json.loads(world.invoke("report", "latest", "--format", "json").stdout)["exit_code"] == 1
    assert json.loads(world.invoke("show", "latest", "--json").stdout)["verdict"] == "fail"
    assert json.loads(world.invoke("list", "--json").stdout)["verdict"] == "fail"
    assert json.loads(world.invoke("scenario", "schema").stdout)["$schema"]


@pytest.mark.parametrize("shown", [passed, broken_nginx, inconclusive, mirror_error])
@pytest.mark.parametrize("format_", ["text", "json", "junit", "markdown", "html"])
def test_a_report_is_shown_whatever_the_verdict(
    world: World, shown: object, format_: str, tmp_path: Path
) -> None:
    folder = world.run(shown(), clone=False)  # type: ignore[operator]
    told = world.invoke("report", folder.id[-6:], "--format", format_)
    assert told.exit_code == 0, "showing a report is not rehearsing"
    assert told.stdout.strip()
    file = tmp_path / "report"
    written = world.invoke("report", folder.id, "--format", format_, "--output", str(file))
    assert (written.stdout, written.exit_code) == ("", 0)
    assert file.read_text().strip() == told.stdout.strip()
    assert str(file) in written.stderr


@pytest.mark.usefixtures("fail")
def test_a_report_that_cannot_be_written(world: World) -> None:
    told = world.invoke("report", "latest", "--output", "/nowhere/report.txt")
    assert told.exit_code == 2
    assert "cannot write /nowhere/report.txt" in told.stderr


def test_a_run_is_found_by_its_beginning_or_end(world: World, fail: RunFolder) -> None:
    other = world.run(passed(), clone=False)
    assert json.loads(world.invoke("show", fail.id[-6:], "--json").stdout)["verdict"] == "fail"
    assert json.loads(world.invoke("show", other.id, "--json").stdout)["verdict"] == "pass"
    told = world.invoke("show", fail.id[:4])
    assert told.exit_code == 2
    assert "fits 2 runs" in told.stderr


def test_a_damaged_record_names_the_way_out(world: World, fail: RunFolder) -> None:
    (fail.artifacts / "run.json").write_text("{}")
    for command in ("show", "report"):
        told = world.invoke(command, fail.id)
        assert told.exit_code == 2
        assert "cannot be read" in told.stderr
        assert "sandbox rm" in told.stderr


# --- colours -----------------------------------------------------------------------------------


COLOURED = [
    (("report", "latest"), "\x1b[1;31mNO"),
    (("show", "latest"), "\x1b[1;31mNO"),
    (("list",), "\x1b[1;31mfail"),
    (("show", "nonesuch"), "\x1b[31msandbox: no run 'nonesuch'"),
]


@pytest.mark.parametrize(("arguments", "coloured"), COLOURED)
@pytest.mark.usefixtures("fail")
def test_a_terminal_gets_colours_and_a_pipe_does_not(
    world: World, arguments: Sequence[str], coloured: str
) -> None:
    seen = in_terminal(*arguments, environment=world.environment)
    assert coloured in seen
    piped = sandbox(*arguments, environment=world.environment)
    assert "\x1b" not in piped.stdout + piped.stderr
    assert ESCAPE.sub("", coloured) in ESCAPE.sub("", seen)


# --- being interrupted -------------------------------------------------------------------------

SLOW = """
import contextlib, sys, time
import sandbox.cli.foreground

def rehearse(*_arguments, **_options):
    try:
        print("working", flush=True)
        time.sleep(60)
    finally:
        print("cleaning up", flush=True)
        time.sleep(1.5)
        print("clean", flush=True)

sandbox.cli.foreground.rehearse_in_terminal = rehearse
from workers.cli import main
main(["run", "security", "--guest", "web01"], prog_name="sandbox")
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_cleans_up_once_and_a_second_one_waits(world: World, number: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SLOW],
        env=world.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "working\n"
        child.send_signal(number)
        assert child.stdout.readline() == "cleaning up\n"
        child.send_signal(number)
        said, errors = child.communicate(timeout=30)
    assert said == "clean\n", "the second signal did not cut the clean-up short"
    assert "already cleaning up" in errors
    assert "Traceback" not in errors
    assert child.returncode == 130


def test_a_closed_pipe_is_no_traceback(world: World) -> None:
    for _ in range(3):
        world.run(passed(), clone=False)
    with subprocess.Popen(
        [*COMMAND, "report", "latest", "--format", "html"],
        env=world.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        child.stdout.close()
        assert child.stderr is not None
        errors = child.stderr.read()
    assert "Traceback" not in errors


@pytest.mark.parametrize("slip", [ZeroDivisionError("by zero"), PermissionError(13, "no", "/x")])
def test_a_fault_of_ours_is_no_verdict_of_fail(
    monkeypatch: pytest.MonkeyPatch, slip: Exception
) -> None:
    def fail(*_given: object, **_named: object) -> None:
        raise slip

    monkeypatch.setattr("sandbox.cli.listing.print_runs", fail, raising=False)
    monkeypatch.setattr("sandbox.core.settings.read_settings", fail)
    done = CliRunner().invoke(main, ["list"])
    assert done.exit_code == 4
    assert str(slip) in done.output
