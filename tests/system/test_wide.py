"""What is looked at beside the checks: the script in real shells, its parser, its thread."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from sandbox.core.deadline import Deadline
from sandbox.core.errors import ConnectionLost, DeadlineExceeded
from sandbox.core.process import Completed
from sandbox.core.records import Certificate, Observation, Wide
from sandbox.observe.wide import Aside
from sandbox.observe.wide_parse import parse_wide
from tests.support.fakes.local_shell import LocalShell
from tests.support.waiting import soon

SCRIPT = files("sandbox.observe") / "wide.sh"
SHELLS = [("dash",), ("bash", "--posix"), ("busybox", "sh")]
MARK = "%%mark%%"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
SECRET = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
EXPIRES = datetime(2044, 1, 1, tzinfo=UTC)


def certificate(name: str) -> str:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject)
    builder = builder.public_key(KEY.public_key()).serial_number(7)
    builder = builder.not_valid_before(datetime(2020, 1, 1, tzinfo=UTC)).not_valid_after(EXPIRES)
    return builder.sign(KEY, None).public_bytes(Encoding.PEM).decode()


def fingerprint(pem: str) -> str:
    return hashlib.sha256(x509.load_pem_x509_certificate(pem.encode()).public_bytes(
        Encoding.DER)).hexdigest()  # fmt: skip


def parsed(sections: str) -> Wide:
    found = parse_wide(f"{sections}\n@end\n".replace("@", f"{MARK} "), MARK)
    assert found is not None
    return found


CONFIGURED = {
    "postfix/main.cf": ("postfix", "smtpd_tls_cert_file = /srv/postfix.crt\n"),
    "dovecot/conf.d/10-ssl.conf": ("dovecot", "ssl_cert = </srv/dovecot.crt\n"),
    "apache2/sites-enabled/a": ("apache", "  SSLCertificateFile /srv/apache.crt\n"),
    "exim4/exim4.conf.localmacros": ("exim", "MAIN_TLS_CERTIFICATE = /srv/exim.crt\n"),
    "ldap/slapd.conf": ("slapd", 'TLSCertificateFile "/srv/slapd.crt"\n'),
    "ldap/slapd.d/cn=config.ldif": ("olc", "olcTLSCertificateFile: /srv/olc.crt\n"),
    "postgresql/15/main/postgresql.conf": ("pg", "ssl_cert_file = '/srv/pg.crt'\t# on\n"),
    "mysql/mariadb.conf.d/50-server.cnf": ("maria", "ssl-cert = /srv/maria.crt\n"),
    "lighttpd/lighttpd.conf": ("lighttpd", 'ssl.pemfile = "/srv/lighttpd.crt"\n'),
    "redis/redis.conf": ("redis", "tls-cert-file /srv/redis.crt\n# tls-cert-file /srv/web.pem\n"),
}
"""Configuration beneath /etc that names a certificate: of whom, and how."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small guest's files."""
    made = {
        "etc/passwd": "root:x:0:0:root:/root:/bin/bash\nold:$1$hash:7:7::/:/bin/sh\n",
        "etc/group": "root:x:0:\nsudo:!hash:27:ann,bob\n",
        "etc/odd name": "",
        "etc/nginx/sites-enabled/a": "  ssl_certificate /srv/web.pem;\n  ssl_certificate_key /k;\n",
        "etc/ssl/one.pem": SECRET + certificate("one") + certificate("chain"),
        "etc/ssl/web-key.pem": SECRET,
        "etc/ssl/certs/ca-certificates.crt": certificate("ca"),
        "etc/ssl/private/hidden.pem": certificate("hidden") + SECRET,
        "etc/letsencrypt/archive/x/fullchain1.pem": certificate("live"),
        "usr/share/ca-certificates/ca.crt": certificate("ca"),
        "var/lib/dpkg/status": "Package: a\nConffiles:\n /etc/a 0123456789abcdef0123456789abcdef\n"
        " /etc/b c fedcba98765432100123456789abcdef\n /etc/o 00000000000000000000000000000000 "
        "obsolete\nDescription: x\n",
        "var/lib/ucf/hashfile": "00112233445566778899aabbccddeeff  /etc/ssh/sshd_config\n",
    }
    made |= {f"etc/{name}": line for name, (_kind, line) in CONFIGURED.items()}
    for name, content in made.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (tmp_path / "etc/odd name").chmod(0o4640)
    (tmp_path / "etc/ssl/certs/ca.pem").symlink_to(tmp_path / "usr/share/ca-certificates/ca.crt")
    (tmp_path / "etc/letsencrypt/live/x").mkdir(parents=True)
    (tmp_path / "etc/letsencrypt/live/x/fullchain.pem").symlink_to(
        tmp_path / "etc/letsencrypt/archive/x/fullchain1.pem"
    )
    (tmp_path / "srv").mkdir()
    (tmp_path / "srv/web.pem").write_text(certificate("web"))
    for name in (*CONFIGURED, "nginx/sites-enabled/a"):
        path = tmp_path / "etc" / name
        path.write_text(path.read_text().replace("/srv", f"{tmp_path}/srv"))
    for kind, _line in CONFIGURED.values():
        (tmp_path / f"srv/{kind}.crt").write_text(certificate(kind))
    return tmp_path


