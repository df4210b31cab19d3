"""What a host needs to rehearse upgrades, each need as one check that really tries it."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from http.client import HTTPResponse
from pathlib import Path

from sandbox.clone.reaper import leftovers
from sandbox.core.deadline import Deadline
from sandbox.core.errors import HostError, SandboxError, ToolMissing
from sandbox.core.process import PACKAGE_OF, run
from sandbox.core.settings import Settings, shipped_scenarios
from sandbox.core.store import Store
from sandbox.core.wording import count, some
from sandbox.hosts.drivers import Hypervisor, driver_for
from sandbox.hosts.drivers.acceleration import acceleration, probe
from sandbox.hosts.transport import LocalHost
from sandbox.network import isolation
from sandbox.network.proxy.package_proxy import PackageProxy
from sandbox.network.proxy.rules import AllowList
from sandbox.network.proxy.upstream import parse_upstream
from sandbox.scenario import load_scenario

CONNECT_SECONDS = 10.0
TOOL_SECONDS = 10.0
LEAST_SPACE, ENOUGH_SPACE = 1 << 30, 5 << 30  # bytes; a rehearsal does not begin below the least
LEAST_MEMORY, ENOUGH_MEMORY = 640 << 20, 2 << 30
VIRTLOGD = Path("/run/libvirt/virtlogd-sock")
MEMORY = Path("/proc/meminfo")
IPV6 = Path("/proc/sys/net/ipv6")
_SYSTEM_FOLDERS = "/usr/sbin:/sbin:/usr/local/sbin"
# Every program that a rehearsal calls, or has called by libvirt.
PROGRAMS = {
    "qemu-system-x86_64": "qemu-system-x86",
    **{name: PACKAGE_OF[name] for name in ("qemu-img", "qemu-nbd", "ssh", "ssh-keygen")},
    **{name: PACKAGE_OF[name] for name in ("nft", "ip")},
    "sysctl": "procps",
    "dnsmasq": "dnsmasq-base",
}
INJECTOR = "virt-customize"


class State(StrEnum):
    OK = "ok"
    WARNING = "warning"  # works, but slower or with something missing that few need
    BAD = "not ok"


@dataclass(frozen=True)
class Finding:
    """What a check found; ``hint`` is what to do."""

    state: State
    detail: str
    hint: str = ""


@dataclass(frozen=True)
class Check:
    """``run`` may raise any exception: its caller makes that a finding."""

    group: str
    name: str
    run: Callable[[], Finding]
    seconds: float = 40.0  # for all of it; what it starts has shorter limits of its own


@dataclass
class HostInHand:
    """What several checks share: one connection to libvirt."""

    settings: Settings
    hypervisor: Hypervisor | None = field(default=None)


def all_checks(settings: Settings) -> Generator[Check, None, None]:
    """Every check, in the order in which one would mend things; to be run one after the other."""
    host = HostInHand(settings)
    try:
        yield Check("This host", "root", root)
        yield Check("This host", "state folder", partial(state_folder, settings.state))
        yield Check("This host", "disk: runs", partial(space, settings.state, "SANDBOX_STATE"))
        yield Check("This host", "disk: packages", partial(space, settings.cache, "SANDBOX_CACHE"))
        yield Check("Hypervisor", "libvirt", partial(libvirt_answers, host))
        yield Check("Hypervisor", "acceleration", acceleration_works)
        yield Check("Hypervisor", "memory", partial(memory, host))
        yield Check("Hypervisor", "virtlogd", partial(listens, VIRTLOGD))
        for name, package in PROGRAMS.items():
            yield Check("Programs", name, partial(program, name, package))
        yield Check("Programs", INJECTOR, partial(optional_program, INJECTOR))
        yield Check("Network", "nftables", gate_closes)
        yield Check("Network", "IPv6", ipv6_works)
        yield Check("Packages", "package proxy", partial(proxy_refuses, settings))
        yield Check("Packages", "further sources", partial(allowed_sources, settings))
        yield Check("Packages", "upstream proxy", partial(upstream_answers, settings))
        yield Check("Rehearsals", "scenarios", partial(scenarios_load, settings))
        yield Check("Rehearsals", "dead runs", partial(nothing_left, host))
    finally:
        if host.hypervisor is not None:
            host.hypervisor.close()


# --- this host ---------------------------------------------------------------------------------


def root() -> Finding:
    if os.geteuid() == 0:
        return Finding(State.OK, "running as root")
    return Finding(
        State.BAD,
        f"running as user {os.geteuid()}",
        "run it as root: guests' disks, bridges and nftables are root's",
    )


def state_folder(path: Path) -> Finding:
    """Proved by writing; nothing stays, and a folder that is missing is not made."""
    place = _existing(path)
    with tempfile.NamedTemporaryFile(dir=place, prefix=".upgrade-sandbox-doctor-"):
        pass
    closed = [str(p) for p in (place, *place.parents) if not p.stat().st_mode & 0o001]
    if closed:
        return Finding(
            State.WARNING,
            f"{path}: only its owner may pass {some(closed)}",
            "the hypervisor's own user must reach its disks: chmod o+x, or move SANDBOX_STATE",
        )
    return Finding(State.OK, f"{path} can be {'written' if place == path else 'made'}")


def space(path: Path, variable: str) -> Finding:
    free = shutil.disk_usage(_existing(path)).free
    detail = f"{free / (1 << 30):.1f} GiB free for {path}"
    if free < LEAST_SPACE:
        return Finding(State.BAD, detail, f"free some, or set {variable} to a larger filesystem")
    if free < ENOUGH_SPACE:
        return Finding(State.WARNING, detail, "a large upgrade may need more")
    return Finding(State.OK, detail)


def _existing(path: Path) -> Path:
    """The folder itself, or the nearest one above it that there is."""
    return next(place for place in (path, *path.parents) if place.exists())


# --- hypervisor --------------------------------------------------------------------------------


def libvirt_answers(host: HostInHand) -> Finding:
    uri = host.settings.uri
    host.hypervisor = driver_for(uri, Deadline(CONNECT_SECONDS, "connecting"))
    version, guests = host.hypervisor.version(), host.hypervisor.guests()
    listed = f"{count(len(guests), 'guest')}: {some(guests)}" if guests else "no guests"
    return Finding(State.OK, f"{version} at {uri}, {listed}")


def acceleration_works() -> Finding:
    if acceleration() == "kvm":
        return Finding(State.OK, "KVM works: a machine was run with it")
    if not probe("tcg"):
        return Finding(
            State.BAD,
            "neither KVM nor QEMU's emulation gets a machine through its BIOS",
            "reinstall QEMU: apt install --reinstall qemu-system-x86 seabios",
        )
    return Finding(
        State.WARNING,
        "no KVM that works; emulation does (a machine was run with it): several times slower",
        "turn on VT-x/AMD-V in the firmware, or nested virtualisation where this is a guest itself",
    )


def memory(host: HostInHand) -> Finding:
    free = _free_memory() if host.hypervisor is None else host.hypervisor.free_memory()
    detail = f"{free / (1 << 30):.1f} GiB free for clones"
    if free < LEAST_MEMORY:
        return Finding(State.BAD, detail, "stop something, or give this host more memory")
    if free < ENOUGH_MEMORY:
        hint = "a clone takes as much as its guest has; `memory:` in the scenario makes it smaller"
        return Finding(State.WARNING, detail, hint)
    return Finding(State.OK, detail)


def _free_memory() -> int:
    words = dict(line.split(":", 1) for line in MEMORY.read_text().splitlines())
    return int(words["MemAvailable"].split()[0]) * 1024


def listens(path: Path) -> Finding:
    """Whether a daemon answers on its socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(3)
        try:
            client.connect(str(path))
        except OSError as problem:
            return Finding(
                State.BAD,
                f"no server answers on {path}: {problem.strerror or problem}",
                "start it: systemctl start virtlogd (without systemd: virtlogd -d); "
                "apt install libvirt-daemon-system",
            )
    return Finding(State.OK, "running: clones' consoles are logged")


