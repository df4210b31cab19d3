"""The kernel that runs came from the guest's own disk and finds all that belongs to it."""

from __future__ import annotations

from testinfra.host import Host


def _release(host: Host) -> str:
    return host.check_output("uname -r")


def test_running_kernel_is_installed_in_the_guest(host: Host) -> None:
    """Else the host chose the kernel, and an upgrade inside the guest changes nothing."""
    path = f"/boot/vmlinuz-{_release(host)}"
    assert host.run("test -s %s", path).rc == 0, f"{path} is missing or empty"


def test_modules_of_the_running_kernel_are_there(host: Host) -> None:
    """Without them the next device or filesystem cannot be used."""
    path = f"/lib/modules/{_release(host)}/modules.dep"
    assert host.run("test -s %s", path).rc == 0, f"{path} is missing or empty"


def test_running_kernel_has_an_initramfs_if_others_have(host: Host) -> None:
    """A package that failed to build it leaves a guest that starts only by luck."""
    found = host.run("ls -1 /boot/initrd.img-* /boot/initramfs-*.img 2>/dev/null")
    images = found.stdout.split()
    release = _release(host)
    own = [path for path in images if f"-{release}" in path]
    assert own or not images, f"no initramfs for {release}, only {', '.join(images)}"
    for path in own:
        assert host.run("test -s %s", path).rc == 0, f"{path} is empty"


def test_boot_loader_knows_the_running_kernel(host: Host) -> None:
    """Else the next start takes another kernel, or none."""
    menu = host.run("cat /boot/grub/grub.cfg /boot/grub2/grub.cfg 2>/dev/null").stdout
    entries = host.run("cat /boot/loader/entries/*.conf 2>/dev/null").stdout
    release = _release(host)
    assert not menu or f"vmlinuz-{release}" in menu + entries, f"no boot entry for {release}"
