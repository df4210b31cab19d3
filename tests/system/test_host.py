"""The machine that a hypervisor runs on, reached over a real sshd on loopback."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.core.deadline import Deadline
from sandbox.core.errors import CommandFailed, DeadlineExceeded, ToolMissing
from sandbox.core.process import kill_group, start
from sandbox.hosts.transport import Host, HostLost, RemoteHost
from tests.support.fakes.guest_world import port_of
from tests.support.fakes.host_way import LOOPBACK, Way, way_to
from tests.support.machine.sshd import Sshd, children
from tests.support.waiting import holds_soon, soon

# -- commands, here and there -----------------------------------------------------------------


def test_odd_arguments_arrive_as_they_are(host_sshd: Sshd) -> None:
    words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
    odd = st.sampled_from(["", " ", "'", '"', "$HOME", "`id`", "*", "~", "\\", "a\nb", "-n", "!!"])

    with way_to(host_sshd) as way:
        remote = way.host()

        @settings(max_examples=40, deadline=None)
        @given(st.lists(words | odd, min_size=1, max_size=4))
        def arrive(given_words: list[str]) -> None:
            done = remote.run(["printf", "%s\\0", *given_words], soon())
            assert done.stdout.split("\0")[:-1] == given_words
            assert done.argv == ("printf", "%s\\0", *given_words)

        arrive()


def test_status_and_both_outputs_come_back(machine: Host) -> None:
    script = ["sh", "-c", "echo said; echo complained >&2; exit 3"]
    done = machine.run(script, soon(), check=False)
    assert (done.status, done.stdout, done.stderr) == (3, "said\n", "complained\n")
    with pytest.raises(CommandFailed) as caught:
        machine.run(script, soon(), hint="do this")
    problem = caught.value
    assert (problem.argv[0], problem.status, problem.hint) == ("sh", 3, "do this")
    assert "complained" in problem.tail


def test_input_arrives_and_there_is_none_of_ours(machine: Host) -> None:
    assert machine.run(["cat"], soon(), input=b"\0in\n").stdout == "\0in\n"
    assert machine.run(["cat"], soon()).stdout == ""
    assert machine.run([Path("/bin/echo"), Path("/a b")], soon()).stdout == "/a b\n"


def test_a_command_ends_with_its_deadline_and_the_next_one_runs(machine: Host) -> None:
    machine.run(["true"], soon())
    with pytest.raises(DeadlineExceeded):
        machine.run(["sleep", "60"], Deadline(0.5, "test"))
    assert machine.run(["true"], soon()).ok


def test_a_program_that_is_not_there(machine: Host) -> None:
    with pytest.raises((ToolMissing, CommandFailed), match="no-such-program"):
        machine.run(["no-such-program"], soon())


def test_a_program_in_the_background(machine: Host, tmp_path: Path) -> None:
    with (tmp_path / "output").open("wb") as output:
        child = start(machine.command(["sh", "-c", 'printf "%s|" "$@"', "sh", "a b", "'"]), output)
    assert child.wait(30) == 0
    assert (tmp_path / "output").read_text() == "a b|'|"


# -- a host that is lost ----------------------------------------------------------------------


def test_255_is_a_lost_host(way: Way) -> None:
    with pytest.raises(HostLost, match=LOOPBACK):
        way.host().run(["sh", "-c", "exit 255"], soon(), check=False)


def test_a_host_that_cannot_be_reached_is_named_with_its_reason(way: Way) -> None:
    uri = way.uri().replace(f":{port_of(way.sshd)}/", ":1/")
    with pytest.raises(HostLost, match="Connection refused") as caught:
        RemoteHost(uri).run(["true"], soon())
    assert LOOPBACK in caught.value.message
    assert f"ssh {LOOPBACK}" in caught.value.hint


def test_a_host_that_refuses_our_key_never_asks_for_a_password(way: Way, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", stranger], check=True)
    with pytest.raises(HostLost, match="Permission denied"):
        way.host(keyfile=str(stranger)).run(["true"], soon())


def test_a_cut_connection_is_a_lost_host_and_opened_again_by_the_next_command(way: Way) -> None:
    host = way.host()
    host.run(["true"], soon())
    cut = threading.Timer(0.7, way.sshd.drop_sessions)
    cut.start()
    with pytest.raises(HostLost):
        host.run(["sleep", "30"], soon())
    cut.join()
    assert host.run(["echo", "back"], soon()).stdout == "back\n"


def test_a_stopped_server_costs_the_deadline(way: Way) -> None:
    host = way.host()
    host.run(["true"], soon())
    assert way.sshd.server is not None
    sessions = children(way.sshd.server.pid)
    for pid in sessions:
        os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(DeadlineExceeded):
            host.run(["true"], Deadline(1, "test"))
        assert not host.answers_ssh(LOOPBACK, port_of(way.sshd), 0.5)
    finally:
        for pid in sessions:
            os.kill(pid, signal.SIGCONT)


# -- one connection ---------------------------------------------------------------------------


def test_everything_shares_one_connection(way: Way, tmp_path: Path) -> None:
    before = way.logins()
    host, again = way.host(), way.host()
    for _ in range(3):
        host.run(["true"], soon())
        again.run(["true"], soon())
    with (tmp_path / "output").open("wb") as output:
        assert start(host.command(["true"]), output).wait(30) == 0
    assert host.answers_ssh(LOOPBACK, port_of(way.sshd), 10)
    assert way.logins() - before == 1


def test_a_command_that_is_given_up_does_not_end_the_shared_connection(
    way: Way, tmp_path: Path
) -> None:
    """Not even the first one, which brought it up."""
    before, host = way.logins(), way.host()
    with (tmp_path / "output").open("wb") as output:
        child = start(host.command(["sh", "-c", "echo started; sleep 60"]), output)
    assert holds_soon(lambda: (tmp_path / "output").read_text() == "started\n", 30)
    kill_group(child.pid)  # as a deadline does
    child.wait()
    assert host.run(["true"], soon()).ok
    assert way.logins() - before == 1


def test_uris_do_not_share_a_connection(way: Way) -> None:
    """They may lead to different machines of one name, by different ways."""
    before = way.logins()
    way.host().run(["true"], soon())
    RemoteHost(way.uri(path="other")).run(["true"], soon())
    assert way.logins() - before == 2


def test_the_connections_folder_is_closed_to_others(way: Way) -> None:
    way.host().run(["true"], soon())
    assert stat.S_IMODE(way.sockets.stat().st_mode) == 0o700
