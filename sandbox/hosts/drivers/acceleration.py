"""Whether KVM really works here: proved by running something, never by a file being there.

Some kernels offer ``/dev/kvm`` on which no stock guest runs. The one met while this was
written (a nested micro-VM with the module ``kvm_pvm``) opens, answers every capability query
of QEMU, and then never gets through the BIOS: it cannot run real mode or unmodified kernel
mode. So the proof is the way every stock kernel takes: SeaBIOS, a boot sector, protected
mode, paging, long mode, and from there the exit code. Later versions of that module get there,
one interpreted instruction at a time (9 s), and still boot no kernel: so the boot sector also
counts to 50 million on the way, which a processor does in 0.1 s and QEMU's emulation in 0.3 s.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import Literal

from sandbox.core.deadline import Deadline
from sandbox.core.errors import DeadlineExceeded
from sandbox.core.process import run

Acceleration = Literal["kvm", "tcg"]

DEVICE = Path("/dev/kvm")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
CACHE = Path("/run/upgrade-sandbox/acceleration")
PROBE_SECONDS = 10.0
# isa-debug-exit turns the value v written to its port into QEMU's exit status 2 v + 1.
EXIT_PORT = 0x501
EXIT_STATUS = 2 * 0x10 + 1

# The boot sector, loaded at 0x7c00; test_demo.py runs it on the emulator.
_CODE = """
fa 31 c0 8e d8 8e d0                 cli; ds = ss = 0
0f 01 16 e0 7c                       lgdt [0x7ce0]
0f 20 c0 0c 01 0f 22 c0              cr0 |= protected mode
ea 19 7c 08 00                       jump to 32-bit code at 0x7c19
66 b8 10 00 8e d8 8e c0 8e d0        ds = es = ss = 0x10
bf 00 10 00 00 31 c0                 clear the page tables ...
b9 00 0c 00 00 f3 ab                 ... at 0x1000 to 0x3fff
c7 05 00 10 00 00 03 20 00 00        level 4 -> 0x2000
c7 05 00 20 00 00 03 30 00 00        level 3 -> 0x3000
c7 05 00 30 00 00 83 00 00 00        level 2: the first 2 MiB as they are
0f 20 e0 83 c8 20 0f 22 e0           cr4 |= physical address extension
b8 00 10 00 00 0f 22 d8              cr3 = 0x1000
b9 80 00 00 c0 0f 32                 read the register EFER ...
0d 00 01 00 00 0f 30                 ... and set "long mode enable" in it
0f 20 c0 0d 00 00 00 80 0f 22 c0     cr0 |= paging: long mode is active
ea 80 7c 00 00 18 00                 jump to 64-bit code
b9 80 f0 fa 02 e2 fe                 count 50,000,000 down to 0
48 ba 01 05 00 00 00 00 00 00        rdx = the exit port (an instruction of long mode only)
b8 10 00 00 00 66 ef                 write 0x10 to it: the machine ends here
f4 eb fd                             not reached
"""
_CODE_WIDTH = 37
_DESCRIPTORS_AT = 0xC0
# Null, 32-bit code, data, 64-bit code; behind them, at 0xe0, what lgdt reads.
_DESCRIPTORS = (0, 0x00CF9A000000FFFF, 0x00CF92000000FFFF, 0x00AF9A000000FFFF)


def acceleration() -> Acceleration:
    """``kvm`` when it was seen to work on this host, else ``tcg``; remembered until it reboots."""
    if not DEVICE.exists():
        return "tcg"
    remembered = _recall()
    if remembered is None:
        remembered = "kvm" if probe("kvm") else "tcg"
        _remember(remembered)
    return remembered


def probe(accelerator: Acceleration, seconds: float = PROBE_SECONDS) -> bool:
    """Whether a boot sector gets through to long mode and ends the machine in time."""
    with tempfile.NamedTemporaryFile(suffix=".boot") as sector:
        sector.write(boot_sector())
        sector.flush()
        try:
            done = run(
                [
                    *("qemu-system-x86_64", "-machine", f"pc,accel={accelerator}", "-cpu", "max"),
                    *("-m", "32", "-nodefaults", "-no-user-config", "-display", "none"),
                    *("-drive", f"file={sector.name},format=raw,if=floppy,readonly=on"),
                    *("-device", f"isa-debug-exit,iobase={EXIT_PORT:#x},iosize=2"),
                ],
                Deadline(seconds, f"probing {accelerator}"),
                check=False,
            )
        except DeadlineExceeded:
            return False
    return done.status == EXIT_STATUS


def boot_sector() -> bytes:
    """The 512 bytes that the BIOS loads."""
    code = b"".join(bytes.fromhex(line[:_CODE_WIDTH]) for line in _CODE.strip().splitlines())
    table = b"".join(entry.to_bytes(8, "little") for entry in _DESCRIPTORS)
    pointer = (len(table) - 1).to_bytes(2, "little")
    pointer += (0x7C00 + _DESCRIPTORS_AT).to_bytes(4, "little")
    return (code.ljust(_DESCRIPTORS_AT, b"\0") + table + pointer).ljust(510, b"\0") + b"\x55\xaa"


def _recall() -> Acceleration | None:
    try:
        words = CACHE.read_text().split()
    except OSError:
        return None
    if words == [_boot_id(), "kvm"]:
        return "kvm"
    return "tcg" if words == [_boot_id(), "tcg"] else None


def _remember(answer: Acceleration) -> None:
    # Only time is lost when it cannot be kept (no root, /run full): the next call probes again.
    with contextlib.suppress(OSError):
        CACHE.parent.mkdir(parents=True, exist_ok=True)
        fresh = CACHE.with_name(f"{CACHE.name}.{os.getpid()}")
        fresh.write_text(f"{_boot_id()} {answer}\n")
        fresh.replace(CACHE)


def _boot_id() -> str:
    return BOOT_ID.read_text().strip()
