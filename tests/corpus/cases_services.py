"""Upgrades that break a service."""

from __future__ import annotations

from sandbox.demo.broken import DATA
from tests.corpus.cases_good import TLS_CHECK
from tests.corpus.corpus_case import ALL, REBOOT, Case, Deb, install, live
from tests.corpus.corpus_image import EDITED, OLD
from tests.corpus.corpus_machine import (
    KNOWN,
    OTHERS,
    RESTART,
    RESTART_NGINX,
    SHOP_CONF,
    SHOP_CONF_TEXT,
    SITE_TEXT,
    ca,
    native,
    price,
    shop,
    site,
    text,
)

BROKEN_SITE = site("2.0", (DATA / "site-2.0.conf").read_text())
LOOPBACK = SITE_TEXT.replace("listen 80", "listen 127.0.0.1:80").replace("listen [::]", "# [::]")
BLOG = Deb(
    "web01-blog",
    "1.0",
    files={
        "/etc/nginx/conf.d/blog.conf": "server {\n    listen 80 default_server;\n"
        "    root /usr/share/web01-blog;\n}\n"
    },
    conffiles=("/etc/nginx/conf.d/blog.conf",),
    postinst=live(RESTART_NGINX),
    depends="nginx, web01-site (>= 1.1)",
)
SSH = Deb(
    "web01-ssh",
    "1.0",
    files={"/etc/ssh/sshd_config.d/web01-hard.conf": "PermitRootLogn no\n"},
    conffiles=("/etc/ssh/sshd_config.d/web01-hard.conf",),
    postinst=live("systemctl restart ssh.service || true"),
    depends="openssh-server",
)
HARDENING = Deb(
    "web01-hardening",
    "1.0",
    postinst=live(
        "mkdir -p /etc/systemd/system/web01-shop.service.d",
        "printf '[Service]\\nExecStartPre=/usr/bin/web01-audit\\n'"
        " >/etc/systemd/system/web01-shop.service.d/hardening.conf",
        RESTART,
    ),
)
ASK = """
ASK = "exec 3<>/dev/tcp/127.0.0.1/8080; printf 'GET / HTTP/1.0\\\\r\\\\n\\\\r\\\\n' >&3; cat <&3"
"""
FRONT_PAGE = (
    ASK
    + """

def test_the_front_page_is_ours(host):
    page = host.run("timeout 10 bash -c %s", ASK).stdout
    assert "Widgets of web01" in page, f"the title is not ours: {page[-60:]}"
"""
)


def dies_after(seconds: int) -> str:
    """A line of the shop's program."""
    return (
        f"threading.Timer({seconds}, lambda: (print('fatal: the price table is corrupt',"
        " flush=True), os._exit(1))).start()"
    )


