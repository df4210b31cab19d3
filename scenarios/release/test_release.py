"""What a new release must leave whole, whatever the guest is for."""

from __future__ import annotations

from testinfra.host import Host


def test_package_manager_has_no_broken_dependencies(host: Host) -> None:
    checked = host.run("apt-get check -qq -o Debug::NoLocking=true")
    assert checked.rc == 0, (checked.stderr or checked.stdout).strip()


def test_names_are_looked_up(host: Host) -> None:
    """A new C library, and the modules of nsswitch.conf that have to be of the same version."""
    assert host.run("getent passwd root").rc == 0, "the user root cannot be looked up"
    assert host.run("getent hosts localhost").rc == 0, "localhost does not resolve"


def test_certificates_are_still_trusted(host: Host) -> None:
    """ca-certificates writes its bundle anew in a maintainer script."""
    bundle = host.file("/etc/ssl/certs/ca-certificates.crt")
    assert not host.package("ca-certificates").is_installed or bundle.size > 0, "no certificates"


def test_configuration_of_the_ssh_server_is_valid(host: Host) -> None:
    """Options come and go between releases; a server that runs on has not read its file yet."""
    checked = host.run('sshd=$(PATH=$PATH:/usr/sbin command -v sshd) || exit 0; "$sshd" -t')
    assert checked.rc == 0, checked.stderr.strip()
