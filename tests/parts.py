"""What `make quick`, `make test` and `make test-all` consist of: growing circles of one list.

A part is one session of pytest (or a few commands) in processes of its own. Parts that boot guests
keep one of two cores busy each: two of them run at a time, and beside them one that boots none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Circle = Literal["quick", "test", "all"]
CIRCLES: tuple[Circle, ...] = ("quick", "test", "all")
Libvirt = Literal["", "uses", "restarts"]


@dataclass(frozen=True)
class Part:
    """``files`` are what pytest collects; ``more`` in the widest circle only.

    ``boots``: whether it keeps a core busy with guests. ``libvirt``: what it does with this
    machine's libvirtd; one that restarts it runs beside none that uses it. ``production``: the
    name of its running guest, one for each part.
    """

    name: str
    what: str
    files: tuple[str, ...] = ()
    circle: Circle = "test"
    boots: bool = False
    libvirt: Libvirt = ""
    production: str = ""
    without: tuple[str, ...] = ()
    more: tuple[str, ...] = ()
    processes: int = 1  # for pytest-xdist
    commands: tuple[tuple[str, ...], ...] = ()

    def argvs(self, circle: Circle, extra: tuple[str, ...] = ()) -> tuple[tuple[str, ...], ...]:
        """Its commands; programs are those of the virtual environment."""
        if self.commands:
            return self.commands
        files = (*self.files, *(self.more if circle == "all" else ()))
        left = tuple(f"--ignore-glob={path}" for path in self.without if path not in files)
        shared = ("-n", str(self.processes)) if self.processes > 1 else ()
        return (("pytest", *shared, *files, *left, *extra),)


# What a failure is most likely in and what is quickest comes first, of the rest the longest.
PARTS: tuple[Part, ...] = (
    Part(
        "lint",
        "style, format, types",
        circle="quick",
        commands=(("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",)),
    ),
    Part("unit", "pure functions, rules of the code", ("tests/unit",), circle="quick"),
    Part("system", "real sshd, apt, nft and LVM on this machine", ("tests/system",)),
    Part(
        "xen",
        "rehearsals on Xen: in the lab, or on the host that SANDBOX_XEN_URI names",
        ("tests/xen",),
        boots=True,
        # PVH and HVM need nested virtualisation, which QEMU emulates slowly and not always; further
        # kinds of files cost three more boots.
        without=("tests/xen/test_xen_types.py", "tests/xen/test_xen_files.py"),
    ),
    Part(
        "restart",
        "libvirtd is restarted in mid-rehearsal",
        ("tests/faults/test_libvirtd_restart.py",),
        boots=True,
        libvirt="restarts",
        production="sbtest02",
    ),
)
