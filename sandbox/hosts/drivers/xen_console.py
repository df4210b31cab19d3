"""A Xen clone's console into the run's console log: libxl keeps none by itself.

A program on the host reads the console's terminal and finds it again after every reboot, when it
is another one. It ends by itself half a minute after its domain.
"""

from __future__ import annotations

from pathlib import Path

from sandbox.core.process import start
from sandbox.core.store import RunFolder
from sandbox.hosts.transport import Host

# Without the domain it looks after 1, 2, 4, … seconds: each look starts programs on the host. Xen
# keeps what a guest says meanwhile. It ends after the longest pause.
_LONGEST_PAUSE = 16
# The serial port of an HVM domain, else the Xen console. `cat` ends with the domain's instance.
_FOLLOW = f"""name=$1 pause=1
while [ "$pause" -le {_LONGEST_PAUSE} ]; do
    if id=$(xl domid "$name" 2>/dev/null); then
        pause=1
        tty=$(xenstore-read "/local/domain/$id/serial/0/tty" 2>/dev/null) ||
            tty=$(xenstore-read "/local/domain/$id/console/tty" 2>/dev/null)
        [ -c "$tty" ] && cat -- "$tty" 2>/dev/null
        sleep 1
    else
        sleep "$pause"
        pause=$((2 * pause))
    fi
done
"""


def follow_console(host: Host, domain: str, log: Path, folder: RunFolder) -> None:
    """Append what the domain says to ``log`` from now on; the program is noted with the run."""
    log.touch(mode=0o600)
    with log.open("ab") as output:
        program = start(host.command(["sh", "-c", _FOLLOW, "sh", domain]), output)
    folder.register(program.pid, "console")
