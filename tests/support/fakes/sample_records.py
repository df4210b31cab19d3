"""Realistic rehearsals for the tests of the verdict and the reports; decisions are really made."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

from PIL import Image, ImageDraw

from sandbox.core.records import (
    Artifact,
    CheckEnd,
    CheckResult,
    CheckSession,
    ConffileDecision,
    Destination,
    Disk,
    Expectations,
    Facts,
    Filesystem,
    Ledger,
    Observation,
    Outcome,
    Package,
    PackageChange,
    Phase,
    PhaseTime,
    Port,
    Reboot,
    RunRecord,
    SourceFacts,
    Start,
    Trouble,
    UpgradeLog,
    UpgradeStatus,
    Verdict,
    Wide,
)
from sandbox.verdict.decide import decide

STARTED = 1_785_492_600.0  # 2026-07-31 10:10 UTC
OLD_KERNEL, NEW_KERNEL = "6.1.0-49-cloud-amd64", "6.1.0-51-cloud-amd64"
ORIGIN = "Debian-Security:12/oldstable-security"
CHECKS = (
    "test_web.py::test_http",
    "test_web.py::test_page[/]",
    "test_web.py::test_page[/health]",
    "shared/boot.py::test_target_reached",
    "shared/boot.py::test_no_failed_units",
    "shared/kernel.py::test_newest_kernel_runs",
    "shared/kernel.py::test_no_new_kernel_errors",
    "shared/packages.py::test_none_half_configured",
    "shared/ports.py::test_still_listening[tcp 0.0.0.0:22]",
    "shared/ports.py::test_still_listening[tcp 0.0.0.0:80]",
    "shared/services.py::test_still_running[nginx.service]",
    "shared/space.py::test_filesystems_not_full",
)
CHANGES = (
    PackageChange(name="base-files", old="12.4+deb12u11", new="12.4+deb12u12", origin=ORIGIN),
    PackageChange(name="libssl3", old="3.0.16-1", new="3.0.17-1~deb12u2", origin=ORIGIN),
    PackageChange(name="linux-image-cloud-amd64", old="6.1.170-1", new="6.1.176-1", origin=ORIGIN),
    PackageChange(name=f"linux-image-{NEW_KERNEL}", new="6.1.176-1", origin=ORIGIN),
    PackageChange(name="nginx", old="1.22.1-9", new="1.22.1-9+deb12u2", origin=ORIGIN),
    PackageChange(name="nginx-common", old="1.22.1-9", new="1.22.1-9+deb12u2", origin=ORIGIN),
    PackageChange(name="openssl", old="3.0.16-1", new="3.0.17-1~deb12u2", origin=ORIGIN),
)
BAD_NGINX = (PackageChange(name="nginx", old="1.22.1-9", new="1.99", origin="local file"),)
PROOFS = (
    "the source's XML did not change",
    "the source's uptime went on: 4 d 02 h before, 4 d 02 h 11 min after",
    "the source's disk chain did not change: vda /srv/web01.qcow2",
)
CONFFILE = ConffileDecision(
    path="/etc/nginx/nginx.conf",
    package="nginx-common",
    decision="kept",
    diff="--- /etc/nginx/nginx.conf\n+++ /etc/nginx/nginx.conf.dpkg-new\n@@ -1,5 +1,5 @@\n"
    " user www-data;\n-worker_processes 2;\n+worker_processes auto;\n pid /run/nginx.pid;\n"
    "-include /etc/nginx/site-modules/*.conf;\n+include /etc/nginx/modules-enabled/*.conf;\n",
)
PANIC = (
    "[    3.412271] Run /init as init process\n"
    "Begin: Running /scripts/local-premount ... done.\n"
    "Begin: Waiting for root file system ... done.\n"
    "\x1b[1;33mGave up waiting for root file system device.\x1b[0m  Common problems:\n"
    " - Boot args (cat /proc/cmdline)\n   - Check rootdelay= (did the system wait long enough?)\n"
    " - Missing modules (cat /proc/modules; ls /dev)\n"
    "ALERT!  UUID=3f2a9b7e-5a0e-4f5a-a8e0-9b1b1e1c7a31 does not exist.  Dropping to a shell!\r\n"
    "\r\n"
    "BusyBox v1.35.0 (Debian 1:1.35.0-4+b3) built-in shell (ash)\n"
    "Enter 'help' for a list of built-in commands.\n\n(initramfs) "
)


def observation(*, after: bool = False, changes: tuple[PackageChange, ...] = ()) -> Observation:
    """web01 before, or after ``changes``."""
    packages = {
        **{f"{c.name}:amd64": Package(version=c.old) for c in (*CHANGES, *BAD_NGINX) if c.old},
        "openssh-server:amd64": Package(version="1:9.2p1-2+deb12u7"),
        "python3:amd64": Package(version="3.11.2-1+b1"),
        f"linux-image-{OLD_KERNEL}:amd64": Package(version="6.1.170-1"),
    }
    packages |= {f"{c.name}:amd64": Package(version=c.new) for c in changes if c.new}
    kernel_changed = any(c.name == f"linux-image-{NEW_KERNEL}" for c in changes)
    return Observation(
        boot_id="8b1f6c1e-after" if after else "27d4a0c2-before",
        kernel=NEW_KERNEL if kernel_changed else OLD_KERNEL,
        kernels=(OLD_KERNEL, NEW_KERNEL) if kernel_changed else (OLD_KERNEL,),
        uptime=61.0,
        boot_seconds=19.6 if after else 21.4,
        state="running",
        target="multi-user.target",
        packages=packages,
        units={
            "nginx.service": "active/running",
            "ssh.service": "active/running",
            "cron.service": "active/running",
            "apt-daily.timer": "active/waiting",
        },
        starts={} if after else {"nginx.service": Start(began=14.0, ready=14.5)},
        ports=(
            Port(protocol="tcp", address="0.0.0.0", port=22, process="sshd"),
            Port(protocol="tcp", address="0.0.0.0", port=80, process="nginx"),
        ),
        conffiles={"/etc/nginx/nginx.conf": "d41d8c", "/etc/issue": "b" if after else "a"},
        filesystems=(
            Filesystem(
                mount="/",
                size=2_040_109_465,
                used=1_210_000_000 if after else 1_001_000_000,
                available=726_000_000 if after else 935_000_000,
                inodes_percent=24,
            ),
        ),
        wide=Wide(),
    )


def session(failing: dict[str, str] | None = None, names: tuple[str, ...] = CHECKS) -> CheckSession:
    """A complete session in which the checks named in ``failing`` fail with that message."""
    failing = failing or {}
    results = tuple(
        CheckResult(
            name=name,
            outcome=Outcome.FAILED if name in failing else Outcome.PASSED,
            seconds=0.2,
            message=failing.get(name, ""),
            detail=f"E   AssertionError: {failing[name]}" if name in failing else "",
        )
        for name in names
    )
    return CheckSession(results=results, seconds=2.6)


def upgrade(
    changes: tuple[PackageChange, ...] = CHANGES,
    status: UpgradeStatus = UpgradeStatus.APPLIED,
    **values: object,
) -> UpgradeLog:
    """apt's log of ``changes``."""
    log = UpgradeLog(
        manager="apt",
        status=status,
        requested="security updates",
        changes=changes,
        download_bytes=31_500_000,
        log="Setting up nginx (1.22.1-9+deb12u2) ...\nProcessing triggers ...\n",
        seconds=214.0,
        restarts={"nginx.service": "nginx-common"},
        starts={"nginx.service": Start(stopped=301.2, began=301.3, ready=301.8)},
    )
    return log.model_copy(update=values)


