"""A guest's package world in a folder: real apt and dpkg, an own root, an own repository.

The product's scripts run unchanged; only the environment (APT_CONFIG, DPKG_ROOT, DPKG_FORCE)
says where this "guest" lives. Nothing of this machine's packages is touched.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from sandbox.core.deadline import Deadline
from sandbox.core.records import UpgradeLog
from sandbox.managers import Simulation, UpgradeRequest
from sandbox.managers.apt import AptUpgrader
from tests.support.fakes.local_shell import LocalShell

ARCHITECTURE = subprocess.run(
    ["dpkg", "--print-architecture"], capture_output=True, text=True, check=True
).stdout.strip()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@dataclass
class Suite:
    """One suite of the repository: a flat folder with its own Label and Suite."""

    folder: Path
    label: str
    name: str
    published: int = 0

    def publish(self) -> None:
        entries = [describe(deb) for deb in sorted(self.folder.glob("*.deb"))]
        packages = "\n".join(entries).encode()
        (self.folder / "Packages").write_bytes(packages)
        compressed = gzip.compress(packages, mtime=0)
        (self.folder / "Packages.gz").write_bytes(compressed)
        sums = "".join(
            f" {hashlib.sha256(data).hexdigest()} {len(data)} {name}\n"
            for name, data in (("Packages", packages), ("Packages.gz", compressed))
        )
        (self.folder / "Release").write_text(
            f"Origin: Test\nLabel: {self.label}\nSuite: {self.name}\nVersion: 12\n"
            f"Date: Sat, 01 Jan 2022 00:00:00 UTC\nSHA256:\n{sums}"
        )
        # Two publications within a second must not look like the same to If-Modified-Since.
        self.published += 10
        for path in self.folder.iterdir():
            os.utime(path, (1_700_000_000, 1_700_000_000 + self.published))


def describe(deb: Path) -> str:
    control = subprocess.run(
        ["dpkg-deb", "--field", deb], capture_output=True, text=True, check=True
    ).stdout
    data = deb.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    return f"{control}Filename: ./{deb.name}\nSize: {len(data)}\nSHA256: {digest}\n"


class AptWorld:
    """Root folder, repository on a loopback server, and the environment that joins them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "root"
        self.debs = folder / "debs"
        for sub in (
            "etc/apt/sources.list.d", "etc/apt/apt.conf.d", "etc/apt/preferences.d",
            "etc/apt/trusted.gpg.d", "etc/apt/auth.conf.d",
            "var/lib/apt/lists/partial", "var/cache/apt/archives/partial", "var/log/apt",
            "var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/dpkg/triggers",
        ):  # fmt: skip
            (self.root / sub).mkdir(parents=True)
        (self.root / "var/lib/dpkg/status").touch()
        self.debs.mkdir()
        self.main = self._suite("main", "Test", "stable")
        self.security = self._suite("security", "Debian-Security", "stable-security")
        self.proposed = self._suite("proposed", "Test", "proposed")
        handler = partial(QuietHandler, directory=str(folder / "www"))
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        self.write_sources(self.main, self.security)
        conf = folder / "apt.conf"
        conf.write_text(
            f'Dir "{self.root}";\nDir::State::status "{self.root}/var/lib/dpkg/status";\n'
            f'APT::Architecture "{ARCHITECTURE}";\nAPT::Architectures {{ "{ARCHITECTURE}"; }};\n'
            'Dir::Bin::methods "/usr/lib/apt/methods";\nDir::Bin::dpkg "/usr/bin/dpkg";\n'
            'Acquire::Languages "none";\nAPT::Sandbox::User "";\nAcquire::Retries "0";\n'
            'Dir::Log "/var/log/apt";\n'
        )
        self.env = {
            "APT_CONFIG": str(conf),
            "DPKG_ROOT": str(self.root),
            "DPKG_FORCE": "script-chrootless,not-root,bad-path,downgrade,unsafe-io",
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        }

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def _suite(self, name: str, label: str, suite: str) -> Suite:
        folder = self.folder / "www" / name
        folder.mkdir(parents=True)
        made = Suite(folder, label, suite)
        made.publish()
        return made

    def line(self, suite: Suite) -> str:
        return f"deb [trusted=yes] {self.url}/{suite.folder.name}/ ./"

    def write_sources(self, *suites: Suite) -> None:
        text = "".join(self.line(suite) + "\n" for suite in suites)
        (self.root / "etc/apt/sources.list.d/guest.list").write_text(text)

    def build(
        self,
        name: str,
        version: str,
        *,
        depends: str = "",
        conffiles: dict[str, str] | None = None,
        postinst: str = "",
    ) -> Path:
        """A small package, built by the real dpkg-deb."""
        tree = self.debs / f"{name}-{version}"
        control = tree / "DEBIAN"
        control.mkdir(parents=True)
        doc = tree / "usr/share/doc" / name
        doc.mkdir(parents=True)
        (doc / "version").write_text(version)
        lines = [
            f"Package: {name}", f"Version: {version}", "Architecture: all",
            "Maintainer: T <t@example.org>", "Description: test",
        ]  # fmt: skip
        if depends:
            lines.append(f"Depends: {depends}")
        (control / "control").write_text("\n".join(lines) + "\n")
        for path, text in (conffiles or {}).items():
            (tree / path.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
            (tree / path.lstrip("/")).write_text(text)
        if conffiles:
            (control / "conffiles").write_text("".join(path + "\n" for path in conffiles))
        if postinst:
            (control / "postinst").write_text("#!/bin/sh\n" + postinst)
            (control / "postinst").chmod(0o755)
        deb = self.debs / f"{name}_{version}_all.deb"
        subprocess.run(
            ["dpkg-deb", "--root-owner-group", "-Zgzip", "-b", tree, deb],
            check=True, capture_output=True,
        )  # fmt: skip
        return deb

    def offer(self, suite: Suite, *debs: Path) -> None:
        for deb in debs:
            (suite.folder / deb.name).write_bytes(deb.read_bytes())
        suite.publish()

    def install(self, *debs: Path) -> None:
        """Make it part of the guest before the rehearsal."""
        subprocess.run(
            ["dpkg", "--force-confold", "-i", *debs], env=self.env, check=True, capture_output=True
        )

    def version(self, name: str) -> str:
        done = subprocess.run(
            ["dpkg-query", "-W", "-f", "${Version}", name],
            env=self.env, capture_output=True, text=True,
        )  # fmt: skip
        return done.stdout

    def hold(self, name: str) -> None:
        subprocess.run(
            ["dpkg", "--set-selections"], input=f"{name} hold\n".encode(), env=self.env, check=True
        )


class Rehearsal:
    """A world, a shell into it and an upgrader; what was shown is kept."""

    def __init__(self, world: AptWorld, folder: Path) -> None:
        self.world = world
        self.shell = LocalShell(("sh",), env=world.env)
        self.work = folder / "work"
        self.upgrader = AptUpgrader(work=str(self.work))
        self.progress: list[tuple[float | None, str]] = []
        self.lines: list[str] = []

    def deadline(self, seconds: float = 60) -> Deadline:
        return Deadline(seconds, "upgrade")

    def simulate(self, request: UpgradeRequest) -> Simulation:
        return self.upgrader.simulate(
            self.shell, request, self.deadline(), self._show, self.lines.append
        )

    def run(self, request: UpgradeRequest) -> UpgradeLog:
        simulation = self.simulate(request)
        self.progress.clear()
        return self.upgrader.apply(
            self.shell, request, simulation, self.deadline(), self._show, self.lines.append
        )

    def _show(self, percent: float | None, text: str) -> None:
        self.progress.append((percent, text))


def offer_updates(world: AptWorld, more: Mapping[str, str] | None = None) -> None:
    """web and pinned have updates, lib a security update that needs something new; pinned is held.

    ``more``: further configuration files of the web that is installed."""
    world.install(
        world.build("web", "1.0", conffiles={"/etc/web.conf": "old\n", **(more or {})}),
        world.build("lib", "1.0"),
        world.build("pinned", "1.0"),
    )
    (world.root / "etc/web.conf").write_text("mine\n")
    world.hold("pinned")
    world.offer(
        world.main,
        world.build("web", "2.0", conffiles={"/etc/web.conf": "new\n"}),
        world.build("pinned", "2.0"),
    )
    world.offer(
        world.security,
        world.build("lib", "1.1", depends="newdep"),
        world.build("newdep", "1"),
    )
