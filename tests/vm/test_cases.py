"""Every kind of verdict, each reached by what really happens in a real guest."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from sandbox.core.records import Outcome, RunRecord, UpgradeStatus, Verdict
from sandbox.demo.broken import (
    SITE_CONFIG,
    SITE_PACKAGE,
    build_broken_site,
    build_deb,
)
from sandbox.demo.guest import Production
from sandbox.report import render
from sandbox.verdict.downtime import forecasts
from tests.support.guests import certificates
from tests.support.guests.archive import Archive
from tests.support.guests.case_parts import (
    ALL,
    CONTROL,
    FEW,
    LOOK,
    MEMORY,
    changes_of,
    reason,
    site_11,
    verdict,
)
from tests.support.guests.guests import PRODUCTION, Lab

pytestmark = pytest.mark.vm


def test_a_good_upgrade_of_a_running_guest_passes(
    lab: Lab, archive: Archive, production: Production, tmp_path: Path
) -> None:
    archive.offer([site_11(tmp_path, more=CALLS_BY_NAME + CALLS_HOME)])
    record = lab.run(lab.scenario(ALL, test_own=LOOK + CALLS), guest=PRODUCTION)
    assert verdict(record) is Verdict.PASS, reason(record)
    _expect_call_home(record, {("name", "telemetry.example", 0), ("udp", "192.0.2.53", 53)})
    facts = record.facts
    assert facts.upgrade is not None
    assert [(c.name, c.old, c.new) for c in facts.upgrade.changes] == [("web01-site", "1.0", "1.1")]
    assert facts.after is not None
    assert facts.after.packages["web01-site:all"].version == "1.1"
    # Its script restarts nginx: how long that was to take, and did, is in the report.
    assert facts.upgrade.restarts == {"nginx.service": SITE_PACKAGE}
    (restart, *_rest) = forecasts(record)
    assert restart.forecast
    assert restart.happened
    assert "nginx.service (web01-site): forecast" in render(record, lab.artifacts(record), "text")
    assert record.source is not None
    assert record.source.method == "backup export"
    assert any("ran on" in proof for proof in record.source.untouched)
    assert _results(record, "after")["test_own.py::test_nginx_runs"] is Outcome.PASSED
    assert len(_results(record, "after")) == len(_results(record, "before")) > 10
    for format in ("text", "json", "junit", "markdown", "html"):
        assert render(record, lab.artifacts(record), format)
    assert render(record, lab.artifacts(record), "text").startswith("YES")


# The new version calls home; a check calls somebody else, whatever was upgraded.
CALLS_BY_NAME = """
echo 'nameserver 192.0.2.53' >/etc/resolv.conf
getent hosts telemetry.example || true
"""
CALLS_HOME = """
python3 -c 'import socket; socket.socket().connect(("203.0.113.7", 443))' 2>&1 | grep refused
"""
CALLS = """

def test_calls(host, phase):
    program = "import socket; socket.socket().connect(('203.0.113.8', 25))"
    assert "refused" in host.run(f'python3 -c "{program}"').stderr
