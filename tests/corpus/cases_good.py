"""Upgrades that do no harm."""

from __future__ import annotations

from tests.corpus.corpus_case import ALL, DEMO, REBOOT, Case, Deb, install, live
from tests.corpus.corpus_image import EDITED, HELD
from tests.corpus.corpus_machine import (
    KNOWN,
    NEW_CERTIFICATE,
    NOTIFY,
    OTHERS,
    SHOP_CONF_TEXT,
    backup,
    ca,
    native,
    pack,
    price,
    shop,
    site,
    text,
)

LATE = shop(
    "1.1",
    at_start="time.sleep(12)",
    restart="systemctl daemon-reload; systemctl restart --no-block web01-shop.service",
)
METRICS = Deb(
    "web01-metrics",
    "1.0",
    files={
        "/usr/lib/web01-metrics/serve.py": "import os\nimport socket\nimport http.server as h\n\n"
        "server = h.HTTPServer(('127.0.0.1', 9100), h.SimpleHTTPRequestHandler)\n"
        f"{NOTIFY}server.serve_forever()\n",
        "/lib/systemd/system/web01-metrics.service": "[Service]\nType=notify\nUser=nobody\n"
        "WorkingDirectory=/usr/share\nExecStart=/usr/bin/python3 /usr/lib/web01-metrics/serve.py\n"
        "[Install]\nWantedBy=multi-user.target\n",
    },
    postinst=live("systemctl daemon-reload", "systemctl enable --now web01-metrics.service"),
)
HEADERS = Deb(
    "web01-headers",
    "1.0",
    files={"/etc/nginx/conf.d/headers.conf": "add_header X-Frame-Options DENY;\n"},
    conffiles=("/etc/nginx/conf.d/headers.conf",),
    postinst=live("systemctl reload nginx.service"),
    depends="nginx",
)
TIMER = Deb(
    "web01-report",
    "1.0",
    files={
        "/lib/systemd/system/web01-report.service": "[Service]\nType=oneshot\n"
        "ExecStart=/bin/true\n",
        "/lib/systemd/system/web01-report.timer": "[Timer]\nOnCalendar=daily\n"
        "[Install]\nWantedBy=timers.target\n",
    },
    postinst=live(
        "systemctl daemon-reload",
        "systemctl enable --now web01-report.timer",
        "systemctl start web01-report.service",
    ),
)
BACKUP_CHECK = """
def test_the_backup_is_scheduled(host):
    assert host.file("/etc/cron.d/web01-backup").contains("backup"), "nobody runs the backup"
"""
TLS_CHECK = """
def test_tls_answers(host):
    asked = host.run("openssl s_client -connect 127.0.0.1:443 </dev/null")
    assert "CN = web01" in asked.stdout, "no certificate of web01's is served"
"""

CASES = (
    Case(
        "security-updates",
        "pass",
        "the security updates that wait for the demo's guest, a kernel among them",
        image=DEMO,
        mirror="debian",
        shipped="security",
    ),
    Case(
        "one-library-from-debian",
        "pass",
        "one security update of a library that nginx and sshd load",
        scenario=install("libssl3"),
        image=DEMO,
        mirror="debian",
    ),
    Case(
        "next-release",
        "pass",
        "the demo's guest goes to the next release of Debian, kernel and all",
        image=DEMO,
        mirror="debian",
        shipped="release",
    ),
    Case("new-site", "pass", "a good new version of the site", packages=(site("1.1"),)),
    Case(
        "new-service",
        "pass",
        "a service that was not there before",
        packages=(METRICS,),
        scenario=install("web01-metrics"),
    ),
    Case(
        "configuration-added",
        "pass",
        "a further file of nginx's, which it understands",
        packages=(HEADERS,),
        scenario=install("web01-headers"),
    ),
    Case(
        "library-compatible",
        "pass",
        "the library has one function more",
        packages=(price("1.1", more="\n\ndef count(items):\n    return len(items)\n"),),
    ),
    Case(
        "edited-conffile-stays",
        "pass",
        "the administrator's own configuration, and a version that does not touch it",
        packages=(shop("1.1"),),
        image=EDITED,
    ),
    Case(
        "removed-by-conflict-unneeded",
        "pass",
        "the successor of a package takes its place; nobody needs the old one",
        packages=(text("web01-tools-ng", "1.0", Conflicts="web01-tools", Replaces="web01-tools"),),
        scenario=install("web01-tools-ng"),
    ),
    Case("texts-only", "pass", "documentation", packages=(text("web01-docs", "1.1"),)),
    Case(
        "services-restarted",
        "pass",
        "two services are restarted and come up again",
        packages=(shop("1.1"), pack("1.1")),
    ),
    Case(
        "reboot-without-a-kernel",
        "pass",
        "documentation, and a reboot that nothing stands in the way of",
        packages=(text("web01-docs", "1.1"),),
        scenario=ALL + REBOOT,
    ),
    Case(
        "many-at-once",
        "pass",
        "nine good packages",
        packages=(
            *(site("1.1"), shop("1.1"), price("1.1"), native("1.1"), pack("1.1"), backup("1.1")),
            *OTHERS,
        ),
    ),
    Case("opens-its-port-late", "pass", "the shop needs twelve seconds to start", packages=(LATE,)),
    Case(
        "option-removed-unused",
        "pass",
        "an option is gone, and the new configuration file does not have it any more",
        packages=(
            shop(
                "2.0",
                conf=SHOP_CONF_TEXT.replace("currency = EUR\n", ""),
                known=[name for name in KNOWN if name != "currency"],
            ),
        ),
    ),
    Case(
        "held-back",
        "pass",
        "the shop is on hold, so its bad version is not installed; the site's good one is",
        packages=(site("1.1"), shop("2.0", at_start="sys.exit('fatal: never to be run')")),
        image=HELD,
    ),
    Case(
        "noise-in-the-journal",
        "pass",
        "a maintainer script writes an error into the journal and means nothing by it",
        packages=(
            text("web01-tools", "1.1", live("logger -p daemon.err 'error: cache was rebuilt'")),
        ),
    ),
    Case(
        "timer-added",
        "pass",
        "a timer and its service, which has run once and ended",
        packages=(TIMER,),
        scenario=install("web01-report"),
    ),
    Case("nothing-waits", "pass", "there is nothing to upgrade"),
    Case(
        "cron-job-changed",
        "pass",
        "the backup runs an hour later",
        packages=(
            backup("1.1", cron="17 4 * * * root /usr/lib/web01-backup/backup\n"),
            *OTHERS,
        ),
        checks=BACKUP_CHECK,
    ),
    Case(
        "certificate-renewed",
        "pass",
        "a new certificate in the same place",
        packages=(ca("1.1", live(NEW_CERTIFICATE, "systemctl reload nginx.service")),),
        checks=TLS_CHECK,
    ),
    Case(
        "good-beside-a-control",
        "pass",
        "a good new version of the site, a reboot, and a control",
        packages=(site("1.1"),),
        scenario=ALL + REBOOT,
        control=True,
    ),
)
