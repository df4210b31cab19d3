"""Upgrades that break the system beneath the services."""

from __future__ import annotations

from tests.corpus.cases_good import BACKUP_CHECK
from tests.corpus.corpus_case import ALL, REBOOT, Case, Deb, Zeros, install, live, sh
from tests.corpus.corpus_image import FULL, HELD
from tests.corpus.corpus_machine import OTHERS, SITE_TEXT, SUDOERS, admin, backup, shop, site, text

HOOK = "/etc/initramfs-tools/hooks/zz-forget-the-disk"
NO_DISK = Deb(
    "web01-boot",
    "1.0",
    files={
        HOOK: '#!/bin/sh\n[ "$1" != prereqs ] || exit 0\n'
        "find \"$DESTDIR\" -name 'virtio_blk.ko*' -delete\n"
    },
    executable=(HOOK,),
    postinst=sh("update-initramfs -u"),
)
STATIC = Deb(
    "web01-network",
    "1.0",
    files={
        "/etc/systemd/network/10-static.network": "[Match]\nType=ether\n\n[Network]\n"
        "Address=192.0.2.10/24\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n"
    },
)
NO_DRIVER = Deb(
    "web01-modules",
    "1.0",
    files={"/etc/modprobe.d/web01.conf": "blacklist virtio_net\ninstall virtio_net /bin/false\n"},
)
FSTAB = Deb(
    "web01-archive",
    "1.0",
    postinst=live(
        "mkdir -p /srv/archive",
        "echo 'LABEL=archive /srv/archive ext4 x-systemd.device-timeout=20s 0 2' >>/etc/fstab",
    ),
)
WARMUP = Deb(
    "web01-warmup",
    "1.0",
    files={
        "/lib/systemd/system/web01-warmup.service": "[Service]\nType=oneshot\n"
        "RemainAfterExit=yes\nExecStart=/bin/sleep 90\n[Install]\nWantedBy=multi-user.target\n"
    },
    postinst=live("systemctl daemon-reload", "systemctl enable web01-warmup.service"),
)
NO_HEALTH = SITE_TEXT.replace("= /health", "= /status")
STUCK = "deadlines: {reboot: 100}\n"


