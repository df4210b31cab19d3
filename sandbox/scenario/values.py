"""The words of a scenario: guest names, packages, repositories, sizes, durations. Pure.

Every parser takes what the YAML held, returns the typed value and raises :class:`ValueError`
with a text for people; where the value stands is added by the caller.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NoReturn
from urllib.parse import SplitResult, urlsplit

from sandbox.checks import PORT_PATTERN
from sandbox.core.errors import RequestError

# Debian policy 5.6.1 and 5.6.12; a name that ends in "-" would be a removal to apt-get.
PACKAGE_NAME = r"[a-z0-9][a-z0-9+.-]*[a-z0-9+.]"
PACKAGE_VERSION = (
    r"(?:[0-9]{1,9}:[0-9][A-Za-z0-9.+:~-]*|[0-9][A-Za-z0-9.+~-]*)(?<!-)"  # [epoch:]upstream[-rev]
)
_PACKAGE = rf"{PACKAGE_NAME}(?::[a-z0-9][a-z0-9-]*)?"  # with an architecture or without
PACKAGE_SPEC = rf"{_PACKAGE}(?:={PACKAGE_VERSION})?"
PACKAGE_GLOB = r"[a-z0-9+.:*?\[\]!-]+"
KERNEL = r"newest|unchanged|[0-9]+\.[0-9]+[A-Za-z0-9._+~-]*"
CODENAME = r"[a-z][a-z0-9-]{1,39}"
USER = r"[A-Za-z_][A-Za-z0-9_.@+-]{0,63}"
SIZE = r"([0-9]{1,9})(KiB|MiB|GiB|TiB)"
DURATION = r"(?=.)(?:([0-9]{1,7})d)?(?:([0-9]{1,7})h)?(?:([0-9]{1,7})m)?(?:([0-9]{1,7})s)?"

GUEST_NAME_LENGTH = 64
_GUEST_NAME_SIGNS = " ._-+:@()#"
_UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_SMALLEST, _LARGEST = 64 << 20, 16 << 40
_LONGEST = 7 * 86400
_APT_OPTIONS = (
    *("allow-downgrade-to-insecure", "allow-insecure", "allow-weak", "arch", "by-hash"),
    *("check-date", "check-valid-until", "date-max-future", "inrelease-path", "lang", "pdiffs"),
    *("signed-by", "snapshot", "target", "trusted", "valid-until-max", "valid-until-min"),
)


def shown(value: object) -> str:
    """A value in a message: escaped and short."""
    words = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return words if len(words) <= 70 else f"{words[:69]}…"


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1)), None)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``"; did you mean 'packages'?"``, or the whole list when nothing is near."""
    words = list(known)
    best = nearest(word, words)
    if best is not None:
        return f"; did you mean {best!r}?"
    return f"; known: {', '.join(words)}" if words else ""


def text(value: object) -> str:
    """Text on one line, not empty; what all the other parsers begin with."""
    if not isinstance(value, str):
        raise ValueError(f"must be text, not {shown(value)}: put it in quotes")
    if not value.strip():
        raise ValueError("must not be empty")
    if not value.isprintable():
        raise ValueError(f"{shown(value)} holds control characters or line breaks")
    return value


def valid_guest_name(name: str) -> str:
    """``name``, when a libvirt guest can have it; raises :class:`RequestError` with the rule."""
    try:
        return guest_name(name)
    except ValueError as problem:
        raise RequestError(
            f"guest name {problem}", "`virsh list --all` shows the names of the guests"
        ) from problem


_HOST_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def host_name(value: object) -> str:
    """A name of the inventory."""
    name = text(value)
    if not _HOST_NAME.fullmatch(name):
        raise ValueError(f"{shown(name)}: letters, digits and ._- are allowed, 63 at most")
    return name


def guest_name(value: object) -> str:
    name = text(value)
    if len(name) > GUEST_NAME_LENGTH:
        raise ValueError(f"{shown(name)} is longer than {GUEST_NAME_LENGTH} characters")
    if name[0] in "-." or name != name.strip():
        raise ValueError(f"{shown(name)} must not begin with '-', '.' or a blank, or end in one")
    odd = next((c for c in name if not (c.isalnum() or c in _GUEST_NAME_SIGNS)), None)
    if odd is not None:
        raise ValueError(
            f"{shown(name)} holds {odd!r}: letters, digits, blanks and ._-+:@()# are allowed"
        )
    return name


def user_name(value: object) -> str:
    name = text(value)
    if not re.fullmatch(USER, name):
        raise ValueError(f"{shown(name)} is not a user name like root or admin")
    return name


def package_spec(value: object) -> str:
    """``nginx``, ``nginx=1.22.1-9``, ``libc6:i386``: as apt-get takes them."""
    spec = text(value)
    name, separator, version = spec.partition("=")
    if not re.fullmatch(_PACKAGE, name):
        lower = name.lower()
        hint = f"; did you mean {lower!r}?" if re.fullmatch(PACKAGE_NAME, lower) else ""
        raise ValueError(f"{shown(name)} is not a package name (a-z, 0-9 and + - .){hint}")
    if separator and not re.fullmatch(PACKAGE_VERSION, version):
        raise ValueError(f"{shown(version)} is not a version like 1.22.1-9 or 1:9.2+deb12u2")
    return spec


def package_glob(value: object) -> str:
    """``linux-image-*``: a shell pattern over package names."""
    pattern = text(value)
    if not re.fullmatch(PACKAGE_GLOB, pattern):
        raise ValueError(f"{shown(pattern)} is not a package name or a pattern like linux-image-*")
    return pattern


