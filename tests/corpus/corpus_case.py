"""One upgrade whose outcome is known beforehand: what it is made of. Data only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sandbox.demo.broken import build_deb

ALL = "upgrade: {what: all}\n"
REBOOT = "reboot: always\n"
TRUTHS = ("pass", "fail", "inconclusive", "error", "rejected")
MIRRORS = ("ours", "down", "flickers", "slow", "half synchronised", "debian")
DEMO = "demo"  # the image of web01 as the demo has it, with the machine's own mirror


@dataclass(frozen=True)
class HostFile:
    """A library of this host, which runs the same release as the guest."""

    pattern: str  # beneath /usr/lib

    def read(self) -> bytes:
        return next(Path("/usr/lib").glob(self.pattern)).read_bytes()


@dataclass(frozen=True)
class Zeros:
    """A large file."""

    megabytes: int

    def read(self) -> bytes:
        return bytes(self.megabytes << 20)


Content = str | bytes | HostFile | Zeros


@dataclass(frozen=True)
class Deb:
    """A package to build; see :func:`sandbox.demo.broken.build_deb`."""

    name: str
    version: str
    files: Mapping[str, Content] = field(default_factory=dict)
    postinst: str = ""
    prerm: str = ""
    executable: tuple[str, ...] = ()
    conffiles: tuple[str, ...] = ()
    depends: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)

    def build(self, out: Path) -> Path:
        contents = {
            path: content if isinstance(content, str | bytes) else content.read()
            for path, content in self.files.items()
        }
        return build_deb(
            self.name,
            self.version,
            out=out,
            files=contents,
            executable=self.executable,
            conffiles=self.conffiles,
            scripts={
                name: script
                for name, script in (("postinst", self.postinst), ("prerm", self.prerm))
                if script
            },
            depends=self.depends,
            fields=self.fields,
        )


@dataclass(frozen=True)
class Case:
    """``truth`` is what an administrator who knows what was planted would say, whatever the
    product says."""

    name: str
    truth: str
    why: str  # what was planted, and why that is the truth
    cause: str = ""  # regular expression of the planted cause; "" where nothing is wrong
    packages: tuple[Deb, ...] = ()  # what the archive offers
    scenario: str = ALL
    checks: str = ""  # the scenario's own test_own.py
    image: str = ""  # a variant of the machine, see corpus_machine
    mirror: str = "ours"
    control: bool = False  # with a control; most cases do without, which saves half of the time
    shipped: str = ""  # a shipped scenario instead of ``scenario``


def sh(*commands: str) -> str:
    """A maintainer script; what needs systemd is left out while the image is built."""
    return "\n".join(("#!/bin/sh", "set -e", *commands, ""))


def live(*commands: str) -> str:
    """A maintainer script that does nothing while the image is built."""
    return sh("[ -d /run/systemd/system ] || exit 0", *commands)


def install(*names: str) -> str:
    """A scenario that asks for these packages."""
    return f"upgrade: {{what: packages, packages: [{', '.join(names)}]}}\n"
