"""Which services the scripts of packages restart: scripts as Debian has them, in real shells."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox.managers.apt_parse import restarts_of, stops_of
from tests.support.fakes.preflight_world import SHELLS, called

BY_DEBHELPER = {
    "prerm": """#!/bin/sh
if [ -z "${DPKG_ROOT:-}" ] && [ "$1" = remove ] && [ -d /run/systemd/system ] ; then
\tdeb-systemd-invoke stop 'web.service' >/dev/null || true
fi
""",
    "postinst": """#!/bin/sh
# systemctl restart other.service is for the administrator
\tdeb-systemd-invoke $_dh_action 'web.service' >/dev/null || true
echo "run systemctl restart third"
""",
}
WITHOUT_RESTART = {
    "preinst": """#!/bin/sh
if [ -z "${DPKG_ROOT:-}" ] && [ "$1" = upgrade ] && [ -d /run/systemd/system ] ; then
\tdeb-systemd-invoke stop 'mail.service' >/dev/null || true
fi
""",
    "postinst": "#!/bin/sh\n\t\tdeb-systemd-invoke start 'mail.service' >/dev/null || true\n",
}
OF_OLD = {
    "prerm": """#!/bin/sh
if [ -n "$DEBUG" ]; then
  set -x
fi
case "$1" in
\tremove|upgrade)
\tif [ -x /etc/init.d/exim4 ]; then
\t\tinvoke-rc.d exim4 stop
\tfi
\t;;
esac
""",
    "postinst": "#!/bin/sh\n\t\t\tinvoke-rc.d exim4 start\n",
}
NOT_ON_UPGRADE = {
    "prerm": """#!/bin/sh
pathfind() { command -v "$1"; }
stop_vpn () {
    invoke-rc.d openvpn stop
}
case "$1" in
  upgrade)
    true
  ;;
  failed-upgrade|*)
    invoke-rc.d openvpn stop
  ;;
esac
if [ "$1" = remove ]; then
  systemctl stop openvpn
else
  systemctl stop openvpn
fi
if [ "$1" = upgrade ] && dpkg --compare-versions "$2" lt 2; then
  systemctl stop openvpn
fi
if [ "$1" = remove ]; then systemctl stop openvpn; fi
""",
    "postinst": "#!/bin/sh\n\t\tdeb-systemd-invoke start 'openvpn.service' >/dev/null || true\n",
}
AFTER_ALL = {
    "prerm": NOT_ON_UPGRADE["prerm"] + "systemctl stop last\n",
    "postinst": "#!/bin/sh\nsystemctl start last\n",
}
POSTGRESQL = {
    "prerm": "#!/bin/sh\nVERSION=15\nstop_version $VERSION\n",
    "postinst": """#!/bin/sh
if [ "$1" = configure ]; then
    configure_version $VERSION "$2"
fi
""",
}
RUNNING = (
    *("web.service", "other.service", "third.service", "mail.service", "exim4.service"),
    *("openvpn@site.service", "last.service"),
    *("postgresql@15-main.service", "postgresql@13-old.service"),
)


@pytest.mark.parametrize("shell", SHELLS, ids=lambda argv: argv[0])
@pytest.mark.parametrize(
    ("name", "scripts", "restarted"),
    [
        ("web", BY_DEBHELPER, ["web.service"]),
        ("postfix", WITHOUT_RESTART, ["mail.service"]),
        ("exim4-daemon-light", OF_OLD, ["exim4.service"]),
        ("openvpn", NOT_ON_UPGRADE, []),
        ("later:amd64", AFTER_ALL, ["last.service"]),
        ("postgresql-15", POSTGRESQL, ["postgresql@15-main.service"]),
    ],
)
def test_scripts_of_debian(
    shell: tuple[str, ...],
    name: str,
    scripts: dict[str, str],
    restarted: list[str],
    tmp_path: Path,
) -> None:
    info = tmp_path / "var/lib/dpkg/info"
    info.mkdir(parents=True)
    for kind, text in scripts.items():
        (info / f"{name}.{kind}").write_text(text)
    package = name.partition(":")[0]
    lines = called(shell, 'service_lines "$@"', package, "no-scripts", DPKG_ROOT=tmp_path)
    assert restarts_of(lines, RUNNING) == dict.fromkeys(restarted, package)
    at_once = {"web.service"}
    assert stops_of(lines, RUNNING) == {name for name in restarted if name not in at_once}


@pytest.mark.parametrize("shell", SHELLS, ids=lambda argv: argv[0])
@pytest.mark.parametrize("version", ["", "systemd/"])
def test_services_of_slices_of_their_own_are_asked_for(
    shell: tuple[str, ...], version: str, tmp_path: Path
) -> None:
    """PostgreSQL's clusters run in system-postgresql.slice."""
    slice_ = tmp_path / f"sys/fs/cgroup/{version}system.slice"
    for group in (
        *("web.service", "system-postgresql.slice/postgresql@15-main.service"),
        *("silent.service", "system-getty.slice/getty@tty1.service"),
    ):
        (slice_ / group).mkdir(parents=True)
    (tmp_path / "systemctl").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "systemctl").chmod(0o755)
    text = "/web.postinst: systemctl restart web\n/postgresql-15.prerm:stop_version 15 *"
    path = f"{tmp_path}:/usr/sbin:/usr/bin:/sbin:/bin"
    said = called(shell, 'last_starts "$@"', text, DPKG_ROOT=tmp_path, PATH=path)
    assert said[said.index("--") + 1 :] == ["web.service", "postgresql@15-main.service"]


def test_instances_go_with_their_template_or_what_they_are_parts_of() -> None:
    running = ["tor@default.service", "ssh@0-10.0.0.1:22-10.0.0.2:4242.service", "ssh.service"]
    running += ["mariadb.service", "mariadb@two.service", "vpn@a.service", "vpn@b.service"]
    lines = [
        "/i/tor.postinst: invoke-rc.d tor $_dh_action",
        "/i/openssh-server.postinst: deb-systemd-invoke $_dh_action 'ssh.service'",
        "/i/mariadb-server.postinst: deb-systemd-invoke $_dh_action 'mariadb.service'",
        "/i/vpn.postinst: systemctl try-restart 'vpn@*.service'",
    ]
    assert restarts_of(lines, running) == {
        "tor@default.service": "tor",
        "ssh.service": "openssh-server",
        "mariadb.service": "mariadb-server",
        "vpn@a.service": "vpn",
        "vpn@b.service": "vpn",
    }
    assert restarts_of(["/i/vpn.postinst: systemctl restart vpn@b"], running) == {
        "vpn@b.service": "vpn"
    }