def kernel(value: object) -> str:
    release = text(value)
    if not re.fullmatch(KERNEL, release):
        best = nearest(release, ("newest", "unchanged"))
        hint = f"; did you mean {best!r}?" if best else ""
        raise ValueError(
            f"{shown(release)} is not newest, unchanged or a release like 6.1.0-18-amd64{hint}"
        )
    return release


def codename(value: object) -> str:
    """A release of a distribution as its archive calls it: ``trixie``."""
    name = text(value)
    if not re.fullmatch(CODENAME, name):
        raise ValueError(f"{shown(name)} is no release's code name, as trixie is")
    return name


def size(value: object) -> int:
    """Bytes of ``1GiB`` (KiB, MiB, GiB, TiB) or of a whole number of bytes."""
    count = value if isinstance(value, int) and not isinstance(value, bool) else None
    if isinstance(value, str) and (match := re.fullmatch(SIZE, value)):
        count = int(match[1]) * _UNITS[match[2]]
    if count is None:
        raise ValueError(f"{shown(value)} is not a size like 512MiB or 2GiB")
    if not _SMALLEST <= count <= _LARGEST:
        raise ValueError(f"{shown(value)} must be between 64MiB and 16TiB")
    return count


def duration(value: object) -> int:
    """Seconds of ``10m``, ``1h30m`` (d, h, m, s) or of a whole number of seconds."""
    seconds = value if isinstance(value, int) and not isinstance(value, bool) else None
    if isinstance(value, str) and (match := re.fullmatch(DURATION, value)):
        days, hours, minutes, rest = (int(part or 0) for part in match.groups())
        seconds = ((days * 24 + hours) * 60 + minutes) * 60 + rest
    if seconds is None:
        raise ValueError(f"{shown(value)} is not a time like 300 (seconds), 10m or 1h30m")
    if not 1 <= seconds <= _LONGEST:
        raise ValueError(f"{shown(value)} must be between 1s and 7d")
    return seconds


def pause(value: object) -> int:
    """The same, or 0 for no time at all."""
    is_none = isinstance(value, int) and not isinstance(value, bool) and value == 0
    return 0 if is_none or value == "0s" else duration(value)


def port(value: object) -> str:
    """``tcp/68``, ``68`` or the number 68: a port to ignore."""
    words = str(value) if isinstance(value, int) else text(value)
    match = PORT_PATTERN.fullmatch(words)
    if match is None or not 0 < int(match["port"]) < 65536:
        raise ValueError(f"{shown(value)} is not a port like 8080, tcp/8080 or udp/68")
    return words


def regular_expression(value: object) -> str:
    pattern = text(value)
    if len(pattern) > 500:
        raise ValueError("a regular expression must not be longer than 500 characters")
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as problem:
        raise ValueError(f"{shown(pattern)} is not a regular expression: {problem}") from problem
    return pattern


def http_url(value: object) -> str:
    url = text(value)
    _split_url(url)
    return url


def _split_url(url: str) -> SplitResult:
    if not url.isascii() or " " in url:
        raise ValueError(f"{shown(url)} holds characters that a URL must not have")
    try:
        parts = urlsplit(url)
        number, host = parts.port, parts.hostname
    except ValueError as problem:
        raise ValueError(f"{shown(url)} is not a URL: {problem}") from problem
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"{shown(url)} is not a URL that begins with http:// or https://")
    if not host or number == 0 or not re.fullmatch(r"[A-Za-z0-9._:%-]+", host):
        raise ValueError(f"{shown(url)} names no valid host")
    if "@" in parts.netloc:
        raise ValueError("a URL must not hold a user or password: reports show it")
    return parts


@dataclass(frozen=True)
class Repository:
    """A package source in apt's one-line form; ``str()`` gives the line back."""

    uri: str
    suite: str
    components: tuple[str, ...] = ()
    options: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        options = " ".join(f"{name}={value}" for name, value in self.options)
        words = ("deb", *([f"[{options}]"] if options else []), self.uri, self.suite)
        return " ".join((*words, *self.components))


def repository(value: object) -> Repository:
    """Parse ``deb [trusted=yes] https://mirror.example/debian bookworm main``."""
    line = text(value)
    match = re.fullmatch(r"\s*(\S+)\s+(?:\[([^\[\]]*)\]\s*)?([^\s\[\]]+)\s+([^\[\]]+)", line)
    if match is None:
        _no_repository(line, "")
    kind, options, uri, rest = match.groups()
    if kind != "deb":
        _no_repository(line, f": it begins with {shown(kind)}")
    parts = _split_url(uri)
    if parts.query or parts.fragment:
        raise ValueError(f"{shown(uri)} must not have a query or fragment")
    suite, *components = rest.split()
    for word in (suite, *components):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._~+/-]*|\./|/", word) or ".." in word:
            raise ValueError(f"{shown(word)} is not the name of a suite or component")
    if suite.endswith("/") == bool(components):
        need = "takes no components" if components else "needs a component such as main"
        raise ValueError(f"suite {shown(suite)} {need}")
    found = tuple(_apt_option(option) for option in (options or "").split())
    return Repository(uri, suite, tuple(components), found)


def _no_repository(line: str, why: str) -> NoReturn:
    raise ValueError(
        f"{shown(line)} is not a line like "
        f"'deb [trusted=yes] https://mirror.example/debian bookworm main'{why}"
    )


def _apt_option(option: str) -> tuple[str, str]:
    name, separator, value = option.partition("=")
    if name.lower() not in _APT_OPTIONS:
        raise ValueError(f"{shown(name)} is not an option of apt{did_you_mean(name, _APT_OPTIONS)}")
    if not separator or not re.fullmatch(r"[A-Za-z0-9._/+:,~-]+", value):
        raise ValueError(f"option {name} needs a value, as in {name}=yes")
    return name.lower(), value
