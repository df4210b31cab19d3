"""compose.yaml's services without containers: the same commands, environments, users, health
checks and paths, each in namespaces of its own, on one network of their own.

What stands for an image: Debian's Redis and PostgreSQL with what the entry point of PostgreSQL's
image does, and this checkout for ours.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sandbox.core.deadline import Deadline
from tests.support.paths import ROOT
from tests.support.service.embedded import PATIENCE, parents
from tests.support.service.servers import PROGRAMS, short_folder

COMPOSE = ROOT / "compose.yaml"
SANDBOX_UID = 10001  # as .ci/Dockerfile has it
# docker-entrypoint.sh of PostgreSQL's image, as far as compose.yaml uses it.
POSTGRES_IMAGE = """
set -eu
cd "$PGDATA"
initdb --no-sync --username "$POSTGRES_USER" --pwfile "$POSTGRES_PASSWORD_FILE" \
    $POSTGRES_INITDB_ARGS >/dev/null
echo 'host all all all scram-sha-256' >>pg_hba.conf
echo "listen_addresses = '*'" >>postgresql.conf
export PGPASSWORD="$(cat "$POSTGRES_PASSWORD_FILE")"
pg_ctl -s -w -o "-c listen_addresses=''" start
createdb --username "$POSTGRES_USER" "$POSTGRES_DB"
pg_ctl -s -m fast stop
exec "$@"
"""


def definitions() -> dict[str, dict[str, Any]]:
    services: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE.read_text())["services"]
    return services


@dataclass
class Composed:
    """The services, their network and their volumes."""

    folder: Path
    network: str
    services: dict[str, dict[str, Any]] = field(default_factory=definitions)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def secrets(self) -> Path:
        return self.folder / "secrets"

    def user(self, name: str) -> tuple[int, int]:
        stated = self.services[name].get("user")
        if stated is None:
            return SANDBOX_UID, SANDBOX_UID
        entry = pwd.getpwnam(stated)
        return entry.pw_uid, entry.pw_gid

    def environment(self, name: str) -> dict[str, str]:
        stated = {
            key: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value)  # nobody says otherwise here
            for key, value in self.services[name].get("environment", {}).items()
        }
        programs = f"{Path(sys.executable).parent}:{PROGRAMS[-1]}:/usr/sbin:/usr/bin"
        given = {"PATH": programs, "HOME": "/tmp", "LC_ALL": "C.UTF-8", **stated}
        if name == "postgres":
            given |= {"PGDATA": "/var/lib/postgresql/data", "PGHOST": "/run/postgresql"}
        elif name != "redis":
            # What no container has to be told: there are no hypervisors here.
            given["SANDBOX_SERVICE_EXECUTOR"] = (
                "simulated:/var/lib/upgrade-sandbox/simulated?seconds=0.05"
            )
        return given

    def command(self, name: str) -> list[str]:
        stated: list[str] = self.services[name]["command"]
        if name == "postgres":
            return ["sh", "-c", POSTGRES_IMAGE, "postgres-image", *stated]
        return stated if name == "redis" else ["sandbox", *stated]

    def start(self, name: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            argv = [*self._surroundings(name), *self._as_user(name), *self.command(name)]
            self.processes[name] = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment(name)
            )
        return self.processes[name]

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def run(self, name: str, *argv: str) -> subprocess.CompletedProcess[str]:
        """A command beside a service's process, as `compose exec` runs one."""
        inside = ("--mount", "--uts", "--net", "--pid", "--ipc", "--root", "--wd")
        return subprocess.run(
            ["nsenter", "--target", str(self.first(name)), *inside, *self._as_user(name), *argv],
            env=self.environment(name),
            capture_output=True,
            text=True,
            check=False,
        )

    def health(self, name: str) -> subprocess.CompletedProcess[str]:
        kind, *words = self.services[name]["healthcheck"]["test"]
        words = [word.replace("$$", "$") for word in words]
        return self.run(name, *(("sh", "-c", *words) if kind == "CMD-SHELL" else words))

    def wait_until_healthy(self, name: str) -> None:
        deadline = Deadline(PATIENCE, f"{name} to be healthy")
        while self.processes[name].poll() is None:
            if self._has_begun(name) and self.health(name).returncode == 0:
                return
            deadline.sleep(0.2)
        raise AssertionError(self.log(name))

    def first(self, name: str) -> int:
        """The pid, out here, of the service's first process: bwrap keeps one before it."""
        above, pid = parents(), self.processes[name].pid
        while True:
            children = [child for child, parent in above.items() if parent == pid]
            if not children or _argv(pid)[:1] not in (["bwrap"], ["ip"]):
                return pid
            pid = children[0]

    def stop(self, name: str) -> int:
        """SIGTERM to its process; the exit status."""
        os.kill(self.first(name), signal.SIGTERM)
        return self.processes[name].wait(PATIENCE)

    def kill(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()  # bwrap's children end with it, the pid namespace with them
            process.wait()

    def _has_begun(self, name: str) -> bool:
        return _argv(self.first(name))[:1] not in ([], ["bwrap"], ["ip"], ["setpriv"])

    def _as_user(self, name: str) -> list[str]:
        """compose.yaml's user, cap_drop and security_opt."""
        assert self.services[name]["cap_drop"] == ["ALL"]
        assert self.services[name]["security_opt"] == ["no-new-privileges:true"]
        uid, gid = self.user(name)
        alone = ("--clear-groups", "--bounding-set", "-all", "--no-new-privs")
        return ["setpriv", "--reuid", str(uid), "--regid", str(gid), *alone]

    def _surroundings(self, name: str) -> list[str]:
        """The file system as the container's: read-only but for what compose.yaml mounts."""
        stated = self.services[name]
        argv = ["ip", "netns", "exec", self.network, "bwrap", "--die-with-parent"]
        argv += ["--unshare-pid", "--unshare-uts", "--unshare-ipc", "--hostname", f"c-{name}"]
        argv += ["--cap-add", "ALL"]  # setpriv takes them away again
        argv += ["--ro-bind", "/usr", "/usr", "--dev", "/dev", "--proc", "/proc"]
        argv += ["--perms", "1777", "--tmpfs", "/dev/shm"]
        for link in ("bin", "lib", "lib64", "sbin"):
            argv += ["--symlink", f"usr/{link}", f"/{link}"]
        for place in ("/etc", "/root", "/home", "/run", "/run/secrets", "/var", "/var/lib"):
            argv += ["--perms", "0755", "--dir", place]
        argv += ["--symlink", "/run", "/var/run"]
        for file in ("group", "nsswitch.conf", "ssl", "alternatives"):
            argv += ["--ro-bind-try", f"/etc/{file}", f"/etc/{file}"]
        for file in ("hosts", "passwd"):
            argv += ["--ro-bind", str(self.folder / file), f"/etc/{file}"]
        for place in stated["tmpfs"]:
            argv += self._temporary(name, place)
        for place in {str(ROOT), sys.base_prefix, sys.prefix}:
            if not place.startswith("/usr/"):
                argv += [*_parents_of(place), "--ro-bind", place, place]
        for secret in stated["secrets"]:
            argv += ["--ro-bind", str(self.secrets / secret), f"/run/secrets/{secret}"]
        for volume in stated.get("volumes", ()):
            argv += self._mounted(name, volume)
        assert stated["read_only"] is True
        return [*argv, "--remount-ro", "/"]

    def _temporary(self, name: str, stated: str) -> list[str]:
        """A tmpfs is everybody's, unless it is given to one; then a folder stands for it here."""
        target, _, options = stated.partition(":")
        if "uid=" not in options:
            return ["--perms", "1777", "--tmpfs", target]
        given = dict(option.partition("=")[::2] for option in options.split(","))
        place = self.folder / f"tmpfs-{name}"
        place.mkdir(mode=int(given["mode"], 8))
        os.chown(place, int(given["uid"]), int(given["gid"]))
        assert "exec" in given, "Docker's are noexec otherwise"
        return ["--bind", str(place), target]

    def _mounted(self, name: str, volume: str) -> list[str]:
        source, target, *options = volume.split(":")
        if not source.startswith("."):
            place = self.folder / f"volume-{source}"
            place.mkdir(exist_ok=True, mode=0o700)
            os.chown(place, *self.user(name))
        elif source.startswith("./.secrets/"):
            place = self.secrets / source.removeprefix("./.secrets/")
        else:
            place = ROOT / source
        how = "--ro-bind" if "ro" in options else "--bind"
        return [*_parents_of(target), how, str(place), target]


def _parents_of(place: str) -> list[str]:
    above = [path for path in reversed(Path(place).parents) if str(path) not in ("/", "/tmp")]
    return [word for path in above for word in ("--perms", "0755", "--dir", str(path))]


def _argv(pid: int) -> list[str]:
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
        return [Path(words[0]).name, *words[1:]] if words[0] else []
    return []


@contextlib.contextmanager
def composed() -> Iterator[Composed]:
    """Nothing is started yet; all of it is gone in the end."""
    network = f"sbcompose-{secrets.token_hex(3)}"
    with short_folder("sbcompose-") as folder:
        one = Composed(folder, network)
        made = subprocess.run(
            [ROOT / ".ci/secrets", one.secrets], capture_output=True, text=True, check=True
        )
        assert "hosts.yaml" in made.stdout
        names = " ".join(one.services)
        (folder / "hosts").write_text(f"127.0.0.1 localhost {names}\n")
        ours = f"sandbox:x:{SANDBOX_UID}:{SANDBOX_UID}::/var/lib/upgrade-sandbox:/bin/sh\n"
        (folder / "passwd").write_text(Path("/etc/passwd").read_text() + ours)
        (one.secrets / "worker" / "hosts.yaml").write_text(
            "hosts:\n  - name: xen1\n    uri: xen+ssh://root@xen1.example.org/system\n"
            "    identity: /etc/upgrade-sandbox/id_ed25519\n"
        )
        subprocess.run(["ip", "netns", "add", network], check=True)
        try:
            subprocess.run(["ip", "-n", network, "link", "set", "lo", "up"], check=True)
            yield one
        finally:
            one.kill()
            subprocess.run(["ip", "netns", "del", network], check=True)
