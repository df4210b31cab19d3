"""doctor of a Xen host: what the host says is read, and judged for people."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.core.errors import HostError
from sandbox.core.settings import Settings
from sandbox.doctor import xen_checks as checks
from sandbox.doctor.host_checks import State
from sandbox.doctor.xen_report import XenReport, parse_report
from sandbox.hosts.capacity import NO_LIMITS, Limits
from sandbox.hosts.drivers.xen_xml import guest_types
from sandbox.hosts.inventory import KnownHost
from sandbox.hosts.transport import HostLost, LocalHost
from sandbox.hosts.volumes.lvm import Pool
from tests.support.paths import DATA

TEXT = (DATA / "xen-report.txt").read_text()
REPORT = parse_report(TEXT)


# -- what the host says ---------------------------------------------------------------------


def test_a_real_answer_is_read() -> None:
    assert REPORT.clock == pytest.approx(1795379227.234796800)
    assert REPORT.root
    assert (REPORT.version, REPORT.problem) == ("4.17.5", "")
    assert (REPORT.free_memory, REPORT.total_memory) == (2505 << 20, 5119 << 20)
    assert REPORT.guest_types == ("pv", "hvm")
    assert REPORT.dom0_memory == "1536M,max:1536M"
    assert (REPORT.autoballoon, REPORT.takes_from_dom0) == ("", False)
    assert REPORT.programs["nft"] == "/usr/sbin/nft"
    assert "dnsmasq" not in REPORT.programs
    assert REPORT.console_daemon
    assert (REPORT.console_log, REPORT.console_log_wanted) == ("none", "")
    assert REPORT.device_models == ("/usr/libexec/xen-qemu-system-i386",)
    assert REPORT.pools == (Pool("vg0", "thin", 8 << 30, 4.04, 10.27),)
    assert REPORT.volumes_problem == ""
    assert REPORT.space == 3104305152


def test_an_answer_that_is_cut_off_is_none() -> None:
    with pytest.raises(HostError, match="cut off"):
        parse_report(TEXT[: TEXT.index("== end")])


@given(st.text(max_size=300), st.sampled_from(["clock", "xl-info", "libxl-conf", "lvs", "space"]))
def test_no_answer_is_too_odd(words: str, section: str) -> None:
    read = parse_report(f"== {section}\n{words}\n\n== end\n")
    assert read.free_memory >= 0
    for name, judge in checks._judgements(checks.HostAnswer(read, 0, 1), NO_LIMITS):
        assert judge().detail, name


@given(st.integers(0, len(TEXT)), st.integers(0, 400))
def test_an_answer_with_a_hole_is_read_or_refused(start: int, length: int) -> None:
    with contextlib.suppress(HostError):
        parse_report(TEXT[:start] + TEXT[start + length :])


@pytest.mark.parametrize(
    ("line", "conf", "takes"),
    [
        ("dom0_mem=2G", "", False),
        ("dom0_mem=1536M,max:1536M", "", False),
        ("dom0_mem=min:1G,max:2G", "", False),
        ("dom0_mem=10%", "", True),  # Xen knows percentages, libvirt does not
        ("dom0_mem=-1G", "", True),
        ("dom0_mem=", "", True),
        ("xdom0_mem=2G", "", True),
        ("", "", True),
        ("", "autoballoon = 0", False),
        ("", "autoballoon=0 # never", False),
        ("dom0_mem=2G", "autoballoon = 1", True),
        ("dom0_mem=2G", "#autoballoon = 1", False),
    ],
)
def test_who_gives_memory_to_new_guests(line: str, conf: str, takes: bool) -> None:
    """As libvirt decides it, which starts the clones: xl.conf has no say."""
    text = (
        f"== xl-info\nxen_version : 4\nxen_commandline : a {line} b\n== libxl-conf\n{conf}\n== end"
    )
    assert parse_report(text).takes_from_dom0 is takes


@given(st.text("0123456789mMgGbk,:axin%", max_size=3000))
def test_no_command_line_keeps_us_busy(words: str) -> None:
    began = time.monotonic()
    assert XenReport(info={"xen_commandline": f"dom0_mem={words}!"}).takes_from_dom0
    assert time.monotonic() - began < 20


# -- how it is judged -----------------------------------------------------------------------


def test_a_fit_host_has_but_one_fault() -> None:
    """The sample's: dnsmasq and PVH's GRUB are missing, and it has 2.4 GiB."""
    found = {n: j() for n, j in checks._judgements(checks.HostAnswer(REPORT, *ASKED), NO_LIMITS)}
    odd = {name: finding for name, finding in found.items() if finding.state is not State.OK}
    assert set(odd) == {"dnsmasq", "pvhgrub"}
    assert odd["dnsmasq"].state is State.BAD
    assert odd["dnsmasq"].hint == "on the host: apt install dnsmasq-base"
    assert odd["pvhgrub"].state is State.WARNING
    assert "vg0/thin" in found
    assert all(finding.hint for finding in odd.values())


ASKED = (1795379226.9, 1795379227.9)


@pytest.mark.parametrize(
    ("asked", "state", "words"),
    [
        (ASKED, State.OK, "within 1 s"),
        ((1795379230.2, 1795379231.0), State.OK, "within 3 s"),
        ((1795379327.2, 1795379329.0), State.WARNING, "100 s behind"),
        ((1795379107.2, 1795379117.2), State.WARNING, "110 s ahead of"),
    ],
)
def test_clock(asked: tuple[float, float], state: State, words: str) -> None:
    found = checks.clock(checks.HostAnswer(REPORT, *asked))
    assert (found.state, words in found.detail) == (state, True), found.detail
    assert checks.clock(checks.HostAnswer(XenReport(), *asked)).state is State.WARNING


def test_dom0_memory() -> None:
    assert checks.dom0_memory(REPORT).state is State.OK
    unset = replace(REPORT, info={})
    assert "dom0_mem" in checks.dom0_memory(unset).hint
    assert "takes it from dom0" in checks.dom0_memory(unset).detail
    fixed = checks.dom0_memory(replace(unset, autoballoon="0"))
    assert (fixed.state, "may not start" in fixed.detail) == (State.WARNING, True)
    taking = checks.dom0_memory(replace(REPORT, autoballoon="1"))
    assert (taking.state, "/etc/libvirt/libxl.conf" in taking.hint) == (State.WARNING, True)
    assert checks.dom0_memory(replace(REPORT, autoballoon="0")).state is State.OK
    assert checks.dom0_memory(replace(REPORT, autoballoon='"off"')).state is State.BAD


@pytest.mark.parametrize(
    ("arguments", "settings", "words"),
    [
        ("", "", "are not logged"),
        ("--log=none\n--log-dir=/x", "", "are not logged"),
        ("--log=guest", "", "are logged (--log=guest)"),
        ("--log\nall\n-i", "", "are logged (--log=all)"),
        ("--log=hv", "", "are not logged"),
        ("--log=all\n--log=none", "", "are not logged"),
        ("--log", "", "are not logged"),
        ("-i", "XENCONSOLED_TRACE=guest", "is set, but it runs without"),
        ("-i", "XENCONSOLED_ARGS='--timestamp=all --log=all'", "TRACE=all is set, but"),
    ],
)
def test_consoles_say_whether_they_are_logged(arguments: str, settings: str, words: str) -> None:
    found = checks.consoles(
        parse_report(
            f"== consoles\n/usr/sbin/xenconsoled\n{arguments}\n== console-settings\n{settings}\n"
            "== end"
        )
    )
    assert (found.state, words in found.detail) == (State.OK, True), found.detail
    silent = checks.consoles(XenReport())
    assert (silent.state, "does not run" in silent.detail) == (State.WARNING, True)


def test_files_and_hvm_guests_need_qemu() -> None:
    assert checks.device_model(REPORT).state is State.OK
    found = checks.device_model(XenReport())
    assert (found.state, "qemu-system-xen" in found.hint) == (State.WARNING, True)


def test_memory_that_is_kept_free_is_not_for_clones() -> None:
    assert checks.memory(REPORT, NO_LIMITS).state is State.OK
    assert checks.memory(REPORT, Limits(keep_free=1 << 30)).state is State.WARNING
    kept = checks.memory(REPORT, Limits(keep_free=4 << 30))
    assert kept.state is State.BAD
    assert kept.detail.startswith("0.0 GiB free for clones beside the 4.0 GiB")


@pytest.mark.parametrize(
    ("data", "metadata", "state"),
    [
        (4, 10, State.OK),
        (75, 10, State.WARNING),
        (4, 55, State.WARNING),
        (80, 10, State.BAD),
        (4, 60, State.BAD),
    ],
)
def test_a_pool_is_judged_by_the_hosts_limits(data: float, metadata: float, state: State) -> None:
    pool = Pool("vg0", "thin", 8 << 30, data, metadata)
    found = checks.thin_pool(pool, Limits(pool_data=80, pool_metadata=60))
    assert found.state is state
    assert bool(found.hint) == (state is not State.OK)


def test_a_pool_that_is_unwell_or_unknown_is_not_well() -> None:
    pool = Pool("vg0", "thin", 8 << 30, 0, 0)
    off = checks.thin_pool(replace(pool, active=False), NO_LIMITS)
    assert (off.state, "0 %" in off.detail) == (State.BAD, False)
    assert "lvchange --activate y vg0/thin" in off.hint
    ill = parse_report(TEXT.replace('"lv_check_needed":"",', '"lv_check_needed":"check needed",'))
    found = checks.thin_pool(ill.pools[0], NO_LIMITS)
    assert (found.state, "needs a check" in found.detail) == (State.BAD, True)
    assert "lvconvert --repair" in found.hint


def test_a_host_without_thin_pools() -> None:
    assert "files on XFS" in checks.no_pools(XenReport()).detail
    silent = parse_report("== lvs\nsh: 1: lvs: not found\n== end\n")
    assert "lvs: not found" in checks.no_pools(silent).detail


@pytest.mark.parametrize(
    ("libvirt", "processor", "state", "words"),
    [
        (("pv", "pvh", "hvm"), ("pv", "hvm"), State.OK, "can run pv, pvh, hvm"),
        (("pv", "pvh", "hvm"), ("pv",), State.WARNING, "can run pv; not pvh, hvm"),
        (("hvm",), ("pv", "hvm"), State.WARNING, "can run hvm; not pv, pvh"),
        ((), ("pv", "hvm"), State.BAD, "can run nothing"),
    ],
)
def test_guest_types(
    libvirt: tuple[str, ...], processor: tuple[str, ...], state: State, words: str
) -> None:
    found = checks.guest_types(libvirt, processor)
    assert (found.state, found.detail) == (state, words)


def test_guest_types_of_libvirts_capabilities() -> None:
    kinds = ("xen", "hvm", "xenpvh", "hvm", "uml")
    guests = "".join(f"<guest><os_type>{kind}</os_type></guest>" for kind in kinds)
    assert guest_types(f"<capabilities><host/>{guests}</capabilities>") == ("pv", "pvh", "hvm")
    assert guest_types("<capabilities/>") == ()


# -- the whole ------------------------------------------------------------------------------


def names(settings: Settings, known: KnownHost) -> list[str]:
    found = []
    for check in checks.xen_checks(settings, known):
        found.append(check.name)
        if check.group != "This machine":
            found[-1] += f" {check.run().state.value}" if check.name == "reachable" else ""
    return found


def test_of_a_host_that_cannot_be_reached_nothing_more_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lost(LocalHost):
        def run(self, *_arguments: object, **_options: object) -> object:  # type: ignore[override]
            raise HostLost("the host a cannot be reached: no route", "try: ssh a")

    monkeypatch.setattr(checks, "host_of", lambda _uri: Lost())
    found = names(Settings(state=tmp_path), KnownHost("a", "xen+ssh://root@a/system"))
    assert found[-1] == "reachable not ok"
