"""What runs inside the clone, against a real sshd on loopback that plays the guest."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.clone import guest as guest_module
from sandbox.clone import jobs
from sandbox.clone.guest import Guest
from sandbox.core.deadline import Deadline
from sandbox.core.errors import (
    CommandFailed,
    ConnectionLost,
    DeadlineExceeded,
    GuestRestarted,
    GuestUnreachable,
)
from sandbox.core.process import Completed, run
from sandbox.hosts.drivers.fake import FakeHypervisor
from tests.support.fakes.guest_world import (
    DOMAIN,
    INTERPRETERS,
    master_of,
)
from tests.support.machine.sshd import Sshd
from tests.support.waiting import soon

# -- scripts ----------------------------------------------------------------------------------

SCRIPTS = [
    ("echo 'single'; echo \"double $((1 + 1))\"", "single\ndouble 2\n", 0),
    ("cat <<'END'\n$HOME 'quoted' \"too\"\nEND\n", "$HOME 'quoted' \"too\"\n", 0),
    ("exit 3", "", 3),
    ("echo before\nexit 255", "before\n", 254),
    ("echo a # and a comment", "a\n", 0),
    ("set -e\nfalse\necho not reached", "", 1),
    ("f() { return 7; }\nf", "", 7),
    ('case $1 in x*) echo "x: $1";; esac', "x: x y\n", 0),
    ("read line && echo 'somebody typed' || echo 'nobody types'", "nobody types\n", 0),
    ("cat; echo end", "end\n", 0),
    ("printf 'no newline'", "no newline", 0),
    ("trap 'echo trapped' EXIT\nexit 4", "trapped\n", 4),
    ('echo $#: "$2"', "2: '\"$(id)\n", 0),
    ("if then", "", None),
    ("", "", 0),
    ("# nothing but a comment", "", 0),
]
ARGS = ("x y", "'\"$(id)")


@pytest.mark.parametrize(("script", "output", "status"), SCRIPTS)
def test_a_script_runs_as_it_is_written(
    guest: Guest, script: str, output: str, status: int | None
) -> None:
    done = guest.run(script, soon(), args=ARGS)
    assert done.stdout == output
    assert done.status == status if status is not None else done.status not in (0, 255)


@pytest.mark.parametrize(("script", "output", "status"), SCRIPTS)
def test_a_script_runs_the_same_detached(
    guest: Guest, script: str, output: str, status: int | None, tmp_path: Path
) -> None:
    lines: list[str] = []
    got = guest.follow(script, soon(), lines.append, args=ARGS)
    said = [line for line in lines if "yntax" not in line and "illed" not in line]
    assert said == output.splitlines()
    assert got == status if status is not None else got not in (0, 255)
    assert list((tmp_path / "jobs").iterdir()) == [], "the job's folder is still in the guest"


@pytest.mark.parametrize("interpreter", INTERPRETERS, ids=lambda words: words[0])
@settings(max_examples=25, deadline=None)
@given(status=st.integers(0, 255), words=st.lists(st.text(max_size=8), max_size=3))
def test_any_status_and_any_words_in_every_shell(
    interpreter: tuple[str, ...], status: int, words: list[str]
) -> None:
    words = [word.replace("\0", "").encode(errors="replace").decode() for word in words]
    script = f'for word; do printf "%s|" "$word"; done; exit {status}'
    program = jobs.as_program(script).encode()
    done = run([*interpreter, "-s", "--", *words], soon(), input=program, check=False)
    assert done.stdout == "".join(f"{word}|" for word in words)
    assert done.status == (254 if status == 255 else status)


def test_a_script_that_is_killed_has_a_status(guest: Guest) -> None:
    assert guest.follow("kill -9 $$", soon(), lambda _line: None) == 137
    assert guest.run("sh -c 'kill -9 $$'", soon()).status == 137


def test_much_output_comes_whole(guest: Guest) -> None:
    script = 'i=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo "line $i"; done'
    lines: list[str] = []
    assert guest.follow(script, soon(), lines.append) == 0
    assert lines == [f"line {n}" for n in range(1, 20001)]
    assert guest.run(script, soon()).stdout.splitlines() == lines


def test_garbage_in_the_output_is_no_reason_to_fail(guest: Guest) -> None:
    script = (
        "printf 'a\\377\\000b\\033[31m\\r\\nmarker: --upgrade-sandbox-status=9\\n\\n\\nc'; exit 5"
    )
    lines: list[str] = []
    assert guest.follow(script, soon(), lines.append) == 5
    assert lines == ["a\ufffd\0b\x1b[31m\r", "marker: --upgrade-sandbox-status=9", "", "", "c"]
    assert guest.run(script, soon()).status == 5


def test_output_that_ends_like_our_own_marker(guest: Guest) -> None:
    lines: list[str] = []
    assert guest.follow("printf '\\n--upgrade-sandbox-status=7'; exit 1", soon(), lines.append) == 1
    assert lines == ["", "--upgrade-sandbox-status=7"]


def test_standard_error_is_among_the_lines(guest: Guest) -> None:
    lines: list[str] = []
    assert guest.follow("echo out; echo err >&2; echo out", soon(), lines.append) == 0
    assert lines == ["out", "err", "out"]


def test_lines_come_while_the_script_runs(guest: Guest) -> None:
    seen: list[float] = []
    script = "echo one; sleep 2; echo two"
    assert guest.follow(script, soon(), lambda _line: seen.append(time.monotonic())) == 0
    assert seen[1] - seen[0] > 1.5


def test_a_late_script_ends_the_phase(guest: Guest) -> None:
    with pytest.raises(DeadlineExceeded):
        guest.run("sleep 60", Deadline(1, "test"))
    with pytest.raises(DeadlineExceeded):
        guest.follow("while :; do echo on; done", Deadline(2, "upgrade"), lambda _line: None)
    end_jobs(guest)


def end_jobs(guest: Guest) -> None:
    """What a test left running detached; a real guest goes with its clone."""
    script = 'pgrep -f "$1/" || exit 1; while pgrep -f "$1/"; do pkill -9 -f "$1/"; sleep 0.1; done'
    assert guest.run(script, soon(), args=(guest_module.JOBS,)).ok, "nothing was found to end"


# -- broken connections -----------------------------------------------------------------------

COUNT = 'i=0; while [ $i -lt 60 ]; do i=$((i+1)); echo "line $i"; sleep 0.05; done; exit 3'
LINES = [f"line {n}" for n in range(1, 61)]


def test_no_line_is_lost_or_doubled_when_the_connection_is_killed(guest: Guest) -> None:
    lines: list[str] = []

    def cut_twice(line: str) -> None:
        lines.append(line)
        if line in ("line 10", "line 35"):
            os.kill(master_of(guest), signal.SIGKILL)

    assert guest.follow(COUNT, soon(), cut_twice) == 3
    assert lines == LINES


def test_the_same_when_the_guests_side_drops_it(guest: Guest, sshd: Sshd) -> None:
    lines: list[str] = []

    def cut(line: str) -> None:
        lines.append(line)
        if line == "line 20":
            sshd.drop_sessions()

    assert guest.follow(COUNT, soon(), cut) == 3
    assert lines == LINES


def test_a_script_goes_on_while_the_guest_cannot_be_reached(
    guest: Guest, found: list[str | None]
) -> None:
    lines: list[str] = []

    def cut(line: str) -> None:
        lines.append(line)
        if line == "line 5":
            found[:] = [None, None, None, None, "127.0.0.1"]  # some 2 s
            os.kill(master_of(guest), signal.SIGKILL)

    started = time.monotonic()
    assert guest.follow(COUNT, soon(), cut) == 3
    assert lines == LINES
    assert time.monotonic() - started < 10, "the script had to be begun again"


def test_an_answer_that_is_lost_is_asked_for_again(
    guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worst moment: the script has ended, and its status is lost on the way."""
    execute = guest.connection.execute
    lost: list[Completed] = []

    def lossy(
        command: Sequence[str], deadline: Deadline, *, input: bytes | None = None
    ) -> Completed:
        done = execute(command, deadline, input=input)
        if b"--upgrade-sandbox-status=" in (input or b"") and not lost:
            lost.append(done)
            raise ConnectionLost("cut")
        return done

    monkeypatch.setattr(guest.connection, "execute", lossy)
    lines: list[str] = []
    assert guest.follow("echo all; exit 6", soon(), lines.append) == 6
    assert lines == ["all"]
    assert lost


