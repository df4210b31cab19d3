"""What `make quick`, `make test` and `make test-all` consist of: growing circles of one list.

A part is one session of pytest, or a few commands, in processes of its own. Parts that boot guests
keep cores busy: as many run at a time as two cores carry, and beside them one that boots none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from tests.support.paths import ROOT

Circle = Literal["quick", "test", "all"]
CIRCLES: tuple[Circle, ...] = ("quick", "test", "all")


@dataclass(frozen=True)
class Part:
    """``files`` are what pytest collects, never those of ``without``, and those of ``less`` in the
    widest circle only.

    ``cores``: how many it keeps busy with guests. ``libvirt``: what it does with this
    machine's libvirtd; one that restarts it runs beside none that uses it. ``alone``: it measures,
    and nothing runs beside it. ``production``: the name of its running guest, one for each part.
    """

    name: str
    what: str
    files: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    less: tuple[str, ...] = ()
    circle: Circle = "test"
    cores: int = 0
    libvirt: Literal["", "uses", "restarts"] = ""
    alone: bool = False
    production: str = ""
    commands: tuple[tuple[str, ...], ...] = ()

    def argvs(self, circle: Circle, extra: tuple[str, ...] = ()) -> tuple[tuple[str, ...], ...]:
        """Its commands; their programs are in the virtual environment."""
        if self.commands:
            return self.commands
        return (("pytest", *sorted(self.collected(circle)), *extra),)

    def collected(self, circle: Circle) -> set[str]:
        """The files of tests, beneath the checkout."""
        left = self.without if circle == "all" else (*self.without, *self.less)
        return set(_files(self.files)) - set(_files(left))


def _files(patterns: tuple[str, ...]) -> Iterator[str]:
    """A folder stands for all tests in it."""
    for pattern in patterns:
        for path in ROOT.glob(pattern):
            found = path.rglob("test_*.py") if path.is_dir() else (path,)
            yield from (str(file.relative_to(ROOT)) for file in found)


# What fails most often and what is quickest comes first, of the rest the longest.
PARTS: tuple[Part, ...] = (
    Part(
        "lint",
        "style, format, types",
        circle="quick",
        commands=(("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",)),
    ),
    Part(
        "unit",
        "pure functions, and the rules of the code",
        ("tests/unit", "tests/system/test_checkout.py"),
        circle="quick",
    ),
    Part(
        "restart",
        "libvirtd is restarted in mid-rehearsal",
        ("tests/faults/test_libvirtd_restart.py",),
        cores=1,
        libvirt="restarts",
        production="sbtest02",
    ),
    Part(
        "xen",
        "rehearsals on Xen: in the lab, or on the host that SANDBOX_XEN_URI names",
        ("tests/xen",),
        # PVH and HVM need nested virtualisation, which QEMU emulates slowly and not always; further
        # kinds of files cost three more boots, a host that is out of reach for long another one.
        less=(
            "tests/xen/test_xen_types.py",
            "tests/xen/test_xen_files.py",
            "tests/xen/test_xen_cut.py",
        ),
        # The lab's two processors wait for each other: beside other guests a kernel's upgrade in it
        # took twice as long as alone, and twice the processors' time.
        cores=2,
    ),
    Part(
        "faults",
        "runs and workers that are killed or interrupted; bad input",
        (
            "tests/faults/test_killed.py",
            "tests/faults/test_interrupted.py",
            "tests/faults/test_service_on_qemu.py",
            "tests/vm/test_bad_input.py",
        ),
        cores=1,
        libvirt="uses",
        production="sbtest03",
    ),
    Part(
        "vm",
        "the source is untouched, its clone alone; a preflight only reads; verdicts of all kinds",
        ("tests/vm",),
        without=("tests/vm/test_bad_input.py", "tests/vm/test_demo_run.py"),
        cores=1,
        libvirt="uses",
        production="sbtest01",
    ),
    Part(
        "demo",
        "what `make demo` runs, and the README's commands",
        ("tests/vm/test_demo_run.py",),
        cores=1,
        libvirt="uses",
        production="sbtest04",
    ),
    Part(
        "bench",
        "ratios, measured on a machine that does nothing else",
        ("tests/benchmarks",),
        circle="all",
        cores=1,
        libvirt="uses",
        alone=True,
    ),
    Part(
        "system",
        "real sshd, apt, nft and LVM on this machine",
        ("tests/system",),
        without=("tests/system/test_checkout.py",),
    ),
    Part(
        "contract",
        "one suite for every implementation; the service, its API and web; a real browser",
        ("tests/contract",),
        libvirt="uses",
    ),
    Part(
        "chaos",
        "the service under kill -9, lost servers, double messages: CHAOS_SEED=N repeats one",
        ("tests/faults/test_chaos_*.py",),
    ),
)