@pytest.mark.parametrize("interpreter", SHELLS, ids=" ".join)
def test_the_script_in_real_shells(interpreter: tuple[str, ...], root: Path) -> None:
    answer = LocalShell(interpreter).run(SCRIPT.read_text(), soon(), args=(MARK, str(root)))
    seen = parse_wide(answer.stdout, MARK)
    assert seen is not None
    assert seen.users == {"root": "0:0:/bin/bash", "old": "7:7:/bin/sh"}
    assert seen.groups == {"root": "0:", "sudo": "27:ann,bob"}
    assert seen.modes[f"{root}/etc/odd name"] == "4640 root root"
    assert seen.modes[f"{root}/etc/nginx"] == "755 root root"
    assert f"{root}/etc/ssl/certs/ca.pem" not in seen.modes, "a link has no mode of its own"
    assert seen.shipped == {
        "/etc/a": "0123456789abcdef0123456789abcdef",
        "/etc/b c": "fedcba98765432100123456789abcdef",
        "/etc/ssh/sshd_config": "00112233445566778899aabbccddeeff",
    }
    subjects = {path.removeprefix(str(root)): c.subject for path, c in seen.certificates.items()}
    assert subjects == {
        "/etc/ssl/one.pem": "CN=one",
        "/etc/letsencrypt/live/x/fullchain.pem": "CN=live",
        "/srv/web.pem": "CN=web",
    } | {f"/srv/{kind}.crt": f"CN={kind}" for kind, _line in CONFIGURED.values()}
    one = seen.certificates[f"{root}/etc/ssl/one.pem"]
    assert one.expires == EXPIRES.timestamp()
    assert one.fingerprint == fingerprint(certificate("one"))
    assert seen.settings["kernel.ostype"] == "Linux"
    assert seen.settings["net.ipv4.ip_default_ttl"].isdecimal()
    assert seen.memory_used > 0
    for secret in ("$1$hash", "!hash", "PRIVATE", *SECRET.splitlines()[1:-1]):
        assert secret not in answer.stdout


def test_a_guest_with_nothing_answers(tmp_path: Path) -> None:
    for name in ("sh", "head"):
        found = shutil.which(name)
        assert found
        (tmp_path / name).symlink_to(found)
    text = SCRIPT.read_text().replace(":/usr/local/sbin:/usr/sbin:/sbin", "")
    shell = LocalShell(("sh",), env={"PATH": str(tmp_path)})
    answer = shell.run(text, soon(), args=(MARK, str(tmp_path)))
    seen = parse_wide(answer.stdout, MARK)
    assert seen is not None
    assert (seen.modes, seen.users, seen.settings, seen.certificates) == ({}, {}, {}, {})


def test_the_script_is_plain_posix() -> None:
    for interpreter in (["dash", "-n"], ["bash", "--posix", "-n"]):
        subprocess.run([*interpreter, str(SCRIPT)], check=True)


# --- the parser -----------------------------------------------------------------------------


def test_an_answer_that_was_cut_is_none() -> None:
    assert parse_wide(f"{MARK} names\nroot:0:0:root:/root:/bin/bash\n", MARK) is None
    assert parse_wide("", MARK) is None


def test_memory_in_use() -> None:
    text = "@memory\nMemTotal:  1000 kB\nMemFree:  10 kB\nMemAvailable:  600 kB\n"
    assert parsed(text).memory_used == 400 * 1024
    assert parsed("@memory\nMemTotal: 1000 kB\n").memory_used == 0


