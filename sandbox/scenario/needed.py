"""Services that the guest needs elsewhere: what of them can be answered for it."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated

from pydantic import ConfigDict, Field, PlainValidator

from sandbox.core.config import scalars
from sandbox.core.config.section import Section, schema
from sandbox.core.records import Dependency
from sandbox.scenario import values

KINDS = ("http", "tcp", "smtp")
_NAME = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?){0,9}"
_PORT = r":[1-9][0-9]{0,4}"
# The clones' own networks, and the addresses that names are given.
_OURS = ("198.18.0.0/15", "198.51.100.0/24")


def _service(kind: str, value: object, usual: int | None) -> Dependency:
    text = scalars.text(value)
    host, separator, port = text.partition(":")
    if not separator and usual is None:
        raise ValueError(f"{scalars.shown(text)} names no port: give HOST:PORT")
    number = int(port) if re.fullmatch("[0-9]{1,5}", port) else 0 if separator else usual or 0
    if not 0 < number < 65536:
        raise ValueError(f"{scalars.shown(text)} is not HOST:PORT")
    return Dependency(kind=kind, host=_host(host), port=number)


def _host(text: str) -> str:
    host = text.lower()
    if re.fullmatch(r"[0-9.]+", host):
        try:
            address = ipaddress.IPv4Address(host)
        except ValueError as problem:
            raise ValueError(f"{scalars.shown(text)} is not an IPv4 address") from problem
        odd = address.is_multicast or address.is_loopback or address.is_reserved
        if odd or address.packed[0] == 0 or any(address in _network(ours) for ours in _OURS):
            raise ValueError(f"{text} cannot be answered for: no guest reaches it elsewhere")
        return host
    if len(host) > 253 or not re.fullmatch(_NAME, host):
        raise ValueError(f"{scalars.shown(text)} is not a host's name, nor an IPv4 address")
    return host


def _network(text: str) -> ipaddress.IPv4Network:
    return ipaddress.IPv4Network(text)


def _http(value: object) -> Dependency:
    url = values.http_url(value)
    scheme, _, rest = url.partition("://")
    if scheme != "http":
        raise ValueError(f"{scalars.shown(url)}: only http: can be answered for, not https")
    return _service("http", rest.partition("/")[0].partition("?")[0], 80)


def _tcp(value: object) -> Dependency:
    return _service("tcp", value, None)


def _smtp(value: object) -> Dependency:
    return _service("smtp", value, 25)


HttpService = Annotated[
    Dependency, PlainValidator(_http), schema(r"http://[^/?]+([/?].*)?", examples=["http://a:80"])
]
TcpService = Annotated[Dependency, PlainValidator(_tcp), schema(rf"[^:]+{_PORT}")]
SmtpService = Annotated[Dependency, PlainValidator(_smtp), schema(rf"[^:]+({_PORT})?")]


class Needed(Section):
    """One service: exactly one of its kinds."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1, "maxProperties": 1})

    http: HttpService | None = Field(
        default=None, description="answers each request with an empty 200: http://api.example:8080"
    )
    tcp: TcpService | None = Field(
        default=None, description="accepts connections and holds them: db.example:5432"
    )
    smtp: SmtpService | None = Field(
        default=None, description="takes mail and drops it: mail.example, or mail.example:587"
    )

    def stated(self) -> Dependency:
        found = self.http or self.tcp or self.smtp
        assert found is not None, "what states none is one of the problems"
        return found
