"""The commented ``scenario.yaml`` that `sandbox init` writes for a guest it has looked at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import get_args

import yaml

from sandbox.core.config import scalars
from sandbox.core.errors import RequestError
from sandbox.scenario import values
from sandbox.scenario.model import ImageFormat

_WEB_PORTS = {80: "http://127.0.0.1/", 443: "https://127.0.0.1/", 8080: "http://127.0.0.1:8080/"}


def render_template(
    *,
    guest: str | None,
    image: tuple[str, str] | None,
    user: str,
    key: str | None,
    inject: bool,
    ports: Sequence[int] = (),
    services: Sequence[str] = (),
    comments: Sequence[str] = (),
    host: str | None = None,
) -> str:
    """The text of a scenario; ``image`` is (path, format).

    ``ports`` and ``services`` were seen in the guest and become comments, as do ``comments``.
    What is written can be loaded again, if the files that it names exist. Raises
    :class:`RequestError` for values that no scenario can hold.
    """
    if guest is not None and image is not None:
        raise RequestError("a scenario has a guest or an image, not both", "leave one of them out")
    sections = (
        _head(guest, comments),
        _source(guest, image, host),
        _login(user, key, inject),
        _UPGRADE,
        _checks(ports, services),
        _REST,
    )
    return "\n\n".join("\n".join(section) for section in sections) + "\n"


def _head(guest: str | None, comments: Sequence[str]) -> Iterator[str]:
    yield "# A rehearsal: which upgrade is tried on a clone, and what must still hold afterwards."
    yield "# Check this file with `sandbox scenario check FOLDER`. Put checks of your own beside"
    yield "# it as test_*.py: pytest with testinfra's `host` fixture."
    yield from (f"# {_comment(line)}" for line in comments)
    yield f"description: {_quoted(f'Security updates of {guest}' if guest else 'Security updates')}"


def _source(guest: str | None, image: tuple[str, str] | None, host: str | None) -> Iterator[str]:
    yield "# What is cloned. It is read, never changed, started or stopped."
    if guest is not None:
        yield "source:"
        yield f"  guest: {_quoted(scalars.valid_guest_name(guest))}"
        if host is not None:
            yield f"  host: {_quoted(host)}"
    elif image is not None:
        path, format = image
        if format not in get_args(ImageFormat):
            raise RequestError(
                f"{scalars.shown(format)} is no format of disk images",
                f"give one of {', '.join(get_args(ImageFormat))}",
            )
        yield "source:"
        yield "  image:"
        yield f"    path: {_quoted(_one_line(path, 'the path of the image'))}"
        yield f"    format: {format}"
        yield "    # memory: 1GiB"
        yield "    # cpus: 2"
        yield "    # firmware: uefi"
        yield "    # disk_bus: sata        # for systems without virtio drivers"
        yield "    # nic: e1000"
    else:
        yield "# It is left out here: `sandbox run` takes --guest NAME or --image PATH."
        yield "# source:"
        yield "#   guest: web01"


def _login(user: str, key: str | None, inject: bool) -> Iterator[str]:
    try:
        values.user_name(user)
    except ValueError as problem:
        raise RequestError(f"user {problem}", "name a user of the guest") from problem
    yield "# How the clone is entered: root, or a user with passwordless sudo."
    yield "login:"
    yield f"  user: {_quoted(user)}"
    if key is not None:
        path = _quoted(_one_line(key, "the path of the key"))
        yield f"  key: {path}   # the private half; the guest accepts it"
    elif not inject:
        yield "  # key: ~/.ssh/id_ed25519   # default: the usual keys in ~/.ssh"
    if inject:
        yield "  inject: true   # a throw-away key is put into the clone's disk"
    else:
        yield "  # inject: true   # put a throw-away key into the clone's disk instead"


_UPGRADE = """\
# What is rehearsed: all, security, kernel, packages, release or script.
upgrade:
  what: security
  # what: packages
  # packages: [nginx, openssl=3.0.20-1~deb12u2]
  # release: trixie            # with what: release
  # files: [nginx-local.deb]   # beneath this folder
  # repositories:              # proposed for this rehearsal only
  #   - deb [trusted=yes] https://mirror.example/debian bookworm-proposed main
# reboot: if-needed            # always, if-needed or never
# control: auto                # a control that is not upgraded: always, auto or never
# watch: 150s                  # for what dies late after the upgrade; 0: not at all""".splitlines()

_REST = """\
# deadlines: {boot: 5m, upgrade: 1h, reboot: 10m}

# expect:
#   kernel: newest             # newest, unchanged or a release such as 6.1.0-18-amd64
#   change: ["nginx*"]         # must change
#   keep: ["postgresql-*"]     # must not change
#   nothing_to_upgrade: pass   # or inconclusive

# dependencies:                # services elsewhere that are answered for the clone
#   - http: http://api.example:8080   # an empty 200; also tcp: and smtp: HOST:PORT

# memory: 1GiB                 # of the clone; default: as much as the source has

# schedule:                    # the service runs it by itself
#   cron: 30 1 * * *           # minute hour day-of-month month day-of-week
#   timezone: Europe/Berlin""".splitlines()


def _checks(ports: Sequence[int], services: Sequence[str]) -> Iterator[str]:
    yield "# What must hold before and after. Without this section: all shared checks."
    if services:
        yield f"# Services that run now: {', '.join(map(_comment, services))}"
    if ports:
        yield f"# TCP ports that listen now: {', '.join(map(str, ports))}"
    urls = [_WEB_PORTS[port] for port in ports if port in _WEB_PORTS] or [_WEB_PORTS[80]]
    yield "# checks:"
    yield "#   shared: [boot, units, services, ports, http, kernel, kernel_log]"
    yield f"#   http: [{', '.join(urls)}]   # default: every port that answers HTTP before"
    yield "#   filesystems_max_percent: 95"
    yield "#   ignore: {units: ['apt-daily*'], ports: [udp/68], kernel_log: ['^ACPI']}"


def _one_line(text: str, what: str) -> str:
    try:
        return scalars.text(text)
    except ValueError as problem:
        raise RequestError(f"{what} {problem}", "give another path") from problem


def _quoted(text: str) -> str:
    """A YAML scalar in double quotes, whatever the text holds."""
    dumped: str = yaml.dump(text, default_style='"', allow_unicode=True, width=10**6)
    return dumped.strip()


def _comment(text: str) -> str:
    """Text of the guest in a comment: it must not be able to end its line."""
    return "".join(c if c.isprintable() else " " for c in text).strip()