CASES = (
    Case(
        "next-release-breaks-nginx",
        "fail",
        "the next release of Debian, whose nginx does not know a directive of this machine's site",
        "(?=.*nginx)(?=.*unknown directive)",
        image=OLD,
        mirror="debian",
        shipped="release",
    ),
    Case(
        "unknown-directive",
        "fail",
        "nginx refuses the new site's configuration",
        "(?=.*web01-site)(?=.*early_hints)",
        packages=(BROKEN_SITE, *OTHERS),
    ),
    Case(
        "dies-after-25-s",
        "fail",
        "the new shop runs for half a minute",
        "price table",
        packages=(shop("2.0", when_ready=dies_after(25)),),
    ),
    Case(
        "dies-after-two-minutes",
        "fail",
        "the new shop runs for two minutes",
        "price table",
        packages=(shop("2.0", when_ready=dies_after(120)),),
    ),
    Case(
        "dies-now-and-then",
        "fail",
        "the new shop ends after a minute and is started again: it is up whenever one looks",
        "price table",
        packages=(shop("2.0", when_ready=dies_after(60), unit="Restart=always\nRestartSec=1\n"),),
    ),
    Case(
        "crash-loop",
        "fail",
        "the new shop ends after three seconds and is started again, for ever",
        "price table",
        packages=(
            shop(
                "2.0",
                when_ready=dies_after(3),
                unit="Restart=always\nRestartSec=1\nStartLimitIntervalSec=0\n",
            ),
            *OTHERS,
        ),
    ),
    Case(
        "start-never-ends",
        "fail",
        "the new shop never says that it is ready, and may take for ever",
        "web01-shop.*still starting",
        packages=(
            shop(
                "2.0",
                at_start="time.sleep(100000)",
                unit="TimeoutStartSec=infinity\n",
                restart="systemctl daemon-reload",
            ),
            *OTHERS,
        ),
        scenario=ALL + REBOOT + "watch: 0\ndeadlines: {verify: 2m}\n",
    ),
    Case(
        "check-hangs",
        "fail",
        "the new shop takes requests and never answers; a check waits for its answer for ever",
        "hangs|no answer|8080",
        packages=(shop("2.0", status="time.sleep(9999)"),),
        scenario=ALL + "watch: 0\ndeadlines: {verify: 100}\n",
        checks=ASK
        + """

def test_the_shop_says_what_it_has(host):
    assert "Widgets" in host.run("bash -c %s", ASK).stdout
""",
    ),
    Case(
        "option-removed",
        "fail",
        "the administrator's configuration has an option that the new shop refuses",
        "(?=.*web01-shop)(?=.*currency)",
        packages=(
            shop(
                "2.0",
                conf=SHOP_CONF_TEXT.replace("currency = EUR\n", ""),
                known=[name for name in KNOWN if name != "currency"],
            ),
            *OTHERS,
        ),
        image=EDITED,
    ),
    Case(
        "conffile-replaced",
        "fail",
        "a maintainer script overwrites the administrator's configuration; all services run",
        "(?=.*web01-shop)(?=.*title)",
        packages=(shop("1.1", postinst=[f"sed -i 's/^title = .*/title = Widgets/' {SHOP_CONF}"]),),
        image=EDITED,
        checks=FRONT_PAGE,
    ),
    Case(
        "port-moved",
        "fail",
        "the shop listens on another port than everybody asks",
        "8080",
        packages=(shop("1.1", conf=SHOP_CONF_TEXT.replace("8080", "8081")), *OTHERS),
    ),
    Case(
        "key-unreadable",
        "fail",
        "a maintainer script takes the key away from the shop's user",
        "(?=.*web01-shop)(?=.*permission denied)",
        packages=(
            shop(
                "1.1",
                postinst=["chown root:root /etc/web01-shop/key", "chmod 600 /etc/web01-shop/key"],
            ),
            *OTHERS,
        ),
    ),
    Case(
        "module-without-its-function",
        "fail",
        "a library in Python renames a function; the shop, which is not upgraded, needs it",
        "(?=.*web01.price)(?=.*total)",
        packages=(price("2.0", function="sum_of"), *OTHERS),
    ),
    Case(
        "library-without-its-symbol",
        "fail",
        "a shared library loses a symbol; the packer, which is not upgraded, needs it",
        "(?=.*(web01-native|libweb01))(?=.*(symbol|zlibVersion))",
        packages=(native("2.0", "*/libcap.so.2"), *OTHERS),
    ),
    Case(
        "certificate-moved",
        "fail",
        "the certificate is elsewhere, and nginx looks for it where it was",
        r"web01\.pem",
        packages=(
            ca(
                "2.0",
                live(
                    "mkdir -p /etc/ssl/web01/live",
                    "mv /etc/ssl/web01/web01.pem /etc/ssl/web01/web01.key /etc/ssl/web01/live/",
                    RESTART_NGINX,
                ),
            ),
            *OTHERS,
        ),
    ),
    Case(
        "another-service",
        "fail",
        "a maintainer script has a program run before the shop that is not there",
        "web01-audit",
        packages=(HARDENING,),
        scenario=install("web01-hardening"),
    ),
    Case(
        "innocent-file-in-the-error",
        "fail",
        "a new site takes the default that another has; nginx complains about the other's file,"
        " which is upgraded as well",
        "(?=.*web01-blog)(?=.*duplicate default)",
        packages=(site("1.1"), BLOG),
        scenario=install("web01-blog"),
    ),
    Case(
        "answers-500",
        "fail",
        "the shop runs and answers every request with an error",
        "(?=.*8080)(?=.*500)",
        packages=(shop("1.1", status=500), *OTHERS),
    ),
    Case(
        "page-lost",
        "fail",
        "the new site has no front page",
        "404",
        packages=(site("1.1", page=None), *OTHERS),
    ),
    Case(
        "loopback-only",
        "fail",
        "the new site is bound to 127.0.0.1: nobody outside reaches it",
        r"127\.0\.0\.1",
        packages=(site("1.1", LOOPBACK), *OTHERS),
    ),
    Case(
        "sshd-refuses-its-configuration",
        "fail",
        "sshd is down: whoever is in stays in, nobody else gets in",
        "PermitRootLogn",
        packages=(SSH,),
        scenario=install("web01-ssh"),
    ),
    Case(
        "disabled",
        "fail",
        "a maintainer script disables nginx: after the reboot it is not there",
        "nginx.*disabled",
        packages=(text("web01-tools", "2.0", live("systemctl disable nginx.service")),),
        scenario=ALL + REBOOT,
    ),
    Case(
        "masked",
        "fail",
        "a maintainer script masks the shop: after the reboot it is not there; the control's is",
        "web01-shop.*masked",
        packages=(
            text("web01-tools", "2.0", live("systemctl mask web01-shop.service")),
            *OTHERS[::2],
        ),
        scenario=ALL + REBOOT,
        control=True,
    ),
    Case(
        "disabled-and-not-rebooted",
        "fail",
        "nginx is disabled and runs on: the next reboot of production will be without it",
        "nginx.*not now",
        packages=(text("web01-tools", "2.0", live("systemctl disable nginx.service")),),
    ),
    Case(
        "user-of-a-service-removed",
        "fail",
        "the shop's user is removed: it runs on until the reboot",
        "(?=.*web01-shop)(?=.*(user|credentials|217))",
        packages=(text("web01-tools", "2.0", live("userdel -f shop || true")),),
        scenario=ALL + REBOOT,
    ),
    Case(
        "removed-by-conflict-needed",
        "fail",
        "the new package conflicts with the shop, which apt removes",
        "(?=.*web01-shop)(?=.*unit is gone)",
        packages=(text("web01-accel", "1.0", Conflicts="web01-shop"),),
        scenario=install("web01-accel"),
    ),
    Case(
        "certificate-gone-at-reload",
        "fail",
        "the certificate is elsewhere and nginx is only reloaded: it goes on with the old one,"
        " until its next start",
        r"web01\.pem",
        packages=(
            ca(
                "2.0",
                live("mv /etc/ssl/web01/web01.pem /root/", "systemctl reload nginx || true"),
            ),
        ),
        checks="def test_nginx_accepts_its_configuration(host):\n"
        "    tested = host.run('nginx -t')\n"
        "    assert tested.rc == 0, tested.stderr\n" + TLS_CHECK,
    ),
)