def test_a_job_that_is_gone_means_that_the_guest_restarted(guest: Guest, tmp_path: Path) -> None:
    def wipe(_line: str) -> None:
        shutil.rmtree(tmp_path / "jobs")

    with pytest.raises(GuestRestarted, match="restarted by itself"):
        guest.follow("echo here; sleep 5", soon(), wipe)


def test_a_guest_that_dies_under_the_script_is_unreachable(
    guest: Guest, hypervisor: FakeHypervisor
) -> None:
    def die(_line: str) -> None:
        hypervisor.domains[DOMAIN].state = "crashed"
        os.kill(master_of(guest), signal.SIGKILL)

    with pytest.raises(GuestUnreachable, match="crashed"):
        guest.follow("echo here; sleep 5", soon(), die)


def test_a_guest_without_room_for_a_job_says_so(
    guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guest_module, "JOBS", "/proc/no-folder-here")
    with pytest.raises(CommandFailed) as caught:
        guest.follow("echo x", soon(), lambda _line: None)
    assert "/run" in caught.value.hint


# -- files ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["plain", "with space", "quo'te", '"', "$(id)", "-n", "new\nline", "ä", "a/b/c d/e", "*", ";"],
)
def test_a_file_arrives_whatever_its_name(guest: Guest, tmp_path: Path, name: str) -> None:
    content = bytes(range(256)) * 64
    (tmp_path / "local").write_bytes(content)
    remote = tmp_path / "guest" / name
    guest.put(tmp_path / "local", str(remote), soon())
    assert remote.read_bytes() == content
    assert remote.stat().st_mode & 0o777 == 0o600
    assert remote.parent.stat().st_mode & 0o777 == 0o700


