"""Logs name the run that is in hand, and nothing secret is in them."""

from __future__ import annotations

import io
import json
import logging
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
import structlog

from sandbox.core.settings import Settings
from workers import logs
from workers.settings import ServiceSettings


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What is logged."""
    told = io.StringIO()
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    monkeypatch.setattr("sys.stderr", told)
    monkeypatch.setattr(logs, "_secrets", set())
    logs.configure()
    yield told
    root.handlers[:] = before
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


def parsed(told: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in told.getvalue().splitlines()]


def test_the_librarys_lines_name_the_run_in_every_thread(lines: io.StringIO) -> None:
    log = logging.getLogger("sandbox.network.proxy.cache")
    with logs.about(run="20261125-1", attempt=2):
        log.warning("a package %s", "nginx")
        thread = threading.Thread(target=log.warning, args=("from a thread",))
        thread.start()
        thread.join()
        structlog.get_logger("sandbox.x").info("ours", run="another")
    log.warning("afterwards")
    first, second, ours, after = parsed(lines)
    assert (first["event"], first["run"], first["attempt"]) == ("a package nginx", "20261125-1", 2)
    assert second["run"] == "20261125-1"
    assert ours["run"] == "another"
    assert "run" not in after


SECRET = "c0rrect-horse/battery"


def settings(**values: object) -> ServiceSettings:
    return replace(
        ServiceSettings(
            database="postgresql://sandbox:c0rrect%2Dhorse%2Fbattery@db.example.org/sandbox",
            broker="redis://:br0ker-word@redis.example.org:6379/0",
            sandbox=Settings(),
            notify=(
                "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/#nightly",
                "mailto://team:mail-pa55@mail.example.org",
                "mmost://chat.example.org/q6j8tbt6yfdxxdcpym4gzebwgr",
            ),
        ),
        **values,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    "said",
    [
        SECRET,
        'password "c0rrect-horse/battery" refused',
        "c0rrect%2Dhorse%2Fbattery",
        "br0ker-word",
        "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/#nightly",
        "POST /services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ answered 500",
        "mail-pa55",
        "q6j8tbt6yfdxxdcpym4gzebwgr",
    ],
)
def test_what_the_settings_have_as_secrets_is_in_no_line(lines: io.StringIO, said: str) -> None:
    logs.hide_secrets_of(settings())
    log = logging.getLogger("urllib3")
    log.warning("it was %s", said)
    structlog.get_logger("sandbox.x").warning("it was", problem=said, also=[said])
    try:
        raise ValueError(said)
    except ValueError:
        log.exception("a fault")
    text = lines.getvalue()
    for secret in (
        *(SECRET, "c0rrect%2D", "br0ker-word", "T1JJ3T3L2", "A1BRTD4JD"),
        *("TIiajkdnlazkcOXrIdevi7FQ", "mail-pa55", "q6j8tbt6yfdxxdcpym4gzebwgr"),
    ):
        assert secret not in text
    assert len(parsed(lines)) == 3  # still JSON
    assert logs.HIDDEN in text


def test_hosts_and_names_stay_readable(lines: io.StringIO) -> None:
    logs.hide_secrets_of(settings())
    logging.getLogger("x").warning("sandbox at mail.example.org and redis.example.org, for team")
    assert logs.HIDDEN not in lines.getvalue()


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("redis://:hunter2@redis:6379/0", "redis://:***@redis:6379/0"),
        ("postgresql+psycopg://me:p@db/x", "postgresql+psycopg://me:***@db/x"),
        ("https://deploy:t0ken@mirror.example.org/debian", "https://deploy:***@mirror.example.org"),
    ],
)
def test_passwords_in_any_url_are_hidden(lines: io.StringIO, said: str, kept: str) -> None:
    logging.getLogger("kombu").warning("cannot connect to %s: gone", said)
    assert kept in lines.getvalue()


@pytest.mark.parametrize(
    "said", ["http://host:8080/path", "see https://example.org: user@example.org", "12:30 a@b"]
)
def test_what_is_no_password_stays(lines: io.StringIO, said: str) -> None:
    logging.getLogger("kombu").warning(said)
    assert parsed(lines)[0]["event"] == said
