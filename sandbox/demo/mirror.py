"""Where this machine gets its Debian packages from: read from apt, never written down here."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sandbox.core.deadline import Deadline
from sandbox.core.errors import HostError
from sandbox.core.process import run

INDEX_FORMAT = "$(REPO_URI)|$(CODENAME)|$(RELEASE)|$(COMPONENT)|$(LABEL)|$(FILENAME)"
# Settings without which a guest could not use the host's mirror (a snapshot, a proxy).
CARRIED_OPTIONS = (
    "Acquire::Check-Valid-Until",
    "Acquire::Check-Date",
    "Acquire::http::Proxy",
    "Acquire::https::Proxy",
)
# The guest is a machine of its own: the host's proxy is not its business.
GUEST_OPTIONS = CARRIED_OPTIONS[:2]


@dataclass(frozen=True)
class Mirror:
    """The release and its security suite, as apt on this machine knows them."""

    codename: str  # bookworm
    release_uri: str
    security_uri: str
    security_suite: str  # bookworm-security
    release_date: str  # the release's InRelease date: changes with a point release
    options: dict[str, str]  # apt settings of this machine, see CARRIED_OPTIONS

    def sources(self) -> str:
        """The guest's ``sources.list``: what it has, and the security updates proposed to it."""
        return (
            f"deb {self.release_uri} {self.codename} main\n"
            f"deb {self.security_uri} {self.security_suite} main\n"
        )

    def guest_options(self) -> str:
        """apt configuration lines for the guest, empty when the host needs none either."""
        return "".join(
            f'{key} "{value}";\n' for key, value in self.options.items() if key in GUEST_OPTIONS
        )


def find_mirror() -> Mirror:
    """Ask apt. Raises :class:`HostError` when this is no Debian or its lists are missing."""
    clock = Deadline(60, "reading apt's configuration")
    listing = run(
        ["apt-get", "indextargets", "--format", INDEX_FORMAT, "Created-By: Packages"], clock
    )
    return parse_mirror(
        listing.stdout,
        codename=parse_codename(Path("/etc/os-release").read_text()),
        options=parse_options(run(["apt-config", "dump"], clock).stdout),
    )


def parse_mirror(listing: str, codename: str, options: dict[str, str]) -> Mirror:
    """Pick the release's and the security suite's rows out of ``apt-get indextargets``."""
    rows = [line.split("|") for line in listing.splitlines() if line.count("|") == 5]
    main = [row for row in rows if row[3] == "main"]
    release = _first(main, codename, ("Debian",))
    security = _first(main, f"{codename}-security", ("Debian-Security", "Debian"))
    return Mirror(
        codename=codename,
        release_uri=release[0],
        security_uri=security[0],
        security_suite=security[2],
        release_date=_inrelease_date(Path(release[5]), release[2]),
        options=options,
    )


def parse_codename(os_release: str) -> str:
    """``VERSION_CODENAME`` of a Debian; anything else cannot lend its packages to the demo."""
    values = dict(word.partition("=")[::2] for word in shlex.split(os_release, comments=True))
    if values.get("ID") != "debian" or not values.get("VERSION_CODENAME"):
        raise HostError(
            f"the demo's guest is built from Debian packages, and this host is "
            f"{values.get('PRETTY_NAME', 'unknown')}",
            "run the demo on Debian 12 or later, or rehearse a guest of your own: sandbox run",
        )
    return values["VERSION_CODENAME"]


def parse_options(dump: str) -> dict[str, str]:
    """The settings of ``apt-config dump`` that decide whether the mirror can be used at all."""
    found: dict[str, str] = {}
    for line in dump.splitlines():
        key, _, rest = line.partition(" ")
        value = rest.removeprefix('"').removesuffix('";')
        if key in CARRIED_OPTIONS and value:
            found[key] = value
    return found


def _first(rows: Sequence[list[str]], codename: str, labels: Sequence[str]) -> list[str]:
    for row in rows:
        if row[1] == codename and row[4] in labels:
            return row
    raise HostError(
        f"apt on this host has no package list of {codename} (main)",
        f"add {codename} to the machine's apt sources and run: apt-get update",
    )


def _inrelease_date(packages: Path, suite: str) -> str:
    """The Date of the InRelease file beside a Packages file in apt's list folder."""
    stem, found, _ = packages.name.partition(f"_dists_{suite.replace('/', '_')}_")
    for name in ("InRelease", "Release"):
        release = packages.with_name(f"{stem}{found}{name}")
        if found and release.is_file():
            for line in release.read_text(errors="replace").splitlines():
                if line.startswith("Date:"):
                    return line.removeprefix("Date:").strip()
    raise HostError(f"apt's list of {suite} was never fetched on this host", "run: apt-get update")