def test_an_older_file_is_replaced_and_closed_to_others(guest: Guest, tmp_path: Path) -> None:
    (tmp_path / "local").write_text("new")
    remote = tmp_path / "remote"
    remote.write_text("an older and longer one")
    remote.chmod(0o644)
    guest.put(tmp_path / "local", str(remote), soon())
    assert remote.read_text() == "new"
    assert remote.stat().st_mode & 0o777 == 0o600


def test_an_empty_file_arrives(guest: Guest, tmp_path: Path) -> None:
    (tmp_path / "local").touch()
    guest.put(tmp_path / "local", str(tmp_path / "remote"), soon())
    assert (tmp_path / "remote").read_bytes() == b""


def test_a_file_that_cannot_be_put_says_why(guest: Guest, tmp_path: Path) -> None:
    (tmp_path / "local").write_text("x")
    with pytest.raises(CommandFailed) as caught:
        guest.put(tmp_path / "local", "/proc/nothing/here", soon())
    assert "/proc/nothing" in caught.value.message


@pytest.mark.parametrize("interpreter", INTERPRETERS, ids=lambda words: words[0])
@pytest.mark.parametrize("name", ["bare", "-dash", "./x/y"])
def test_names_without_a_folder(interpreter: tuple[str, ...], tmp_path: Path, name: str) -> None:
    argv = [*interpreter, "-c", jobs.RECEIVE, "sh", name]
    run(argv, soon(), input=b"content", cwd=tmp_path)
    assert (tmp_path / name).read_bytes() == b"content"
