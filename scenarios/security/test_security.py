"""What a security update must leave intact: the way in, and the way to the next update."""

from __future__ import annotations

from testinfra.host import Host


def test_ssh_lets_new_logins_in(host: Host) -> None:
    """A configuration that the new sshd refuses locks everybody out at its next restart."""
    sshd = host.run("command -v /usr/sbin/sshd || command -v sshd")
    assert sshd.rc == 0, "the guest has no OpenSSH server"
    tested = host.run("mkdir -p /run/sshd && %s -t", sshd.stdout.strip())
    assert tested.rc == 0, tested.stderr.strip()


def test_package_manager_has_no_broken_dependencies(host: Host) -> None:
    """Else the next security update cannot be installed."""
    checked = host.run("apt-get check -qq -o Debug::NoLocking=true")
    assert checked.rc == 0, (checked.stderr or checked.stdout).strip()


def test_archive_keys_are_there(host: Host) -> None:
    """Without its keys the guest refuses every later update."""
    keys = host.run(
        "find /etc/apt/trusted.gpg.d /usr/share/keyrings -name '*.gpg' -size +0"
        " -o -name '*.asc' -size +0 -o -name '*.pgp' -size +0"
    )
    assert keys.stdout.strip(), "no archive key in /etc/apt/trusted.gpg.d or /usr/share/keyrings"
