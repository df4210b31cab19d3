"""The machine that the corpus upgrades: web01 with a shop, a packer, TLS, cron jobs and sudo.

All of it comes from packages, so that dpkg knows whose a file is, as on a real machine.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from archive import SOURCES_LIST
from corpus_case import DEMO, Content, Deb, HostFile, live, sh

from sandbox.deadline import Deadline
from sandbox.demo.broken import DATA, SITE_CONFIG, SITE_PACKAGE, SITE_PAGE
from sandbox.demo.image import CACHE, DemoImage, build_image, derive_image, digest, write
from sandbox.process import run

SITE_TEXT = (DATA / "site-1.0.conf").read_text()
SHOP_CONF = "/etc/web01-shop/shop.conf"
SHOP_CONF_TEXT = """[shop]
port = 8080
title = Widgets
currency = EUR
key = /etc/web01-shop/key
"""
EDITED_CONF_TEXT = SHOP_CONF_TEXT.replace("title = Widgets", "title = Widgets of web01")
KNOWN = ("port", "title", "currency", "key")
NOTIFY = """
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
    told.connect(os.environ["NOTIFY_SOCKET"])
    told.send(b"READY=1")
"""
SHOP = """# The shop: its front page over HTTP.
import configparser
import http.server
import os
import socket
import sys
import threading
import time

import web01_price

CONF = "/etc/web01-shop/shop.conf"
KNOWN = {known}
config = configparser.ConfigParser()
config.read(CONF)
shop = config["shop"]
for name in shop:
    if name not in KNOWN:
        sys.exit(f"error: unknown option {{name!r}} in {{CONF}}")
with open(shop["key"]) as file:
    key = file.read()
total = web01_price.total([19, 23])
{at_start}

class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"<h1>{{shop['title']}}</h1> {{total}} {{shop.get('currency', '')}}".encode()
        self.send_response({status})
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


server = http.server.ThreadingHTTPServer(("0.0.0.0", int(shop["port"])), Page)
{notify}
{when_ready}
server.serve_forever()
"""
PACK = f"""# The packer: compresses with web01's own library.
import ctypes
import os
import socket
import time

library = ctypes.CDLL("/usr/lib/web01/libweb01.so.1")
library.zlibVersion.restype = ctypes.c_char_p
print("packing with", library.zlibVersion().decode(), flush=True)
{NOTIFY}
while True:
    time.sleep(3600)
"""
UNIT = """[Unit]
Description={description}
After=network.target

[Service]
Type=notify
User={user}
ExecStart=/usr/bin/python3 {program}
{more}
[Install]
WantedBy=multi-user.target
"""
NGINX_TLS = """server {
    listen 443 ssl default_server;
    ssl_certificate /etc/ssl/web01/web01.pem;
    ssl_certificate_key /etc/ssl/web01/web01.key;
    root /usr/share/web01-site;
}
"""
NEW_CERTIFICATE = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650"
    " -subj /CN=web01 -keyout /etc/ssl/web01/web01.key -out /etc/ssl/web01/web01.pem 2>/dev/null"
)
RESTART = "systemctl daemon-reload; systemctl restart web01-shop.service || true"
RESTART_NGINX = "systemctl restart nginx.service || true"
SUDOERS = "deploy ALL=(root) NOPASSWD: /usr/bin/systemctl reload nginx\n"
CRON = "17 3 * * * root /usr/lib/web01-backup/backup\n"
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


def stop(service: str) -> str:
    """What a package's service does when the package is removed."""
    return live('[ "$1" = remove ] || exit 0', f"systemctl disable --now {service}.service")


def site(version: str, config: str = "", page: str | None = "<h1>web01, new</h1>\n") -> Deb:
    """web01's own site; with its configuration of 1.0 where none is given."""
    files: dict[str, Content] = {SITE_CONFIG: config or SITE_TEXT}
    if page is not None:
        files[SITE_PAGE] = page
    return Deb(
        SITE_PACKAGE,
        version,
        files=files,
        conffiles=(SITE_CONFIG,),
        postinst=(DATA / "site-postinst.sh").read_text(),
        depends="nginx",
    )


def shop(
    version: str,
    *,
    conf: str = SHOP_CONF_TEXT,
    known: Iterable[str] = KNOWN,
    at_start: str = "",
    when_ready: str = "",
    status: int | str = 200,
    unit: str = "",
    postinst: Iterable[str] = (),
    restart: str = RESTART,
) -> Deb:
    """The shop; ``postinst`` are commands before its restart."""
    program = SHOP.format(
        known=tuple(known), at_start=at_start, when_ready=when_ready, status=status, notify=NOTIFY
    )
    return Deb(
        "web01-shop",
        version,
        files={
            "/usr/lib/web01-shop/shop.py": program,
            "/lib/systemd/system/web01-shop.service": UNIT.format(
                description="web01's shop",
                user="shop",
                program="/usr/lib/web01-shop/shop.py",
                more=unit,
            ),
            SHOP_CONF: conf,
        },
        conffiles=(SHOP_CONF,),
        postinst=sh(
            "id shop >/dev/null 2>&1 || useradd --system --no-create-home shop",
            "if [ ! -e /etc/web01-shop/key ]; then",
            "    echo secret >/etc/web01-shop/key",
            "    chown root:shop /etc/web01-shop/key",
            "    chmod 640 /etc/web01-shop/key",
            "    systemctl enable web01-shop.service",
            "fi",
            "[ -d /run/systemd/system ] || exit 0",
            *postinst,
            restart,
        ),
        prerm=stop("web01-shop"),
        depends="python3, web01-price",
    )