def passing_facts() -> Facts:
    """Everything in order: the upgrade applied, the new kernel runs, every check holds."""
    return Facts(
        expectations=Expectations(kernel="newest"),
        booted=True,
        first_login=37.1,
        before=observation(),
        checks_before=session(),
        upgrade=upgrade(conffiles=(CONFFILE,)),
        reboot=Reboot(
            happened=True,
            boot_id_before="27d4a0c2-before",
            boot_id_after="8b1f6c1e-after",
            seconds=41.0,
            away=38.2,
        ),
        after=observation(after=True, changes=CHANGES),
        checks_after=session(),
    )


def passed() -> RunRecord:
    """Seven security updates and a kernel."""
    return _record(passing_facts())


LEDGER = Ledger(
    destinations=(
        Destination(kind="tcp", address="203.0.113.7", port=443, after=3),
        Destination(kind="name", address="telemetry.example", after=1),
        Destination(kind="tcp", address="2001:db8::25", port=25, before=2, after=4),
        Destination(kind="ping", address="192.0.2.1", after=1, control=2),
    )
)


def broken_nginx() -> RunRecord:
    """A new nginx that does not start."""
    refused = "connection refused on port 80"
    after = observation(after=True, changes=BAD_NGINX)
    after = after.model_copy(
        update={
            "state": "degraded",
            "units": {**after.units, "nginx.service": "failed/failed"},
            "failed_units": ("nginx.service",),
            "ports": after.ports[:1],
            "journal_errors": (
                'nginx[612]: [emerg] unknown directive "http3_stream" in nginx.conf:12',
                "systemd[1]: Failed to start nginx.service - A high performance web server.",
            ),
        }
    )
    failing = {
        "test_web.py::test_http": refused,
        "test_web.py::test_page[/]": refused,
        "test_web.py::test_page[/health]": refused,
        "shared/boot.py::test_no_failed_units": "newly failed: nginx.service",
        "shared/ports.py::test_still_listening[tcp 0.0.0.0:80]": "nothing listens on it any more",
        "shared/services.py::test_still_running[nginx.service]": "failed (Result: exit-code)",
    }
    facts = passing_facts().model_copy(
        update={
            "upgrade": upgrade(BAD_NGINX, requested="nginx=1.99"),
            "after": after,
            "checks_after": session(failing),
            "ledger": LEDGER,
        }
    )
    return _record(facts, scenario="nginx")


