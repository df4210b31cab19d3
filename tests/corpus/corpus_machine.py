"""The machine that the corpus upgrades: web01 with a shop, a packer, TLS, cron jobs and sudo.

All of it comes from packages, so that dpkg knows whose a file is, as on a real machine.
"""

from __future__ import annotations

from collections.abc import Iterable

from sandbox.demo.broken import DATA, SITE_CONFIG, SITE_PACKAGE, SITE_PAGE
from tests.corpus.corpus_case import Content, Deb, HostFile, live, sh

SITE_TEXT = (DATA / "site-1.0.conf").read_text()
SHOP_CONF = "/etc/web01-shop/shop.conf"
SHOP_CONF_TEXT = """[shop]
port = 8080
title = Widgets
currency = EUR
key = /etc/web01-shop/key
"""
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