def price(version: str, function: str = "total", more: str = "") -> Deb:
    """A library of the shop's, in Python."""
    return Deb(
        "web01-price",
        version,
        files={
            "/usr/lib/python3/dist-packages/web01_price.py": (
                f"def {function}(items):\n    return sum(items)\n{more}"
            )
        },
        postinst=live(
            "if systemctl is-enabled -q web01-shop.service 2>/dev/null; then",
            f"    {RESTART}",
            "fi",
        ),
        depends="python3",
    )


def native(version: str, library: str = "*/libz.so.1") -> Deb:
    """A library of the packer's, a real one."""
    return Deb(
        "web01-native",
        version,
        files={"/usr/lib/web01/libweb01.so.1": HostFile(library)},
        postinst=live("systemctl try-restart web01-pack.service || true"),
    )


def pack(version: str) -> Deb:
    return Deb(
        "web01-pack",
        version,
        files={
            "/usr/lib/web01-pack/pack.py": PACK,
            "/lib/systemd/system/web01-pack.service": UNIT.format(
                description="web01's packer",
                user="nobody",
                program="/usr/lib/web01-pack/pack.py",
                more="",
            ),
        },
        postinst=sh(
            "systemctl enable web01-pack.service",
            "[ -d /run/systemd/system ] || exit 0",
            "systemctl daemon-reload",
            "systemctl restart web01-pack.service || true",
        ),
        prerm=stop("web01-pack"),
        depends="python3, web01-native",
    )


def ca(version: str, postinst: str) -> Deb:
    """Whoever looks after web01's certificate."""
    return Deb("web01-ca", version, postinst=postinst, depends="openssl")


def backup(version: str, file: str = "/etc/cron.d/web01-backup", cron: str = CRON) -> Deb:
    return Deb(
        "web01-backup",
        version,
        files={file: cron, "/usr/lib/web01-backup/backup": "#!/bin/sh\nexit 0\n"},
        executable=("/usr/lib/web01-backup/backup",),
        depends="cron",
    )


def admin(version: str, sudoers: str = SUDOERS, postinst: Iterable[str] = ()) -> Deb:
    """The user that deploys, and what it may do."""
    return Deb(
        "web01-admin",
        version,
        files={"/etc/sudoers.d/web01-admin": sudoers},
        postinst=sh(
            "id deploy >/dev/null 2>&1 || useradd --create-home deploy",
            *postinst,
        ),
        depends="sudo",
    )


def text(name: str, version: str, postinst: str = "", **fields: str) -> Deb:
    """A package that nothing depends on."""
    return Deb(
        name, version, files={f"/usr/share/{name}/text": version}, postinst=postinst, fields=fields
    )


TLS = Deb(
    "web01-tls",
    "1.0",
    files={"/etc/nginx/conf.d/tls.conf": NGINX_TLS},
    conffiles=("/etc/nginx/conf.d/tls.conf",),
    depends="nginx, web01-ca",
)
MACHINE = (
    *(text("web01-docs", "1.0"), text("web01-tools", "1.0"), text("web01-notes", "1.0")),
    *(price("1.0"), shop("1.0"), native("1.0"), pack("1.0")),
    ca("1.0", sh("mkdir -p /etc/ssl/web01", NEW_CERTIFICATE)),
    *(TLS, backup("1.0"), admin("1.0")),
)
# What is upgraded as well, and has nothing to do with it.
OTHERS = (text("web01-docs", "1.1"), text("web01-tools", "1.1"), text("web01-notes", "1.1"))

# Variants: files of the machine before the upgrade; "prepare" is a script that runs at its start.
EDITED, HELD, HALF, FULL, ONCE = "edited", "held", "half-configured", "full", "once"
OLD, SLOW, LATE, RESTARTS = "old", "slow", "late", "restarts"
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
RESTARTS_ITSELF = """[Unit]
Description=restarts this machine a minute after its second start

[Service]
ExecStart=/bin/sh -c 'echo >>/var/lib/starts; [ $$(wc -l </var/lib/starts) = 2 ] || exit 0; \
 sleep 60; systemctl reboot'

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
    FULL: {  # 30 MB are left
        "prepare": "fallocate -l $(( ($(stat -f -c %a /) - 7680) * $(stat -f -c %S /) )) /fill\n"
    },
    ONCE: {"unit": ONCE_UNIT},
    SLOW: {"unit": SECOND_START.format(limit=300)},
    RESTARTS: {"unit": RESTARTS_ITSELF},
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
