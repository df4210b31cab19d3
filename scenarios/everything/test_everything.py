"""What everything else in the guest builds on."""

from __future__ import annotations

import pytest
from testinfra.host import Host

PROGRAMS = ("sh", "ls", "dpkg", "systemctl", "sshd", "sudo", "ip", "openssl", "perl", "python3")


@pytest.mark.parametrize("program", PROGRAMS)
def test_program_finds_its_libraries(host: Host, program: str) -> None:
    """A library that was removed or replaced by an incompatible one; absent programs are fine."""
    linked = host.run(
        'path=$(PATH=$PATH:/usr/sbin:/sbin command -v %s) && ldd "$path" 2>/dev/null', program
    )
    missing = [line.split()[0] for line in linked.stdout.splitlines() if "not found" in line]
    assert not missing, f"{program} misses {', '.join(missing)}"


def test_package_manager_has_no_broken_dependencies(host: Host) -> None:
    checked = host.run("apt-get check -qq -o Debug::NoLocking=true")
    assert checked.rc == 0, (checked.stderr or checked.stdout).strip()


def test_own_names_resolve(host: Host) -> None:
    """nsswitch.conf and /etc/hosts: mail, databases and sudo wait long for a name of their own."""
    assert host.run("getent hosts localhost").rc == 0, "localhost does not resolve"
    assert host.run("getent passwd root").rc == 0, "the user root cannot be looked up"


def test_temporary_files_can_be_written(host: Host) -> None:
    """A read-only root or a lost sticky bit stops services long after the reboot."""
    written = host.run('file=$(mktemp /var/tmp/check.XXXXXX) && rm -- "$file"')
    assert written.rc == 0, written.stderr.strip()
    assert host.file("/tmp").mode == 0o1777, "/tmp is not open to everyone"
