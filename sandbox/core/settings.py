"""Configuration: the only reader of the environment. Everything has a default that works."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sandbox.core.errors import RequestError

# A unix socket's path may have 107 bytes; "/clones/<id>/ssh.sock.<random>" needs 58 of them.
_LONGEST_STATE = 48
HOSTS = Path("/etc/upgrade-sandbox/hosts.yaml")
CONTROL = ("auto", "always", "never")
WATCH = 150.0  # seconds: what dies two minutes after its start is seen
XEN_CAPABILITIES = Path("/proc/xen/capabilities")

SERVICE_PREFIX = "SANDBOX_SERVICE_"  # read by the service, of which we know nothing
VARIABLES = {
    "SANDBOX_STATE": "where runs and clones are kept (default /var/lib/upgrade-sandbox)",
    "SANDBOX_CACHE": "downloaded packages, demo images (default /var/cache/upgrade-sandbox)",
    "SANDBOX_URI": "the hypervisor's libvirt URI (default: this machine's Xen, else its QEMU)",
    "SANDBOX_HOSTS": "the inventory of hosts (default /etc/upgrade-sandbox/hosts.yaml, if there)",
    "SANDBOX_SCENARIOS": "the folder with scenarios (default ./scenarios, then the shipped ones)",
    "SANDBOX_UPSTREAM_PROXY": "HTTP proxy through which the package proxy fetches (default none)",
    "SANDBOX_CONTROL": "whether a clone has a control, not upgraded: auto (where the host has "
    "the memory for two; default), always, never; a scenario's own `control` goes first",
    "SANDBOX_WATCH": "how many seconds a clone is watched after its upgrade for what dies late "
    "(default 150; 0: not at all); a scenario's own `watch` goes first",
    "SANDBOX_PROXY_ALLOW": "further package sources that clones may reach, space-separated URIs",
}

CLIENT_VARIABLES = {  # read by the service's clients
    "SANDBOX_SERVER": "URL of the service that `sandbox gate` asks (default: this machine's)",
    "SANDBOX_TOKEN": "the token for it",
    "SANDBOX_TOKEN_FILE": "a file that holds the token",
}


@dataclass(frozen=True)
class Settings:
    """Where things are. Paths are absolute; nothing is created by reading them."""

    state: Path = Path("/var/lib/upgrade-sandbox")
    cache: Path = Path("/var/cache/upgrade-sandbox")
    uri: str = "qemu:///system"
    hosts: Path | None = None  # the inventory, where there is one
    own_name: str = "this machine"  # of the local host where the inventory names none
    scenarios: tuple[Path, ...] = ()
    upstream_proxy: str = ""
    proxy_allow: tuple[str, ...] = ()
    control: str = "auto"  # whether clones have controls: auto, always, never
    watch: float = WATCH  # seconds that a clone is watched after its upgrade

    @property
    def runs(self) -> Path:
        return self.state / "runs"

    @property
    def clones(self) -> Path:
        return self.state / "clones"

    @property
    def shared_checks(self) -> Path:
        """The shipped shared checks; a scenarios folder of one's own may bring others."""
        for folder in self.scenarios:
            if (folder / "shared").is_dir():
                return folder / "shared"
        return shipped_scenarios() / "shared"


def shipped_scenarios() -> Path:
    """The scenarios that come with the product."""
    return Path(__file__).resolve().parents[2] / "scenarios"


def read_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """Settings from the environment; raises :class:`RequestError` naming a bad variable."""
    env = os.environ if environment is None else environment
    unknown = [
        n
        for n in env
        if n.startswith("SANDBOX_")
        and n not in VARIABLES
        and n not in CLIENT_VARIABLES
        and not n.startswith(SERVICE_PREFIX)
    ]
    if unknown:
        raise RequestError(
            f"unknown setting {unknown[0]} in the environment", f"known: {', '.join(VARIABLES)}"
        )
    state = _absolute(env, "SANDBOX_STATE", Settings.state)
    if len(str(state)) > _LONGEST_STATE:
        raise RequestError(
            f"SANDBOX_STATE is too long: {state}",
            f"sockets live beneath it: at most {_LONGEST_STATE} characters",
        )
    own = env.get("SANDBOX_SCENARIOS")
    if own and not Path(own).is_dir():
        raise RequestError(f"SANDBOX_SCENARIOS is no folder: {own!r}", "name an existing one")
    folders = [Path(own)] if own else [Path.cwd() / "scenarios", shipped_scenarios()]
    return Settings(
        state=state,
        cache=_absolute(env, "SANDBOX_CACHE", Settings.cache),
        uri=env.get("SANDBOX_URI") or _probed_uri(),
        hosts=_inventory(env.get("SANDBOX_HOSTS", "")),
        scenarios=tuple(dict.fromkeys(f.resolve() for f in folders if f.is_dir())),
        upstream_proxy=env.get("SANDBOX_UPSTREAM_PROXY", ""),
        proxy_allow=tuple(env.get("SANDBOX_PROXY_ALLOW", "").split()),
        control=one_of(
            env.get("SANDBOX_CONTROL", ""),
            CONTROL,
            "SANDBOX_CONTROL",
            VARIABLES["SANDBOX_CONTROL"],
        ),
        watch=_watch(env.get("SANDBOX_WATCH", "")),
    )


def _watch(given: str) -> float:
    if not given:
        return WATCH
    if not re.fullmatch(r"[0-9]{1,6}", given):
        raise RequestError(f"SANDBOX_WATCH is no number of seconds: {given!r}", "150, or 0")
    return float(given)


def one_of(given: str, words: Sequence[str], name: str, hint: str) -> str:
    """A word of several, the first where none is given; raises :class:`RequestError`."""
    word = given or words[0]
    if word not in words:
        raise RequestError(f"{name} is none of {', '.join(words)}: {word!r}", hint)
    return word


def _probed_uri() -> str:
    """This machine's hypervisor: Xen where we run in its dom0, which has no other."""
    try:
        is_dom0 = "control_d" in XEN_CAPABILITIES.read_text()
    except OSError:
        is_dom0 = False
    return "xen:///system" if is_dom0 else Settings.uri


def _inventory(stated: str) -> Path | None:
    if not stated:
        return HOSTS if HOSTS.is_file() else None
    path = Path(stated)
    if not path.is_file():
        raise RequestError(f"SANDBOX_HOSTS is no file: {stated!r}", "name an existing hosts.yaml")
    return path.resolve()


def _absolute(env: Mapping[str, str], name: str, default: Path) -> Path:
    value = env.get(name)
    if not value:
        return default
    if not value.startswith("/"):
        raise RequestError(f"{name} is not an absolute path: {value!r}", "begin it with /")
    return Path(value)
