"""The service's configuration: the only reader of its environment. All of it has defaults.

Names begin with ``SANDBOX_SERVICE_``. A secret may be given as ``NAME_FILE``, the path of a file
that holds it, so that it is in no process list and no compose file.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from sandbox.core.config import scalars
from sandbox.core.errors import RequestError
from sandbox.core.settings import SERVICE_PREFIX, Settings, one_of, read_settings

VARIABLES = {
    "DATABASE": "SQLAlchemy URL of the truth (default: SQLite in SANDBOX_STATE)",
    "BROKER": "Redis: redis://HOST:6379/0 or redis+socket:///PATH (default: that of `sandbox up`)",
    "ARTIFACTS": "where artifacts are copied: a folder, or s3://BUCKET/PREFIX (default: nowhere)",
    "S3_ENDPOINT": "of an S3-compatible server that is not Amazon's",
    "LEASE": "seconds that a worker may be silent before its run is another's (default 60)",
    "DRAIN": "seconds that SIGTERM gives running rehearsals to finish (default 600)",
    "TICK": "seconds between two looks for runs that were lost or not heard of (default 10)",
    "ATTEMPTS": "how often a run that ends in `error` is tried in all (default 3)",
    "KEEP_DAYS": "how long artifacts are kept (default 30)",
    "KEEP_BYTES": "how much of them in each place, oldest go first: 20GiB (default: no limit)",
    "KEEP_FREE": "how much of a worker's disk a run must find free to begin (default 1GiB)",
    "NOTIFY": "where summaries go: apprise URLs, blank-separated (mailto://…, slack://…)",
    "NOTIFY_ON": "of which runs beside the nightly they hear: change (default), every, never",
    "METRICS": "HOST:PORT for Prometheus (default: not served)",
    "API_LISTEN": "HOST:PORT of the HTTP API (default 127.0.0.1:8480)",
    "API_TLS_CERT": "file with its certificate, and those up to the root (default: plain HTTP)",
    "API_TLS_KEY": "file with the certificate's private key",
    "API_PROXIES": "addresses of reverse proxies whose X-Forwarded-For is believed",
    "API_RATE": "requests a minute that a token or a chat channel has (default 600)",
    "API_FAILURES": "refused tokens a minute that an address has (default 10)",
    "API_KEYS": "folder of private keys that requests may name (default: scenarios say theirs)",
    "CHAT": "chat.yaml: the channels that commands come from (default: none)",
    "EXECUTOR": "what does the work (default rehearsal; simulated is for tests)",
}
SECRETS = ("DATABASE", "BROKER", "NOTIFY")


@dataclass(frozen=True)
class ServiceSettings:
    """How the service runs. ``sandbox`` is what one rehearsal needs."""

    database: str
    broker: str
    sandbox: Settings
    artifacts: str = ""
    s3_endpoint: str = ""
    lease: float = 60.0
    drain: float = 600.0
    tick: float = 10.0
    attempts: int = 3
    keep_days: float = 30.0
    keep_bytes: int = 0  # 0: no limit
    keep_free: int = 1 << 30  # bytes
    notify: tuple[str, ...] = field(default=(), repr=False)
    notify_on: str = "change"
    metrics: str = ""
    executor: str = "rehearsal"
    api_listen: str = "127.0.0.1:8480"
    api_tls_cert: str = ""
    api_tls_key: str = ""
    api_proxies: tuple[str, ...] = ()
    api_rate: int = 600  # a minute
    api_failures: int = 10  # a minute
    api_keys: str = ""
    chat: str = ""

    @property
    def embedded(self) -> Path:
        """Where `sandbox up` keeps what it starts itself."""
        return self.sandbox.state / "service"


@dataclass(frozen=True)
class ServerSettings:
    """A service elsewhere, and what it knows us by."""

    url: str  # without /v1
    token: str = field(repr=False)


def read_server(
    stated: str | None, environment: Mapping[str, str] | None = None
) -> ServerSettings | None:
    """The server that is to be asked, if one is; raises :class:`RequestError`."""
    env = os.environ if environment is None else environment
    url = (stated or env.get("SANDBOX_SERVER", "")).strip().rstrip("/").removesuffix("/v1")
    if not url:
        return None
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise RequestError(f"{url!r} is no URL of a server", "https://sandbox.example.org")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise RequestError(
            "the server's URL holds more than its place", "the token is in SANDBOX_TOKEN"
        )
    token, path = env.get("SANDBOX_TOKEN", ""), env.get("SANDBOX_TOKEN_FILE", "")
    if token and path:
        raise RequestError("SANDBOX_TOKEN_FILE and SANDBOX_TOKEN are both set", "keep one")
    token = (_content("SANDBOX_TOKEN_FILE", path) if path else token).strip()
    if not re.fullmatch(r"[\x21-\x7e]+", token):
        raise RequestError(
            f"{url} wants a token" if not token else "the token is none: it holds odd characters",
            "SANDBOX_TOKEN holds it, or SANDBOX_TOKEN_FILE names its file; "
            "`sandbox token create --scope submit` makes one",
        )
    return ServerSettings(url, token)


def read_service_settings(
    environment: Mapping[str, str] | None = None, sandbox: Settings | None = None
) -> ServiceSettings:
    """Settings from the environment; raises :class:`RequestError` naming a bad variable."""
    env = os.environ if environment is None else environment
    given = _given(env)
    settings = read_settings(env) if sandbox is None else sandbox
    embedded = settings.state / "service"
    database = given.get("DATABASE") or f"sqlite:///{embedded}/truth.db"
    if not database.startswith("sqlite"):
        # Others share it: to each of them "this machine" is another one, with guests of the
        # same names perhaps.
        settings = replace(settings, own_name=socket.gethostname())
    return ServiceSettings(
        database=database,
        broker=given.get("BROKER") or f"redis+socket://{embedded}/redis.sock",
        sandbox=settings,
        artifacts=given.get("ARTIFACTS", ""),
        s3_endpoint=given.get("S3_ENDPOINT", ""),
        lease=_number(given, "LEASE", 60.0, least=1.0),
        drain=_number(given, "DRAIN", 600.0),
        tick=_number(given, "TICK", 10.0, least=0.1),
        attempts=int(_number(given, "ATTEMPTS", 3, least=1)),
        keep_days=_number(given, "KEEP_DAYS", 30.0),
        keep_bytes=_bytes(given, "KEEP_BYTES", 0),
        keep_free=_bytes(given, "KEEP_FREE", ServiceSettings.keep_free),
        notify=tuple(given.get("NOTIFY", "").split()),
        notify_on=one_of(
            given.get("NOTIFY_ON", ""),
            ("change", "every", "never"),
            f"{SERVICE_PREFIX}NOTIFY_ON",
            VARIABLES["NOTIFY_ON"],
        ),
        metrics=given.get("METRICS", ""),
        executor=given.get("EXECUTOR") or "rehearsal",
        api_listen=given.get("API_LISTEN") or ServiceSettings.api_listen,
        api_tls_cert=given.get("API_TLS_CERT", ""),
        api_tls_key=given.get("API_TLS_KEY", ""),
        api_proxies=tuple(given.get("API_PROXIES", "").split()),
        api_rate=int(_number(given, "API_RATE", ServiceSettings.api_rate, least=1)),
        api_failures=int(_number(given, "API_FAILURES", ServiceSettings.api_failures, least=1)),
        api_keys=given.get("API_KEYS", ""),
        chat=given.get("CHAT", ""),
    )


def _given(env: Mapping[str, str]) -> dict[str, str]:
    """The service's variables without their prefix; files are read."""
    given: dict[str, str] = {}
    for name, value in env.items():
        if not name.startswith(SERVICE_PREFIX):
            continue
        bare = name.removeprefix(SERVICE_PREFIX)
        stem = bare.removesuffix("_FILE")
        if stem != bare and stem in SECRETS:
            if f"{SERVICE_PREFIX}{stem}" in env:
                raise RequestError(f"{name} and {SERVICE_PREFIX}{stem} are both set", "keep one")
            given[stem] = _content(name, value)
        elif bare in VARIABLES:
            given[bare] = value
        else:
            known = ", ".join(SERVICE_PREFIX + known for known in VARIABLES)
            raise RequestError(f"unknown setting {name} in the environment", f"known: {known}")
    return given


def _content(name: str, path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError as problem:
        raise RequestError(
            f"{name}: {path!r} cannot be read: {problem.strerror}", "name a file that holds it"
        ) from problem


def _number(given: Mapping[str, str], name: str, default: float, least: float = 0.0) -> float:
    text = given.get(name)
    if not text:
        return default
    try:
        number = float(text)
    except ValueError:
        number = least - 1
    if not least <= number < 1e9:
        raise RequestError(
            f"{SERVICE_PREFIX}{name} is no number from {least:g} on: {text!r}", VARIABLES[name]
        )
    return number


def _bytes(given: Mapping[str, str], name: str, default: int) -> int:
    text = given.get(name)
    if not text:
        return default
    try:
        return scalars.size(int(text) if text.isdigit() else text)
    except ValueError as problem:
        raise RequestError(f"{SERVICE_PREFIX}{name}: {problem}", "20GiB, for example") from None