"""


def _expect_call_home(record: RunRecord, others: set[tuple[str, str, int]]) -> None:
    ledger = record.facts.ledger
    assert ledger is not None
    assert (ledger.missing, ledger.whole) == ("", True)
    new = {(one.kind, one.address, one.port) for one in ledger.new}
    assert new == {("tcp", "203.0.113.7", 443), *others}
    (anyway,) = [one for one in ledger.destinations if one.address == "203.0.113.8"]
    assert (anyway.port, anyway.is_new) == (25, False)
    assert record.decision is not None
    (said,) = [text for text in record.decision.findings if "tried to reach" in text]
    assert "tcp 203.0.113.7:443 (1 time)" in said
    assert "203.0.113.8" not in said


def test_a_new_version_that_breaks_its_service_fails(
    lab: Lab, archive: Archive, tmp_path: Path
) -> None:
    archive.offer([])
    broken = build_broken_site(tmp_path)
    record = lab.run(lab.scenario(ALL + MEMORY + CONTROL), upgrade=str(broken))
    assert verdict(record) is Verdict.FAIL
    control = record.facts.control
    assert control is not None
    assert (control.missing, control.reboot) == ("", None)
    for session in (*control.checks_before, *control.checks_after):
        assert {result.outcome for result in session.results} == {Outcome.PASSED}
    assert len(control.checks_before) > 1
    assert record.facts.checks_again, "nobody asked again"
    assert reason(record).startswith("nginx.service does not run since web01-site 1.0 -> 2.0: ")
    assert 'unknown directive "early_hints"' in reason(record)
    assert record.decision is not None
    assert [cause.package for cause in record.decision.causes] == [SITE_PACKAGE]
    assert SITE_CONFIG in record.decision.causes[0].evidence[0]
    assert record.facts.upgrade is not None
    assert record.facts.upgrade.status is UpgradeStatus.APPLIED, "dpkg itself was content"
    assert render(record, lab.artifacts(record), "text").startswith("NO")


def test_what_happens_anyway_and_what_comes_and_goes_is_not_the_upgrades_fault(
    lab: Lab, archive: Archive, tmp_path: Path
) -> None:
    """One check breaks with every reboot, upgraded or not; one fails every other time; one calls
    somebody, on both, only after the upgrade. What the package's script did besides is the
    upgrade's doing, and told, the worst first."""
    archive.offer([site_11(tmp_path, more=MEDDLE + CALLS_HOME)])
    calls = CALLS.replace("assert ", 'assert phase == "before" or ')
    folder = lab.scenario(
        ALL + MEMORY + CONTROL + FEW + "reboot: always\n", test_own=LOOK + NOT_ITS_FAULT + calls
    )
    record = lab.run(folder)
    _expect_call_home(record, set())
    assert verdict(record) is Verdict.INCONCLUSIVE, reason(record)
    assert record.decision is not None
    said = (record.decision.reason, *record.decision.findings)
    for words in (
        "test_survives failed after the upgrade: nobody started it; it fails on the control, too",
        "test_steady failed after the upgrade: not this time; asked again it held: 1 of 2 times",
        "test_steady is flaky: on the control it held",
    ):
        assert any(words in text for text in said), said
    control = record.facts.control
    assert control is not None
    assert control.reboot is not None
    assert control.reboot.happened
    assert control.before is not None
    assert control.after is not None
    assert record.facts.after is not None
    assert record.facts.after.packages != control.after.packages == control.before.packages
    assert "compared with a control" in render(record, lab.artifacts(record), "text")
    names = {artifact.name for artifact in record.artifacts}
    assert {"control-console.log", "control-checks-before-1.log"} <= names
    assert all((lab.artifacts(record) / name).is_file() for name in names)
    _assert_meddling_is_told(record, lab.artifacts(record))


def _assert_meddling_is_told(record: RunRecord, folder: Path) -> None:
    facts, control = record.facts, record.facts.control
    assert control is not None
    for seen in (facts.before, facts.after, control.before, control.after):
        assert seen is not None
        assert seen.wide is not None, "it was not looked at beside the checks"
        assert seen.wide.users["root"] == "0:0:/bin/bash"
        assert seen.wide.modes["/etc/shadow"] == "640 root shadow"
        assert seen.wide.memory_used > 0
        assert seen.wide.modules
        assert seen.wide.settings["net.ipv4.ip_forward"] == "0"
        assert SITE_CONFIG in seen.wide.shipped
    lines = [(line["severity"], line["text"]) for line in changes_of(record, folder)]
    severities = [severity for severity, _text in lines]
    assert severities == sorted(severities, key=["high", "medium", "low"].index)
    assert [text for severity, text in lines if severity == "high"] == [
        "user deploy is new and can log in (/bin/bash)",
        f"certificate {certificates.PATH} was replaced (CN=web01.example, valid until 2041-01-01, "
        "sooner than before: 2044-01-01)",
    ]
    assert ("medium", "/etc/nginx/mime.types is 644 nobody root, before 644 root root") in lines
    assert len(lines) < 20, "the control was not asked, or it is noise"
    shown = render(record, folder, "text")
    for _severity, text in lines[:3]:
        assert " ".join(text.split()) in " ".join(shown.split())


MEDDLE = f"""
chown nobody /etc/nginx/mime.types
useradd --shell /bin/bash deploy
cat >{certificates.PATH} <<'END'
{certificates.AFTER}END
"""
NOT_ITS_FAULT = """
def test_survives(host, phase):
    if phase == "before":
        host.run("touch /run/started-by-hand")
    assert host.file("/run/started-by-hand").exists, "nobody started it"


def test_steady(host):
    times = int(host.check_output("echo >>/var/tmp/asked; wc -l </var/tmp/asked"))
    assert times % 2, "not this time"
"""


def test_a_failing_maintainer_script_fails(lab: Lab, archive: Archive, tmp_path: Path) -> None:
    archive.offer([])
    package = build_deb(
        "web01-extra",
        "1.0",
        out=tmp_path,
        postinst="#!/bin/sh\necho 'cannot migrate the database' >&2\nexit 3\n",
    )
    record = lab.run(lab.scenario(ALL + MEMORY + FEW), upgrade=str(package))
    assert verdict(record) is Verdict.FAIL
    assert "web01-extra" in reason(record)
    assert record.facts.upgrade is not None
    assert record.facts.upgrade.failed_package == "web01-extra"
    assert "cannot migrate the database" in (lab.artifacts(record) / "upgrade.log").read_text()


