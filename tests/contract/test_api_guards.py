"""What no request gets around: limits, one form of problems, silence about secrets; and TLS."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.core.deadline import Deadline
from tests.support.service.api_world import HOST, MANY, Api, api, started
from tests.support.service.servers import Postgres
from tests.support.service.services import PATIENCE, service
from workers.database import migrate, open_database
from workers.web.api.guards import MOST_BYTES
from workers.web.auth import tokens
from workers.web.auth.tokens import Scope

PASSWORD = "hunter2hunter2"


@pytest.fixture
def served() -> Iterator[Api]:
    with api() as one:
        yield one


# -- problems ---------------------------------------------------------------------------------


def test_all_that_goes_wrong_has_one_form(served: Api) -> None:
    json_type = {"Content-Type": "application/json"}
    for status, path, method, body, headers in (
        (404, "/v1", "GET", None, {}),
        (404, "/v1/runs/", "GET", None, {}),
        (404, "/v1/%00", "GET", None, {}),
        (405, "/v1/runs", "DELETE", None, {}),
        (405, "/v1/health", "POST", None, {}),
        (422, "/v1/runs?limit=x", "GET", None, {}),
        (422, "/v1/runs", "POST", None, {}),
        (422, "/v1/runs", "POST", b"{", json_type),
        (422, "/v1/runs", "POST", b"null", json_type),
        (422, "/v1/runs", "POST", b"{}", {"Content-Type": "text/plain"}),
        (400, "/v1/runs", "POST", b'{"guest": "\xff"}', json_type),
        (400, "/v1/runs", "POST", b"[" * 60_000, json_type),
        (413, "/v1/runs", "POST", b" " * (MOST_BYTES + 1), json_type),
    ):
        told = served.ask(path, Scope.SUBMIT, method=method, body=body, headers=headers)
        assert told.status == status, (path, method, told)
        assert told.problem["hint"], (path, method)
    told = served.ask("/v1/runs", Scope.SUBMIT, method="DELETE")
    assert told.headers["allow"] == "GET, POST"


def test_a_body_of_a_length_nobody_stated_is_cut_off(served: Api) -> None:
    with contextlib.closing(served.connection()) as connection:
        connection.putrequest("POST", "/v1/runs")
        connection.putheader("Authorization", f"Bearer {served.token(Scope.SUBMIT)}")
        connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders()
        portion = b"4000\r\n" + b" " * 0x4000 + b"\r\n"
        with contextlib.suppress(OSError):  # it may close before all is sent
            for _ in range(MOST_BYTES // 0x4000 + 1):
                connection.send(portion)
        assert connection.getresponse().status == 413
    assert served.ask("/v1/runs").status == 200


def test_a_body_that_does_not_come_is_not_waited_for(served: Api) -> None:
    with contextlib.closing(served.connection()) as connection:
        connection.putrequest("POST", "/v1/runs")
        connection.putheader("Content-Length", "100")
        connection.endheaders(b"{")
        answer = connection.getresponse()
        assert answer.status == 408
        assert answer.getheader("content-type") == "application/problem+json"


def test_a_lie_about_the_length_and_half_a_request_do_no_harm(served: Api) -> None:
    for sent in (
        b"POST /v1/runs HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{",
        b"POST /v1/runs HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET /v1/runs HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
    ):
        there = ("127.0.0.1", served.port)
        with contextlib.suppress(OSError), socket.create_connection(there, PATIENCE) as connection:
            connection.sendall(sent)
    assert served.ask("/v1/runs").status == 200
    assert "Traceback" not in served.there.log.read_text()


def test_a_database_that_is_away_is_told_without_its_address(postgres_server: Postgres) -> None:
    url = postgres_server.new_database()
    name = url.partition("?")[0].rpartition("/")[2]
    with api(DATABASE=url) as served:
        text = served.token(Scope.ADMIN)
        assert served.ask("/v1/runs", text).status == 200
        served.there.database.close()
        admin = open_database(postgres_server.url("postgres"))
        with admin.engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql(
                f"DROP DATABASE {name} WITH (FORCE)"
            )
        admin.close()
        for path, token in (("/v1/runs", text), ("/v1/health", None)):
            deadline = Deadline(PATIENCE, "it to be noticed")
            while (told := served.ask(path, token)).status == 200:
                deadline.sleep(0.2)
            assert told.status == 503
            assert told.problem["detail"]
            assert int(told.headers["retry-after"]) > 0
            assert name not in told.body.decode()
            assert str(postgres_server.folder) not in told.body.decode()
        assert "Traceback" not in served.there.log.read_text()


# -- secrets ----------------------------------------------------------------------------------


def test_no_secret_is_logged_or_told(postgres_server: Postgres) -> None:
    url = postgres_server.new_database().replace("postgres@", f"postgres:{PASSWORD}@")
    with api(DATABASE=url, NOTIFY=f"mailto://me:{PASSWORD}@mail.example.org") as served:
        good = [served.token(scope) for scope in Scope]
        never = f"sbx_0123456789ab_{'z' * 43}"
        answers = [served.ask("/v1/runs", text) for text in (*good, never, PASSWORD)]
        answers += [
            served.ask(f"/v1/runs?guest={good[0]}&token={good[0]}"),
            served.ask(f"/v1/{good[0]}/{never}"),
            served.ask(f"/v1/gate?scenario=security&guest={good[1]}&host={HOST}"),
            served.ask("/v1/runs", good[0], headers={"Idempotency-Key": good[1]}),
            served.submit(scenario=good[1][:90]),
            served.submit("web01", nonsense=never),
        ]
        assert {401, 404, 422, 200} <= {one.status for one in answers}
        log = served.there.log.read_text()
        told = [one.body.decode() for one in answers if one.status >= 400]
        for text in (log, *told):
            for secret in (*good, never, PASSWORD):
                assert secret.split("_", 2)[-1] not in text  # a secret part may hold more of them
        assert "guest=" not in log, "what is looked for is not the log's business"
        for line in log.splitlines():
            assert json.loads(line)["event"]


# -- limits -----------------------------------------------------------------------------------


def test_a_token_has_so_many_requests_a_minute_and_no_other_pays_for_it() -> None:
    with api(API_RATE="5") as served:
        told = [served.ask("/v1/runs") for _ in range(12)]
        limited = [one for one in told if one.status == 429]
        assert limited
        assert int(limited[-1].headers["retry-after"]) >= 1
        assert "5 requests a minute" in limited[-1].problem["detail"]
        assert served.ask("/v1/runs", Scope.ADMIN).status == 200
        assert served.ask("/v1/health", None).status == 200


def test_guesses_are_limited_and_who_is_known_goes_on() -> None:
    with api(API_FAILURES="3", API_RATE=MANY) as served:
        assert served.ask("/v1/runs").status == 200
        never = f"sbx_0123456789ab_{'z' * 43}"
        told = [served.ask("/v1/runs", never) for _ in range(9)]
        assert told[0].status == 401
        limited = [one for one in told if one.status == 429]
        assert limited
        assert "from this address" in limited[-1].problem["detail"]
        assert int(limited[-1].headers["retry-after"]) >= 1
        assert served.ask("/v1/runs").status == 200, "others' guesses are not its fault"
        assert any(_new_token_waits(served, never) for _ in range(3))  # a minute may end between
        assert served.ask("/v1/runs", None).status == 401, "none is no guess"


def _new_token_waits(served: Api, never: str) -> bool:
    """Nobody can tell it from a guess before it was seen to be good."""
    _new, fresh = tokens.create(served.there.database, "new", Scope.READ, None)
    while served.ask("/v1/runs", never).status != 429:
        pass
    return served.ask("/v1/runs", fresh).status == 429


def test_several_processes_count_together_and_alone_without_redis() -> None:
    with api(API_RATE="20") as served:
        served.there.log.rename(served.there.folder / "first.log")
        other = started(served.there)
        other.made = served.made
        served.token(Scope.READ)

        def limited() -> bool:
            """Each has fewer than it may have; a minute may end between."""
            return 429 in [one.ask("/v1/runs").status for _ in range(15) for one in (served, other)]

        assert any(limited() for _ in range(3))
        served.there.redis.kill()
        alone = [other.ask("/v1/runs", Scope.ADMIN).status for _ in range(50)]
        assert alone[0] == 200
        assert 429 in alone
        assert other.ask("/v1/health", None).status == 503


def test_an_address_is_a_proxys_word_only_if_that_is_trusted() -> None:
    never = f"sbx_0123456789ab_{'z' * 43}"

    def statuses(served: Api) -> list[int]:
        return [
            served.ask("/v1/runs", never, headers={"X-Forwarded-For": f"192.0.2.{n}"}).status
            for n in range(9)
        ]

    with api(API_FAILURES="3") as served:
        assert 429 in statuses(served)
    with api(API_FAILURES="3", API_PROXIES="127.0.0.1") as served:
        assert set(statuses(served)) == {401}
        assert '"peer": "192.0.2.8"' in served.there.log.read_text()


def test_without_redis_a_run_is_queued_all_the_same() -> None:
    with api() as served:
        served.token(Scope.SUBMIT)
        served.there.redis.kill()
        told = served.submit()
        assert told.status == 202
        assert "a queued run waits" in served.there.log.read_text()


# -- where it listens -------------------------------------------------------------------------


def test_it_listens_on_loopback_unless_told_otherwise() -> None:
    from workers.settings import read_service_settings

    assert read_service_settings({}).api_listen == "127.0.0.1:8480"


def test_what_it_cannot_serve_is_said_and_what_to_do() -> None:
    with service() as there:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            told = there.command("api", "--listen", f"127.0.0.1:{port}")
            assert (told.returncode, "--listen" in told.stderr) == (2, True)
        (there.folder / "no.pem").write_text("nothing\n")
        for words, said in (
            (("--listen", "nonsense"), "is no HOST:PORT"),
            (("--tls-cert", "x"), "give --tls-cert and --tls-key"),
            (("--tls-cert", "no.pem", "--tls-key", "no.pem"), "name PEM files"),
            (("--tls-cert", "gone", "--tls-key", "gone"), "No such file"),
        ):
            told = there.command("api", *words)
            assert told.returncode == 2, told.stderr
            assert said in told.stderr
    with service(schema=False) as there:
        told = there.command("api")
        assert (told.returncode, "sandbox migrate" in told.stderr) == (4, True)


def certificate(folder: Path) -> tuple[str, str]:
    cert, key = str(folder / "api.pem"), str(folder / "api.key")
    made = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")
    rest = ("-nodes", "-days", "2", "-subj", "/CN=localhost")
    names = ("-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", cert)
    subprocess.run([*made, *rest, *names], check=True, capture_output=True)
    return cert, key


def test_tls_and_its_health_check() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with service(API_LISTEN=f"127.0.0.1:{port}", API_RATE=MANY) as there:
        cert, key = certificate(there.folder)
        assert there.command("health", "--api").returncode == 4
        there.environment |= {
            "SANDBOX_SERVICE_API_TLS_CERT": cert,
            "SANDBOX_SERVICE_API_TLS_KEY": key,
        }
        one = started(there)
        trust = ssl.create_default_context(cafile=cert)
        connection = http.client.HTTPSConnection("localhost", one.port, context=trust)
        with contextlib.closing(connection):
            headers = {"Authorization": f"Bearer {one.token(Scope.READ)}"}
            connection.request("GET", "/v1/runs", headers=headers)
            assert connection.getresponse().status == 200
        with pytest.raises((http.client.HTTPException, OSError)):
            one.ask("/v1/runs")
        told = there.command("health", "--api")
        assert told.returncode == 0, told.stderr
        assert "api: answers" in told.stdout
        there.environment |= {
            "SANDBOX_SERVER": f"https://localhost:{port}",
            "SANDBOX_TOKEN": one.token(Scope.SUBMIT),
        }
        gate = ("gate", "security", "--guest", "web01", "--host", HOST, "--wait", "1")
        stranger = there.command(*gate)
        assert (stranger.returncode, "self-signed" in stranger.stdout) == (2, True), stranger
        there.environment["SSL_CERT_FILE"] = cert
        known = there.command(*gate)
        assert (known.returncode, "queued" in known.stdout) == (124, True), known
        one.process.terminate()
        assert one.process.wait(PATIENCE) == 0


def test_migrating_is_all_that_a_new_database_needs(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path}/truth.db")
    migrate(database)
    assert tokens.listed(database) == (), "nobody may do anything by default"
    database.close()
