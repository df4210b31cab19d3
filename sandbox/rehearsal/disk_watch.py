"""Watches the disk beneath a clone when its command does not any more: kept, or killed.

A running QEMU guest's export lasts as long as its clone: what the source overwrites meanwhile is
kept in a file of the clone's folder, and were that disk full, the *source's* writes would fail.
While the command runs, :mod:`sandbox.clone.space_guard` gives the clone up in time. This is a
process of its own (``python -m sandbox.rehearsal.disk_watch URI FOLDER BYTES``), started with the
clone and ended with it, for the time after that. It stays small: what it needs to remove a clone it
imports only then.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path

INTERVAL = 1.0  # seconds


def watch(uri: str, clone: Path, least: int) -> None:
    """Until the clone's folder is gone; it is removed when its disk has less than this free."""
    while clone.exists():
        try:
            left = shutil.disk_usage(clone).free
        except FileNotFoundError:
            return
        if left < least and _give_up(uri, clone, left):
            return
        time.sleep(INTERVAL)


def _give_up(uri: str, clone: Path, left: int) -> bool:
    """Remove the clone; false when another process does so, or it has to be tried again."""
    from sandbox.clone.reaper import remove_run
    from sandbox.core.errors import SandboxError
    from sandbox.core.settings import Settings
    from sandbox.core.store import Store, is_alive
    from sandbox.hosts.inventory import at, connected
    from sandbox.rehearsal import recovery

    store = Store(Settings(state=clone.parent.parent))
    folder = store.folder(clone.name)
    facts = folder.facts()
    if facts.get("kept") != "yes" and is_alive(facts.get("owner", "")):
        return False  # the command's own guard ends it, and says so
    why = (
        f"{clone} had only {left >> 20} MiB free: "
        "the clone was removed so that the source can write"
    )
    try:
        with connected(at(uri)) as hypervisor:
            done = remove_run(hypervisor, folder)
        if not done.failed:
            recovery.close(folder, recovery.warned(store.load(folder), why))
    except (SandboxError, OSError) as problem:
        print(problem, file=sys.stderr)
        return False
    return not done.failed


def main() -> None:
    uri, clone, least = sys.argv[1:]
    os.chdir("/")  # its starter may want to unmount its folder
    watch(uri, Path(clone), int(least))


if __name__ == "__main__":
    main()