# --- programs ----------------------------------------------------------------------------------


def program(name: str, package: str) -> Finding:
    found = shutil.which(name)
    if found:
        return Finding(State.OK, found)
    hidden = shutil.which(name, path=_SYSTEM_FOLDERS)
    if hidden:
        folder = Path(hidden).parent
        return Finding(State.BAD, f"{hidden} is not in PATH", f"export PATH=$PATH:{folder}")
    return Finding(State.BAD, "not installed", f"apt install {package}")


def optional_program(name: str) -> Finding:
    found = program(name, PACKAGE_OF[name])
    if found.state is State.OK:
        return found
    hint = f"{found.hint}; only scenarios with `inject: true` need it"
    return Finding(State.WARNING, found.detail, hint)


# --- network -----------------------------------------------------------------------------------


@contextlib.contextmanager
def _throwaway_bridge() -> Iterator[isolation.Network]:
    """A bridge named as a run's, with nothing on it; gone afterwards with what hangs on it."""
    names = isolation.names(f"doctor-{secrets.token_hex(3)}")
    with contextlib.ExitStack() as undo:
        undo.callback(_remove_bridge, names.bridge)
        undo.callback(_remove_gate, names)
        run(
            ["ip", "link", "add", names.bridge, "type", "bridge"],
            Deadline(TOOL_SECONDS, "making a bridge"),
            hint="bridges need root and the kernel's module bridge",
        )
        yield names


def _remove_bridge(bridge: str) -> None:
    if Path("/sys/class/net", bridge).exists():
        run(["ip", "link", "delete", bridge], Deadline(TOOL_SECONDS, "removing a bridge"))


def _remove_gate(names: isolation.Network) -> None:
    with contextlib.suppress(ToolMissing):  # then no rules were loaded either
        isolation.remove_gate(LocalHost(), names)