def check(name: str, body: str) -> str:
    """A check as a user would write it."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    return f"def test_{name}(host):\n{lines}"


CASES = (
    Case(
        "maintainer-script-fails",
        "fail",
        "it says why, and exits with 3",
        "(?=.*web01-tools)(?=.*cannot migrate)",
        packages=(
            text(
                "web01-tools",
                "2.0",
                sh("echo 'unpacking the data'", "echo 'cannot migrate the data' >&2", "exit 3"),
            ),
            *OTHERS[::2],
        ),
    ),
    Case(
        "maintainer-script-hangs",
        "fail",
        "it waits for an answer that nobody gives",
        "took longer.*web01-docs",
        packages=(text("web01-docs", "2.0", sh("sleep 900")),),
        scenario=ALL + "deadlines: {upgrade: 75}\n",
    ),
    Case(
        "guest-restarts-itself",
        "fail",
        "a maintainer script restarts the machine in the middle of the upgrade",
        "restarted",
        packages=(text("web01-tools", "2.0", live("sync", "reboot -ff")),),
    ),
    Case(
        "powers-the-guest-off",
        "fail",
        "a maintainer script powers the machine off in the middle of the upgrade",
        "not running any more.*web01-tools",
        packages=(text("web01-tools", "2.0", live("sync", "poweroff -ff")),),
        control=True,
    ),
    Case(
        "reboots-the-guest",
        "fail",
        "a maintainer script reboots the machine, and nobody asked for that",
        "restarted by itself",
        packages=(text("web01-tools", "2.0", live("systemctl reboot")),),
        scenario=ALL + "reboot: never\n",
    ),
    Case(
        "restarts-itself-later",
        "fail",
        "a maintainer script has the machine restarted a minute after the upgrade",
        "restarted by itself",
        packages=(text("web01-tools", "2.0", live("systemd-run --on-active=60 systemctl reboot")),),
    ),
    Case(
        "initramfs-without-the-disk",
        "fail",
        "the new initramfs has no driver of the root disk",
        "initramfs|root disk",
        packages=(NO_DISK,),
        scenario=install("web01-boot") + REBOOT + "deadlines: {reboot: 5m}\n",
    ),
    Case(
        "network-reconfigured",
        "fail",
        "a fixed address of another network: nobody gets in after the reboot",
        "network card has sent nothing",
        packages=(STATIC,),
        scenario=install("web01-network") + REBOOT + STUCK,
    ),
    Case(
        "network-driver-blocked",
        "fail",
        "the driver of the network card is not loaded any more",
        "network card has sent nothing",
        packages=(NO_DRIVER,),
        scenario=install("web01-modules") + REBOOT + STUCK,
    ),
    Case(
        "disk-that-is-not-there",
        "fail",
        "fstab names a disk that this machine does not have: it starts into emergency mode",
        "fstab|emergency mode",
        packages=(FSTAB,),
        scenario=install("web01-archive") + REBOOT + "deadlines: {reboot: 3m}\n",
    ),
    Case(
        "slow-start",
        "fail",
        "the machine needs a minute and a half longer to start, and a check watches that",
        "start took",
        packages=(WARMUP,),
        scenario=install("web01-warmup") + REBOOT,
        checks=check(
            "the_start_is_quick",
            "done = host.check_output('systemctl show -p FinishTimestampMonotonic --value')\n"
            "assert int(done) < 80_000_000, f'the start took {int(done) / 1e6:.0f} s'",
        ),
    ),
    Case(
        "slow-start-unwatched",
        "fail",
        "the machine needs a minute and a half longer to start, and no check watches that",
        "start took",
        packages=(WARMUP,),
        scenario=install("web01-warmup") + REBOOT,
    ),
    Case(
        "cron-job-lost",
        "fail",
        "a dot in the file's name: cron does not read it any more",
        "cron.d/web01-backup",
        packages=(backup("1.1", file="/etc/cron.d/web01.backup"), *OTHERS),
        checks=BACKUP_CHECK,
    ),
    Case(
        "sudoers-broken",
        "fail",
        "a parenthesis is missing: the user that deploys may not reload nginx any more",
        "sudoers",
        packages=(admin("1.1", SUDOERS.replace("(root)", "(root")), *OTHERS),
        checks=check(
            "deploy_may_reload",
            "asked = host.run('runuser -u deploy -- sudo -n -l /usr/bin/systemctl reload nginx')\n"
            "assert asked.rc == 0, f'deploy may not reload nginx: {asked.stderr}'",
        ),
    ),
    Case(
        "user-removed",
        "fail",
        "the user that deploys is gone",
        "user deploy",
        packages=(admin("1.1", postinst=["userdel deploy"]), *OTHERS),
        checks=check("deploy_exists", "assert host.user('deploy').exists, 'no user deploy'"),
    ),
    Case(
        "disk-filled",
        "fail",
        "a maintainer script leaves 15 MB free",
        "% full",
        packages=(
            text(
                "web01-tools",
                "2.0",
                live(
                    "fallocate -l $(( ($(stat -f -c %a /) - 3840) * $(stat -f -c %S /) ))"
                    " /var/cache/web01"
                ),
            ),
            *OTHERS[::2],
        ),
    ),
    Case(
        "disk-too-small",
        "fail",
        "there are 30 MB free, and the package has 60",
        "full|no space",
        packages=(Deb("web01-big", "1.0", files={"/opt/big": Zeros(60)}),),
        scenario=install("web01-big") + "checks: {filesystems_max_percent: 100}\n",
        image=FULL,
    ),
    Case(
        "held-and-wanted",
        "fail",
        "the shop must change, and is on hold",
        "web01-shop had to change",
        packages=(site("1.1"), shop("1.1")),
        scenario=ALL + "expect: {change: [web01-shop]}\n",
        image=HELD,
    ),
    Case(
        "downgrade",
        "fail",
        "an older version of the site, which has no page about its health",
        "(?=.*health)(?=.*404)",
        packages=(site("0.9", NO_HEALTH),),
        scenario=install("web01-site=0.9") + "checks: {http: ['http://127.0.0.1/health']}\n",
    ),
    Case(
        "tmp-closed",
        "fail",
        "/tmp is root's alone",
        "/tmp",
        packages=(text("web01-tools", "2.0", sh("chmod 755 /tmp")), *OTHERS[::2]),
        checks=check("tmp_is_open", "assert host.file('/tmp').mode == 0o1777, '/tmp is closed'"),
    ),
    Case(
        "shadow-open",
        "fail",
        "everybody may read the passwords' hashes",
        "shadow",
        packages=(text("web01-tools", "2.0", sh("chmod 644 /etc/shadow")), *OTHERS[::2]),
        checks=check(
            "hashes_are_secret",
            "assert host.file('/etc/shadow').mode & 0o7 == 0, '/etc/shadow is open to all'",
        ),
    ),
    Case(
        "time-zone-changed",
        "fail",
        "the machine's clock shows another zone's time",
        "time zone",
        packages=(
            text(
                "web01-tools",
                "2.0",
                sh("ln -sf /usr/share/zoneinfo/Pacific/Kiritimati /etc/localtime"),
            ),
            *OTHERS[::2],
        ),
        checks=check(
            "clock_is_utc",
            "zone = host.check_output('date +%z')\nassert zone == '+0000', f'time zone {zone}'",
        ),
    ),
    Case(
        "locale-changed",
        "fail",
        "from the next start on services write in a locale without UTF-8",
        "locale",
        packages=(
            text("web01-tools", "2.0", sh("echo LANG=C >/etc/locale.conf")),
            *OTHERS[::2],
        ),
        scenario=ALL + REBOOT,
        checks=check(
            "services_write_utf8",
            "said = host.check_output('systemctl show-environment')\n"
            "locale = said.partition('LANG=')[2].partition('\\n')[0]\n"
            "assert locale.upper().endswith('UTF-8'), f'services have the locale {locale!r}'",
        ),
    ),
    Case(
        "localhost-lost",
        "fail",
        "/etc/hosts does not know localhost any more",
        "localhost does not",
        packages=(text("web01-tools", "2.0", sh("sed -i /localhost/d /etc/hosts")),),
        checks=check(
            "localhost_resolves",
            "assert host.run('getent hosts localhost').rc == 0, 'localhost does not resolve'",
        ),
    ),
)
