"""What a Xen host needs to rehearse upgrades: asked for in one round trip, judged one by one."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import partial

from sandbox.core.deadline import Deadline
from sandbox.core.errors import HostError
from sandbox.core.settings import Settings
from sandbox.core.wording import count, some
from sandbox.doctor import host_checks
from sandbox.doctor.host_checks import Check, Finding, HostInHand, State
from sandbox.doctor.xen_report import XenReport, parse_report, script
from sandbox.hosts.capacity import Limits, pool_fill
from sandbox.hosts.drivers import driver_for
from sandbox.hosts.inventory import REMOTE_CONNECT_SECONDS, KnownHost
from sandbox.hosts.transport import HostLost, host_of
from sandbox.hosts.volumes.lvm import Pool

REPORT_SECONDS = 100.0
_CHECK_SECONDS = 120.0
_SKEW = 5.0  # seconds that hardly matter
_POOL_NEAR = 10.0  # percent below a limit from which on it is worth a word
_GIB = 1 << 30
_LIBXL_CONF = "/etc/libvirt/libxl.conf"
# Programs of the host and the Debian package that brings them.
_PROGRAMS = {
    "xl": "xen-utils-common",
    "xenstore-read": "xenstore-utils",
    "lvs": "lvm2",
    "lvcreate": "lvm2",
    "qemu-img": "qemu-utils",
    "qemu-nbd": "qemu-utils",
    "nft": "nftables",
    "ip": "iproute2",
    "dnsmasq": "dnsmasq-base",
    "setsid": "util-linux",
}
_LOADERS = {
    "pygrub": ("/pygrub", "PV guests with <bootloader>", "xen-utils"),
    "pvgrub": ("/grub-x86_64-xen.bin", "PV guests with <kernel> pvgrub", "grub-xen-host"),
    "pvhgrub": ("/grub-i386-xen_pvh.bin", "PVH guests", "grub-xen-host"),
    "hvmloader": ("/hvmloader", "HVM guests", "xen-utils"),
}


@dataclass(frozen=True)
class HostAnswer:
    """The host's report, and when it was asked and had answered; Unix time of this machine."""

    report: XenReport
    asked: float
    answered: float


def xen_checks(settings: Settings, known: KnownHost) -> Generator[Check, None, None]:
    """Every check of a Xen host, in the order in which one would mend things."""
    state, cache = settings.state, settings.cache
    yield Check("This machine", "state folder", partial(host_checks.state_folder, state))
    yield Check("This machine", "disk: runs", partial(host_checks.space, state, "SANDBOX_STATE"))
    yield Check(
        "This machine", "disk: packages", partial(host_checks.space, cache, "SANDBOX_CACHE")
    )
    for name, package in (("ssh", "openssh-client"), ("ssh-keygen", "openssh-client")):
        yield Check("This machine", name, partial(host_checks.program, name, package))
    yield Check("This machine", "package proxy", partial(host_checks.proxy_refuses, settings))
    group, heard = f"Host {known.name}", list[HostAnswer]()
    yield Check(group, "reachable", partial(_reachable, known, heard), _CHECK_SECONDS)
    if not heard:
        return  # nothing more can be found out
    for name, judge in _judgements(heard[0], known.limits):
        yield Check(group, name, judge)
    host = HostInHand(settings)
    try:
        yield Check("Hypervisor", "libvirt", partial(_libvirt, known, host), _CHECK_SECONDS)
        yield Check("Hypervisor", "guest types", partial(_guest_types, host, heard[0].report))
        dead = partial(host_checks.nothing_left, host)
        yield Check("Rehearsals", "scenarios", partial(host_checks.scenarios_load, settings))
        yield Check("Rehearsals", "dead runs", dead, _CHECK_SECONDS)
    finally:
        if host.hypervisor is not None:
            host.hypervisor.close()


def _reachable(known: KnownHost, heard: list[HostAnswer]) -> Finding:
    host = host_of(known.uri)
    deadline = Deadline(REPORT_SECONDS, f"asking {known.name}")
    try:
        host.run(["true"], deadline)  # the connection's own time says nothing of the clock
        asked = time.time()
        said = host.run(["sh", "-s"], deadline, input=script().encode(), check=False)
    except HostLost as lost:
        way = "its name, key and `jump` in hosts.yaml; is its host key known?"
        return Finding(State.BAD, lost.message, f"{lost.hint}; {way}")
    report, shown = parse_report(said.stdout), known.uri.partition("?")[0]
    heard.append(HostAnswer(report, asked, time.time()))
    if not report.root:
        return Finding(State.BAD, f"{shown} answers, but not as root", "log in there as root")
    return Finding(State.OK, f"{shown} answers, as root")