def gate_closes() -> Finding:
    """The rules that close off a clone's bridge, loaded on an unused bridge."""
    with _throwaway_bridge() as names:
        deadline = Deadline(TOOL_SECONDS, "loading rules")
        hint = "the kernel needs nf_tables with the families netdev (ingress) and bridge"
        rules = isolation.gate_rules(names, 22).encode()
        run(["nft", "-f", "-"], deadline, input=rules, hint=hint)
        loaded = run(["nft", "list", "table", "netdev", names.table], deadline).stdout
    if "hook ingress" not in loaded or "policy drop" not in loaded:
        return Finding(State.BAD, "the kernel did not keep the rules that it took", hint)
    return Finding(State.OK, "a bridge was closed off at its ingress, and removed again")


def ipv6_works() -> Finding:
    hint = "clones are reached over IPv6 link-local: boot this host without ipv6.disable=1"
    if not IPV6.is_dir():
        return Finding(State.BAD, "the kernel runs without IPv6", hint)
    with _throwaway_bridge() as names:
        setting = f"net.ipv6.conf.{names.bridge}.disable_ipv6"
        deadline = Deadline(TOOL_SECONDS, "turning IPv6 on")
        run(["sysctl", "-qw", f"{setting}=0"], deadline, hint=hint)
        value = run(["sysctl", "-n", setting], deadline).stdout.strip()
    if value != "0":
        return Finding(State.BAD, "IPv6 cannot be turned on for a bridge", hint)
    return Finding(State.OK, "can be turned on for a clone's bridge")


# --- packages ----------------------------------------------------------------------------------


def proxy_refuses(settings: Settings) -> Finding:
    """The package proxy, really started, must refuse a host that is no package source."""
    with PackageProxy(
        [],
        settings.cache / "packages",
        operator_allowed=settings.proxy_allow,
        upstream_proxy=settings.upstream_proxy,
        timeout=5,
    ) as proxy:
        status, reason = _ask(proxy.socket, "http://doctor.invalid/")
    if status != 403:
        return Finding(
            State.BAD,
            f"it answered {status} {reason} to a request that it must refuse",
            "please report it",
        )
    return Finding(State.OK, f"starts, refuses strangers (403); cache in {settings.cache}")


def _ask(path: Path, url: str) -> tuple[int, str]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(10)
        client.connect(str(path))
        client.sendall(f"GET {url} HTTP/1.1\r\nHost: doctor.invalid\r\n\r\n".encode())
        answer = HTTPResponse(client)
        answer.begin()
        return answer.status, answer.reason


def allowed_sources(settings: Settings) -> Finding:
    useless = AllowList().add(settings.proxy_allow, operator=True)
    if useless:
        return Finding(
            State.BAD,
            f"SANDBOX_PROXY_ALLOW names what no proxy can fetch: {some(useless)}",
            "give http:// or https:// URIs, separated by blanks",
        )
    if not settings.proxy_allow:
        return Finding(State.OK, "none: clones reach only the guest's own package sources")
    return Finding(State.OK, f"clones may also reach {some(settings.proxy_allow)}")


def upstream_answers(settings: Settings) -> Finding:
    proxy = parse_upstream(settings.upstream_proxy)
    if proxy is None:
        return Finding(State.OK, "none: packages are fetched directly")
    try:
        socket.create_connection((proxy.host, proxy.port), timeout=5).close()
    except OSError as problem:
        return Finding(
            State.BAD,
            f"{proxy.url} does not answer: {problem}",
            "correct SANDBOX_UPSTREAM_PROXY, or unset it to fetch packages directly",
        )
    return Finding(State.OK, f"{proxy.url} answers")


# --- rehearsals --------------------------------------------------------------------------------


def scenarios_load(settings: Settings) -> Finding:
    """Every scenario that can be run by name is read; the shipped ones must be without fault."""
    shipped = shipped_scenarios()
    names, broken, worst = [], [], State.OK
    for folder in dict.fromkeys((*settings.scenarios, shipped)):
        for file in sorted(folder.glob("*/scenario.yaml")):
            names.append(file.parent.name)
            try:
                load_scenario(file, shared=settings.shared_checks)
            except SandboxError as problem:
                broken.append(problem.message)
                worst = State.BAD if folder == shipped or worst is State.BAD else State.WARNING
    if not names:
        raise HostError(f"no scenarios in {shipped}", "install the product again")
    if broken:
        hint = "`sandbox scenario check PATH` says more"
        return Finding(worst, f"{len(broken)} of {len(names)} cannot be used: {broken[0]}", hint)
    return Finding(State.OK, f"{count(len(names), 'scenario')} can be read: {some(names)}")


def nothing_left(host: HostInHand) -> Finding:
    if host.hypervisor is None:
        return Finding(State.WARNING, "not looked for: libvirt does not answer")
    store = Store(host.settings)
    dead = leftovers(host.hypervisor, store)
    if dead:
        detail = f"{count(len(dead), 'run')} left something behind: {some(dead)}"
        return Finding(State.WARNING, detail, "sandbox reap")
    kept = [i for i in store.clone_ids() if store.folder(i).facts().get("kept") == "yes"]
    words = f"; kept on purpose: {some(kept)} (`sandbox rm RUN`)" if kept else ""
    return Finding(State.OK, f"left nothing behind{words}")