def no_boot() -> RunRecord:
    """An initramfs without the disk's driver: the guest stops in the initramfs shell."""
    facts = passing_facts().model_copy(
        update={
            "reboot": Reboot(
                happened=False,
                boot_id_before="27d4a0c2-before",
                seconds=300.0,
                message="it stopped in the initramfs shell (no answer in 300 s)",
            ),
            "after": None,
            "checks_after": None,
        }
    )
    artifacts = (Artifact(name="screen.png", title="the guest's screen when it was given up"),)
    return _record(facts, until=Phase.REBOOT, artifacts=artifacts)


def mirror_error() -> RunRecord:
    """The mirror answers 503: nothing is known of the upgrade."""
    facts = passing_facts().model_copy(
        update={
            "upgrade": upgrade((), UpgradeStatus.UNAVAILABLE, error="mirror.example answered 503"),
            "reboot": None,
            "after": None,
            "checks_after": None,
        }
    )
    return _record(facts, until=Phase.UPGRADE)


def rejected() -> RunRecord:
    """A guest that does not exist."""
    trouble = Trouble(
        blame=Verdict.REJECTED,
        phase=Phase.PLAN,
        message="there is no guest 'wbe01' on qemu:///system",
        hint="did you mean web01?",
    )
    record = _record(Facts(trouble=trouble), until=Phase.PLAN)
    return record.model_copy(update={"source": None, "artifacts": (), "guest": "wbe01"})


def inconclusive() -> RunRecord:
    """A check that failed before the upgrade already."""
    failing = {"test_web.py::test_page[/health]": "expected status 200, got 503"}
    facts = passing_facts().model_copy(
        update={"checks_before": session(failing), "checks_after": session(failing)}
    )
    return _record(facts)


def hung() -> RunRecord:
    """A check that hangs before the upgrade."""
    broken = session(names=CHECKS[:4]).model_copy(
        update={"end": CheckEnd.TIMEOUT, "message": "test_slow did not end within 60 s"}
    )
    facts = Facts(booted=True, before=observation(), checks_before=broken)
    return _record(facts, until=Phase.BASELINE)


ALL = {
    "pass": passed,
    "broken_nginx": broken_nginx,
    "no_boot": no_boot,
    "mirror_error": mirror_error,
    "rejected": rejected,
    "inconclusive": inconclusive,
    "hung": hung,
}


def write_artifacts(run_dir: Path) -> Path:
    """The files that the samples name: a console with escapes, a picture of a screen."""
    (run_dir / "console.log").write_text(PANIC)
    (run_dir / "screen.png").write_bytes(screen_png())
    return run_dir


def screen_png() -> bytes:
    """A text screen of 720 by 400 pixels, as a guest without graphics shows it."""
    image = Image.new("RGB", (720, 400), "black")
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(PANIC.replace("\x1b[1;33m", "").splitlines()):
        draw.text((8, 8 + 16 * number), line.replace("\x1b[0m", ""), fill=(170, 170, 170))
    stream = BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


_SECONDS = {
    Phase.PLAN: (0.4, ""),
    Phase.CLONE: (0.9, "1 disk, 193 KiB allocated"),
    Phase.BOOT: (37.1, "reached by link-local ssh"),
    Phase.BASELINE: (6.2, "12 checks"),
    Phase.UPGRADE: (214.0, "fetched 30.0 MiB, applied without a question"),
    Phase.REBOOT: (38.2, "new boot id"),
    Phase.VERIFY: (6.4, "12 checks"),
    Phase.CLEANUP: (1.3, ""),
}


def _record(
    facts: Facts,
    *,
    scenario: str = "security",
    until: Phase = Phase.VERIFY,
    artifacts: tuple[Artifact, ...] = (),
) -> RunRecord:
    decision = decide(facts)
    phases, clock = [], STARTED
    for phase, (seconds, note) in _SECONDS.items():
        last = phase is until
        if phase is Phase.CLEANUP or [*_SECONDS].index(phase) <= [*_SECONDS].index(until):
            ok = not last or decision.verdict in (Verdict.PASS, Verdict.INCONCLUSIVE)
            phases.append(
                PhaseTime(
                    phase=phase, started=clock, seconds=seconds, ok=ok, note=note if ok else ""
                )
            )
            clock += seconds
    return RunRecord(
        id="20260731-101000-web01-7f3a",
        tool_version="0.1.0",
        scenario=scenario,
        scenario_path=f"scenarios/{scenario}",
        guest="web01",
        started=STARTED,
        finished=clock,
        phase=phases[-1].phase,
        state="finished",
        source=SourceFacts(
            name="web01",
            kind="running guest",
            host="qemu:///system",
            disks=(Disk(target="vda", format="qcow2", path="/srv/web01.qcow2", size=3 * 1024**3),),
            method="backup export",
            consistency="crash-consistent",
            paused_ms=0.0,
            dropped=("hostdev pci 0000:03:00.0: a clone must not touch the host's devices",),
            changed=("network 'production' -> the run's own bridge without uplink",),
            untouched=PROOFS,
        ),
        phases=tuple(phases),
        facts=facts,
        decision=decision,
        artifacts=(
            Artifact(name="console.log", title="the guest's serial console"),
            Artifact(name="upgrade.log", title="the transcript of the upgrade"),
            *artifacts,
        ),
    )