def test_a_guest_that_does_not_boot_after_the_upgrade_fails_with_its_screen(
    lab: Lab, archive: Archive, tmp_path: Path
) -> None:
    archive.offer([])
    package = build_deb(
        "web01-boot",
        "1.0",
        out=tmp_path,
        # An initramfs without the disk's driver: the classic of a preflight that was all green.
        files={"/etc/initramfs-tools/hooks/zz-forget-the-disk": FORGET_THE_DISK},
        executable=["/etc/initramfs-tools/hooks/zz-forget-the-disk"],
        postinst="#!/bin/sh\nset -e\nupdate-initramfs -u\n",
    )
    text = ALL + MEMORY + FEW + "reboot: always\ndeadlines: {reboot: 5m}\n"
    record = lab.run(lab.scenario(text), upgrade=str(package))
    assert verdict(record) is Verdict.FAIL
    assert record.facts.reboot is not None
    assert not record.facts.reboot.happened
    assert "initramfs" in reason(record)
    screen = lab.artifacts(record) / "screen.png"
    with Image.open(screen) as picture:
        assert picture.width >= 640
        assert len(picture.convert("RGB").getcolors(1 << 24) or ()) > 1, "a blank screen"
    assert "data:image/png" in render(record, lab.artifacts(record), "html")


FORGET_THE_DISK = """#!/bin/sh
[ "$1" != prereqs ] || exit 0
find "$DESTDIR" -name 'virtio_blk.ko*' -delete
"""


def test_a_check_that_fails_before_is_inconclusive(
    lab: Lab, archive: Archive, tmp_path: Path
) -> None:
    archive.offer([site_11(tmp_path)])
    own = "def test_database(host):\n    assert host.service('postgresql').is_running\n"
    record = lab.run(lab.scenario(ALL + MEMORY + FEW, test_own=own))
    assert verdict(record) is Verdict.INCONCLUSIVE
    assert "test_database" in reason(record)


def test_an_unreachable_mirror_is_our_error(lab: Lab, archive: Archive, tmp_path: Path) -> None:
    archive.offer([site_11(tmp_path)])
    archive.down = True
    try:
        record = lab.run(lab.scenario(ALL + MEMORY + FEW))
    finally:
        archive.down = False
    assert verdict(record) is Verdict.ERROR
    assert record.facts.upgrade is not None
    assert record.facts.upgrade.status is UpgradeStatus.UNAVAILABLE


def test_nothing_to_upgrade_is_said(lab: Lab, archive: Archive) -> None:
    """And what the guest needs elsewhere is answered for, where the scenario says so."""
    archive.offer([])
    record = lab.run(lab.scenario(ALL + MEMORY + FEW + NEEDS, test_own=ANSWERED))
    assert verdict(record) is Verdict.PASS, reason(record)
    assert "nothing to upgrade" in reason(record)
    assert record.source is not None
    assert "answered by a stand-in: http 10.1.2.3:8080" in record.source.changed
    assert record.facts.ledger is not None
    tried = {(one.kind, one.address, one.port) for one in record.facts.ledger.destinations}
    assert {("tcp", "10.1.2.3", port) for port in (8080, 25, 5432, 81)} <= tried


NEEDS = "dependencies: [http: 'http://10.1.2.3:8080', tcp: '10.1.2.3:5432', smtp: 10.1.2.3]\n"
ANSWERED = """
PROGRAM = (
    "import smtplib, socket, urllib.request as web;"
    "print(web.urlopen('http://10.1.2.3:8080/health').status);"
    "print(smtplib.SMTP('10.1.2.3').sendmail('a@example.org', 'b@example.org', 'hello'));"
    "print(socket.create_connection(('10.1.2.3', 5432)).getpeername());"
    "print(socket.socket().connect_ex(('10.1.2.3', 81)))"
)


def test_what_it_needs_is_there(host):
    said = host.check_output(f'python3 -c "{PROGRAM}"').split("\\n")
    assert said == ["200", "{}", "('10.1.2.3', 5432)", "111"]
"""


def test_zero_checks_are_no_evidence(lab: Lab, archive: Archive, tmp_path: Path) -> None:
    archive.offer([site_11(tmp_path)])
    record = lab.run(lab.scenario(ALL + MEMORY + "checks: {shared: []}\n"))
    assert verdict(record) is Verdict.INCONCLUSIVE
    assert "no check" in reason(record)


def _results(record: RunRecord, phase: str) -> dict[str, Outcome]:
    session = record.facts.checks_before if phase == "before" else record.facts.checks_after
    assert session is not None
    return {result.name: result.outcome for result in session.results}