def _judgements(heard: HostAnswer, limits: Limits) -> Iterator[tuple[str, Callable[[], Finding]]]:
    report = heard.report
    yield "clock", partial(clock, heard)
    yield "Xen", partial(xen, report)
    yield "dom0 memory", partial(dom0_memory, report)
    yield "memory", partial(memory, report, limits)
    if not report.pools:
        yield "thin pools", partial(no_pools, report)
    for pool in report.pools:
        yield f"{pool.group}/{pool.name}", partial(thin_pool, pool, limits)
    for name in _LOADERS:
        yield name, partial(loader, report, name)
    yield "QEMU for Xen", partial(device_model, report)
    yield "consoles", partial(consoles, report)
    yield "disk", partial(space, report)
    for name in _PROGRAMS:
        yield name, partial(program, report, name)


def clock(heard: HostAnswer) -> Finding:
    """Whether the host's time is ours; what its answer took is not known better than that."""
    there = heard.report.clock
    if there is None:
        return Finding(State.WARNING, "the host did not say what time it is")
    behind, ahead = heard.asked - there, there - heard.answered
    skew = max(0.0, behind, ahead)
    if skew <= _SKEW:
        within = max(heard.answered - heard.asked, skew)
        return Finding(State.OK, f"its clock is this machine's, within {within:.0f} s")
    word = "behind" if behind > ahead else "ahead of"
    return Finding(
        State.WARNING,
        f"its clock is {skew:.0f} s {word} this machine's: guests have the host's time",
        "run a time service on both; apt refuses packages lists from the future",
    )


def xen(report: XenReport) -> Finding:
    if report.problem:
        hint = "is it booted with Xen? `xl info` has to work there"
        return Finding(State.BAD, f"Xen does not answer: {report.problem}", hint)
    return Finding(State.OK, f"Xen {report.version}, Linux {report.info.get('release', '?')}")


def dom0_memory(report: XenReport) -> Finding:
    """Clones are started by libvirt: /etc/libvirt/libxl.conf decides, not xl's own xl.conf."""
    stated = f"libvirt's autoballoon is {report.autoballoon}, " if report.autoballoon else ""
    if report.autoballoon not in ("", "0", "1"):
        return Finding(
            State.BAD,
            f"autoballoon = {report.autoballoon} in {_LIBXL_CONF}: libvirt does not start so",
            f"set autoballoon = 0 in {_LIBXL_CONF} and restart libvirtd",
        )
    if not report.dom0_memory:
        taken = "a clone takes it from dom0" if report.takes_from_dom0 else "a clone may not start"
        return Finding(
            State.WARNING,
            f"{stated}dom0 has all memory that no guest has: {taken}",
            "set dom0_mem=…,max:… on Xen's command line (GRUB_CMDLINE_XEN) and reboot the host",
        )
    detail = f"{stated}dom0_mem={report.dom0_memory}"
    if not report.takes_from_dom0:
        return Finding(State.OK, f"{detail}: clones take nothing from dom0")
    hint = f"set autoballoon = 0 in {_LIBXL_CONF} and restart libvirtd"
    return Finding(State.WARNING, f"{detail}: new guests take memory from dom0", hint)


def memory(report: XenReport, limits: Limits) -> Finding:
    """For clones: what is free, and not kept free."""
    free = report.free_memory - limits.keep_free
    kept = f" beside the {limits.keep_free / _GIB:.1f} GiB to be kept" if limits.keep_free else ""
    detail = f"{max(0, free) / _GIB:.1f} GiB free for clones{kept}"
    if free < host_checks.LEAST_MEMORY:
        return Finding(State.BAD, detail, "stop something, or give dom0 less (dom0_mem)")
    if free < host_checks.ENOUGH_MEMORY:
        hint = "a clone takes as much as its guest has; `memory:` in the scenario makes it smaller"
        return Finding(State.WARNING, detail, hint)
    return Finding(State.OK, detail)


def no_pools(report: XenReport) -> Finding:
    if report.volumes_problem:
        detail = f"LVM cannot be asked: {report.volumes_problem}"
        return Finding(
            State.WARNING, detail, "guests in files can be rehearsed; else apt install lvm2"
        )
    return Finding(
        State.WARNING,
        "there is none: running guests need files on XFS or btrfs, or room for thick snapshots",
        "guests on LVM thin are cloned in an instant, at no cost",
    )


