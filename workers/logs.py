"""Structured logs: one JSON object a line, or readable lines on a terminal.

Every line that is logged during a run names the run, independent of the logger and the thread.
No line holds a secret: the passwords in URLs, the HTTP API's tokens and the secrets of the settings
are removed from the finished line.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import structlog

if TYPE_CHECKING:
    from workers.settings import ServiceSettings

HIDDEN = "***"
_SHORTEST = 4  # characters of a password; shorter words are in every line
_TOKEN = 8  # characters, of what may also be a name
_PASSWORD = re.compile(r"(\b[a-z][a-z0-9+.\-]*://[^\s/:@\"']*:)[^\s/@\"']+(?=@)", re.IGNORECASE)
_API_TOKEN = re.compile(r"(\bsbx_[0-9a-f]{12}_)[A-Za-z0-9_-]+")
_secrets: set[str] = set()
_in_hand: dict[str, Any] = {}  # a process has one run at a time


@contextlib.contextmanager
def about(**facts: Any) -> Iterator[None]:
    """Whatever this process logs meanwhile, in any of its threads, carries these facts."""
    before = dict(_in_hand)
    _in_hand.update(facts)
    try:
        yield
    finally:
        _in_hand.clear()
        _in_hand.update(before)


def hide_secrets_of(settings: ServiceSettings) -> None:
    """From now on they are in no line: of where summaries go all that may be a token, of the
    database and the broker the password."""
    for url in settings.notify:
        parts = urlsplit(url)
        pieces = (*re.split(r"[@:]", parts.netloc), *parts.path.split("/"))
        tokens = [piece for piece in pieces if len(piece) >= _TOKEN and "." not in piece]
        _hide_all((url, *tokens, *_passwords(url)))
    for url in (settings.database, settings.broker):
        _hide_all(_passwords(url))


def _passwords(url: str) -> tuple[str, ...]:
    found = urlsplit(url).password or ""
    return tuple(one for one in (found, unquote(found)) if len(one) >= _SHORTEST)


def hide(*secrets: str) -> None:
    """From now on these are in no line, either."""
    _hide_all(one for one in secrets if len(one) >= _SHORTEST)


def _hide_all(secrets: Iterable[str]) -> None:
    for secret in secrets:
        _secrets.update((secret, json.dumps(secret)[1:-1]))


def without_secrets(line: str) -> str:
    line = _PASSWORD.sub(rf"\g<1>{HIDDEN}", line)
    line = _API_TOKEN.sub(rf"\g<1>{HIDDEN}", line)
    for secret in sorted(_secrets, key=len, reverse=True):
        line = line.replace(secret, HIDDEN)
    return line


def configure() -> None:
    """Set up logging for a process of the service; Celery's lines look like ours."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        _name_run,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    on_terminal = sys.stderr.isatty()
    last: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if on_terminal else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                last,
                _hide,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)  # they are lines like all others
    for noisy in (
        "celery.beat",
        "celery.worker.strategy",
        "celery.app.trace",
        "alembic",
        "uvicorn",
    ):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _name_run(
    _logger: Any, _method: str, line: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    return {**_in_hand, **line}


def _hide(_logger: Any, _method: str, line: Any) -> str:
    return without_secrets(str(line))
