"""Long jobs in a guest: begun there, followed, and collected whatever happens to the connection."""

from __future__ import annotations

import shlex
from collections.abc import Callable

# Where a job's script and output live in the guest: a tmpfs, so that a full disk does not matter.
JOBS = "/run/upgrade-sandbox"


class Lines:
    """Splits a byte stream into lines and counts its bytes, so that a reader can resume."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self.count = 0
        self._rest = b""
        self._on_line = on_line

    def feed(self, data: bytes) -> None:
        self.count += len(data)
        *whole, self._rest = (self._rest + data).split(b"\n")
        for line in whole:
            self._on_line(line.decode(errors="replace"))

    def finish(self) -> None:
        if self._rest:
            self._on_line(self._rest.decode(errors="replace"))
            self._rest = b""


def as_program(script: str) -> str:
    """A script for ``sh -s``: read whole before it runs, standard input empty, and never 255,
    which is what ssh says when it has lost the guest."""
    # The colon: a script may be empty, or have comments only.
    return f'( :\n{script}\n) </dev/null\ns=$?\n[ "$s" -ne 255 ] || s=254\nexit "$s"\n'


def begin_script(script: str) -> str:
    program = shlex.quote(as_program(script))
    return f"""umask 077
d=$1
shift
mkdir -p "$d" && printf %s {program} >"$d/job" && : >"$d/log" || exit
(
  trap '' HUP
  sh "$d/job" "$@" >"$d/log" 2>&1 </dev/null
  echo "$?" >"$d/rc.new"
  mv "$d/rc.new" "$d/rc"
) >/dev/null 2>&1 </dev/null &
"""


# Short jobs are not kept waiting for a second; long ones are not asked all the time. POSIX knows
# whole seconds only.
WATCH = """d=$1
tail -c "+$2" -f "$d/log" 2>/dev/null &
t=$!
n=0
while [ ! -e "$d/rc" ] && [ -d "$d" ]; do
    if [ "$n" -lt 100 ] && sleep 0.2 2>/dev/null; then n=$((n + 1)); else sleep 1; fi
done
kill "$t" 2>/dev/null
wait "$t" 2>/dev/null
:
"""

STATUS = "\n--upgrade-sandbox-status="
COLLECT = f"""tail -c "+$2" "$1/log" 2>/dev/null
printf '\\n%s' '{STATUS.strip()}'
cat "$1/rc" 2>/dev/null
"""
# Run by `sh -c`, with the file's content on standard input.
RECEIVE = """umask 077
case $1 in */*) mkdir -p -- "${1%/*}/" || exit ;; esac
cat >"$1" && chmod 600 -- "$1"
"""