def thin_pool(pool: Pool, limits: Limits) -> Finding:
    problem = pool_fill(limits, pool)
    if pool.trouble or not pool.active:
        return Finding(State.BAD, problem, pool.hint)
    detail = (
        f"{pool.data:.0f} % of its data and {pool.metadata:.0f} % of its metadata are used, "
        f"{pool.size * (100 - pool.data) / 100 / _GIB:.1f} GiB are free"
    )
    if problem:
        return Finding(State.BAD, f"{detail}: {problem}", pool.hint)
    near = max(pool.data - limits.pool_data, pool.metadata - limits.pool_metadata)
    if near >= -_POOL_NEAR:
        hint = (
            f"no clones beyond {limits.pool_data:.0f} % and {limits.pool_metadata:.0f} %: extend it"
        )
        return Finding(State.WARNING, detail, hint)
    return Finding(State.OK, detail)


def loader(report: XenReport, name: str) -> Finding:
    end, whom, package = _LOADERS[name]
    found = next((path for path in report.loaders if path.endswith(end)), None)
    if found:
        return Finding(State.OK, f"{found}, for {whom}")
    return Finding(State.WARNING, f"not installed: {whom} cannot start", f"apt install {package}")


def device_model(report: XenReport) -> Finding:
    if report.device_models:
        return Finding(State.OK, f"{report.device_models[0]}, for disks in files and HVM guests")
    return Finding(
        State.WARNING,
        "not installed: guests with disks in files and HVM guests cannot start",
        "apt install qemu-system-xen; guests on LVM do without",
    )


def consoles(report: XenReport) -> Finding:
    """Ours are followed by us; without the daemon's log only production's last words are lost."""
    if report.console_daemon:
        followed = "xenconsoled runs: clones' consoles can be followed"
        if report.console_log in ("guest", "all"):
            detail = f"{followed}; guests' consoles are logged (--log={report.console_log})"
            return Finding(State.OK, detail)
        detail = f"{followed}; guests' consoles are not logged"
        if report.console_log_wanted in ("guest", "all"):
            stated = f"XENCONSOLED_TRACE={report.console_log_wanted}"
            return Finding(State.OK, f"{detail}: {stated} is set, but it runs without")
        return Finding(
            State.OK, f"{detail} (XENCONSOLED_TRACE=guest in /etc/default/xen logs them)"
        )
    return Finding(
        State.WARNING,
        "xenconsoled does not run: guests have no console",
        "systemctl start xenconsoled (or xencommons)",
    )


def space(report: XenReport) -> Finding:
    if report.space is None:
        return Finding(State.WARNING, "the host did not say how much is free in /var/lib")
    detail = f"{report.space / _GIB:.1f} GiB free in /var/lib"
    state = State.OK if report.space >= 64 << 20 else State.BAD
    return Finding(
        state, detail, "" if state is State.OK else "free some: marks of clones lie there"
    )


def program(report: XenReport, name: str) -> Finding:
    found = report.programs.get(name)
    if found:
        return Finding(State.OK, found)
    return Finding(State.BAD, "not installed there", f"on the host: apt install {_PROGRAMS[name]}")


def _libvirt(known: KnownHost, host: HostInHand) -> Finding:
    deadline = Deadline(REMOTE_CONNECT_SECONDS, "connecting")
    host.hypervisor = driver_for(known.uri, deadline)
    version, guests = host.hypervisor.version(), host.hypervisor.guests()
    listed = f"{count(len(guests), 'guest')}: {some(guests)}" if guests else "no guests"
    return Finding(State.OK, f"{version}, {listed}")


def _guest_types(host: HostInHand, report: XenReport) -> Finding:
    from sandbox.hosts.drivers.libvirt_xen import LibvirtXen

    if not isinstance(host.hypervisor, LibvirtXen):
        raise HostError("not known: libvirt does not answer", "see the line above")
    return guest_types(host.hypervisor.guest_types(), report.guest_types)


def guest_types(libvirt: tuple[str, ...], processor: tuple[str, ...]) -> Finding:
    """What both libvirt's driver and the machine can do; PVH needs what HVM needs."""
    able = {"pv": "pv", "pvh": "hvm", "hvm": "hvm"}
    possible = [kind for kind in libvirt if able[kind] in processor]
    missing = [kind for kind in able if kind not in possible]
    detail = f"can run {', '.join(possible) or 'nothing'}"
    if not possible:
        return Finding(State.BAD, detail, "is libvirt-daemon-driver-xen installed there?")
    if missing:
        hint = (
            "HVM and PVH need VT-x or AMD-V, turned on in the firmware; PV needs Xen built with it"
        )
        return Finding(State.WARNING, f"{detail}; not {', '.join(missing)}", hint)
    return Finding(State.OK, detail)
