"""The values of a scenario: packages, repositories, kernels, users, ports. Pure.

Every parser takes what the YAML held, returns the typed value and raises :class:`ValueError`
with a text for people; where the value stands is added by the caller.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NoReturn
from urllib.parse import SplitResult, urlsplit

from sandbox.checks import PORT_PATTERN
from sandbox.core.config.scalars import did_you_mean, nearest, shown, text

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

_APT_OPTIONS = (
    *("allow-downgrade-to-insecure", "allow-insecure", "allow-weak", "arch", "by-hash"),
    *("check-date", "check-valid-until", "date-max-future", "inrelease-path", "lang", "pdiffs"),
    *("signed-by", "snapshot", "target", "trusted", "valid-until-max", "valid-until-min"),
)


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