def test_users_groups_and_modules_are_told_from_each_other() -> None:
    seen = parsed("""\
@names
root:0:0:root:/root:/bin/bash
www-data:33:33:www:data:/var/www:/bin/sh
sync:4:65534::/bin:
sudo:27:ann,bob
empty:9:
virtio_net 77824 0 - Live 0xffffffffc0000000
net_failover 20480 1 virtio_net, Live 0x0000000000000000
""")
    assert seen.users == {"root": "0:0:/bin/bash", "sync": "4:65534:"}
    assert seen.groups == {"sudo": "27:ann,bob", "empty": "9:"}
    assert seen.modules == ("net_failover", "virtio_net")


def test_the_last_of_many_members_is_seen() -> None:
    members = ",".join(f"administrator{n:03}" for n in range(200))
    groups = parsed(f"@names\nsudo:27:{members}\n").groups
    assert groups == {"sudo": f"27:{members}"}
    assert len(parsed(f"@names\nsudo:27:{'x' * 100_000}\n").groups["sudo"]) < 10_000


def test_settings_have_their_names_and_what_changes_by_itself_is_none() -> None:
    seen = parsed("""\
@settings
net/ipv4/conf/all/rp_filter:0
net/ipv4/conf/eth0.7/rp_filter:1
net/ipv4/ip_local_port_range:32768	60999
kernel/core_modes:file
kernel/core_modes:pipe
kernel/ns_last_pid:4711
fs/file-nr:948	0	2466177
net/ipv4/tcp_mem:1	2	3
""")
    assert seen.settings == {
        "net.ipv4.conf.all.rp_filter": "0",
        "net.ipv4.conf.eth0/7.rp_filter": "1",
        "net.ipv4.ip_local_port_range": "32768 60999",
        "kernel.core_modes": "file pipe",
        "net.ipv4.tcp_mem": "1 2 3",
    }


def test_what_is_no_certificate_is_known_by_its_fingerprint() -> None:
    seen = parsed("@certificates\n# /etc/ssl/a.pem\nAAAA\n# /etc/ssl/b.pem\nno base64!\n")
    assert seen.certificates == {
        "/etc/ssl/a.pem": Certificate(fingerprint=hashlib.sha256(bytes(3)).hexdigest())
    }


WORDS = st.sampled_from(
    ["@memory\n", "@modes\n", "@names\n", "@settings\n", "@shipped\n",
     "@certificates\n", "# /", "644 root root f /etc/x\n", "99 ", ":", "a:1:2:", "::", " /etc/a ",
     "0" * 32, "MII", "=", "MemTotal: ", "9" * 30, " kB\n", "\n", "/",
     ".", "\t", "²", "\x00", "\ud800"]
)  # fmt: skip


@given(st.lists(st.one_of(WORDS, st.text(max_size=10)), max_size=60).map("".join))
def test_junk_never_breaks_the_parser(junk: str) -> None:
    parsed(junk).model_dump_json()


# --- beside something else -------------------------------------------------------------------


class Guest(LocalShell):
    """Answers when it is let to."""

    def __init__(self, answer: Callable[[str], str]) -> None:
        super().__init__()
        self.answer = answer
        self.may = threading.Event()

    def run(self, script: str, deadline: Deadline, *, args: object = ()) -> Completed:
        assert isinstance(args, tuple)
        if not self.may.wait(min(10, deadline.remaining())):
            raise DeadlineExceeded(deadline.phase, deadline.seconds)
        return Completed((), 0, self.answer(args[0]), "")


SEEN = Observation(boot_id="b", kernel="6.1")


def test_it_looks_while_something_else_is_done() -> None:
    guest = Guest(lambda mark: f"{mark} names\nroot:0:0::/root:/bin/sh\n{mark} end\n")
    aside = Aside(guest, soon())  # which did not wait, or nobody could let the guest answer
    guest.may.set()
    assert aside.added_to(SEEN).wide == Wide(users={"root": "0:0:/bin/sh"})


def test_a_guest_that_does_not_answer_costs_no_more_than_the_deadline() -> None:
    guest = Guest(lambda mark: f"{mark} end\n")
    assert Aside(guest, Deadline(0.2, "test")).added_to(SEEN) == SEEN
    guest.may.set()


def test_a_broken_connection_is_no_trouble() -> None:
    def broken(_mark: str) -> str:
        raise ConnectionLost("gone")

    guest = Guest(broken)
    guest.may.set()
    assert Aside(guest, soon()).added_to(SEEN) == SEEN
