"""Images of the corpus's machine: as its packages make it, and variants with a past."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from sandbox.core.deadline import Deadline
from sandbox.core.process import run
from sandbox.demo.image import CACHE, DemoImage, build_image, derive_image, digest, write
from tests.corpus.corpus_case import DEMO
from tests.corpus.corpus_machine import MACHINE, SHOP_CONF, SHOP_CONF_TEXT
from tests.support.guests.archive import SOURCES_LIST

EDITED_CONF_TEXT = SHOP_CONF_TEXT.replace("title = Widgets", "title = Widgets of web01")
# A real unit that starts before anybody can log in: how a variant of the machine gets its past.
PREPARE = """[Unit]
Description=what happened to this machine before
Before=ssh.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh /usr/local/sbin/prepare

[Install]
WantedBy=multi-user.target
"""

# Variants: files of the machine before the upgrade; "prepare" is a script that runs at its start.
EDITED, HELD, HALF, FULL, ONCE = "edited", "held", "half-configured", "full", "once"
OLD, SLOW, LATE, RESTARTS, EARLY, BUSY = "old", "slow", "late", "restarts", "early", "busy"
CUT, BROKEN, ENDS = "cut", "broken", "ends"
OLD_SITE = """# nginx warns of "ssl" up to 1.25.0, and knows it no more from 1.25.1 on.
server {
    listen 127.0.0.1:8081;
    ssl off;
    return 204;
}
"""
ONCE_UNIT = """[Unit]
Description=runs in the first start of this machine only
ConditionPathExists=!/var/lib/web01-once

[Service]
ExecStart=/bin/sh -c 'touch /var/lib/web01-once; exec sleep infinity'

[Install]
WantedBy=multi-user.target
"""
# The first start is the clone's own, the second the one after the upgrade.
SECOND_START = """[Unit]
Description=slow in the second start of this machine only

[Service]
Type=oneshot
TimeoutStartSec={limit}
ExecStart=/bin/sh -c 'echo >>/var/lib/starts; [ $$(wc -l </var/lib/starts) != 2 ] || sleep 160'

[Install]
WantedBy=multi-user.target
"""
ENDS_ITSELF = """[Unit]
Description=brings about a {what} {seconds} seconds after this machine's start number {start}

[Service]
ExecStart=/bin/sh -c 'echo >>/var/lib/starts; [ $$(wc -l </var/lib/starts) = {start} ] || exit 0; \
 sleep {seconds}; systemctl {what}'

[Install]
WantedBy=multi-user.target
"""
OWN_APT = """[Unit]
Description=has the lock of the package manager, and does not give it back

[Service]
ExecStart=/usr/bin/python3 -c 'import fcntl, signal; \
 lock = open("/var/lib/dpkg/lock-frontend", "w"); fcntl.lockf(lock, fcntl.LOCK_EX); signal.pause()'

[Install]
WantedBy=multi-user.target
"""
VARIANTS: dict[str, dict[str, str]] = {
    EDITED: {SHOP_CONF: EDITED_CONF_TEXT},
    HELD: {"prepare": "echo web01-shop hold | dpkg --set-selections\n"},
    HALF: {
        "prepare": "sed -i '/^Package: web01-tools$/,/^$/"
        "s/^Status: .*/Status: install ok half-configured/' /var/lib/dpkg/status\n"
    },
    CUT: {  # as on a guest that is cloned while its own dpkg is at work
        "prepare": "sed -n '/^Package: web01-tools$/,/^$/p' /var/lib/dpkg/status"
        " >/var/lib/dpkg/updates/0001\n"
    },
    BROKEN: {
        "prepare": "sed -i '/^Package: web01-tools$/,/^$/"
        "s/^Status: .*/Status: install ok half-configured/' /var/lib/dpkg/status\n"
        "script=/var/lib/dpkg/info/web01-tools.postinst\n"
        "printf '#!/bin/sh\\necho error: no licence\\nexit 1\\n' >$script\nchmod 755 $script\n"
    },
    FULL: {  # 30 MB are left
        "prepare": "fallocate -l $(( ($(stat -f -c %a /) - 7680) * $(stat -f -c %S /) )) /fill\n"
    },
    ONCE: {"unit": ONCE_UNIT},
    SLOW: {"unit": SECOND_START.format(limit=300)},
    RESTARTS: {"unit": ENDS_ITSELF.format(what="reboot", start=2, seconds=60)},
    EARLY: {"unit": ENDS_ITSELF.format(what="reboot", start=1, seconds=150)},
    ENDS: {"unit": ENDS_ITSELF.format(what="poweroff", start=1, seconds=150)},
    BUSY: {"unit": OWN_APT},
    LATE: {"unit": SECOND_START.format(limit=130)},
}


def make_image(variant: str, progress: Callable[[str], None]) -> DemoImage:
    """The machine, or a variant of it; cached, in a folder of the corpus's own."""
    if variant == DEMO:
        return build_image(progress)
    if variant == OLD:
        files = {"/etc/nginx/conf.d/old.conf": OLD_SITE}
        return derive_image(build_image(progress), "corpus-old", progress, files=files)
    cache = CACHE / "corpus"
    base = build_image(
        progress,
        extra_packages=("cron", "openssl", "sudo", "tzdata"),
        customise=_install,
        variant=f"corpus-{digest(repr(MACHINE))}",
        cache=cache,
    )
    if not variant:
        return base
    files, links = {}, {}
    for path, content in VARIANTS[variant].items():
        if path == "prepare":
            files["/usr/local/sbin/prepare"] = content
        unit = {"prepare": PREPARE, "unit": content}.get(path)
        if unit is None:
            files[path] = content
            continue
        name = f"/etc/systemd/system/web01-{variant}.service"
        files[name] = unit
        links[f"/etc/systemd/system/multi-user.target.wants/web01-{variant}.service"] = name
    return derive_image(base, f"corpus-{variant}", progress, files=files, links=links, cache=cache)


def _install(tree: Path) -> None:
    """The machine's own packages, and the tests' archive as its only source."""
    folder = tree / "corpus"
    for package in MACHINE:
        package.build(folder)
    inside = [f"/corpus/{path.name}" for path in sorted(folder.iterdir())]
    run(["chroot", tree, "dpkg", "--install", *inside], Deadline(300, "filling the machine"))
    shutil.rmtree(folder)
    write(tree / "etc/apt/sources.list", SOURCES_LIST)
