"""What the README asks of the HTTP API is asked, by the same programs."""

from __future__ import annotations

import json
import re
import subprocess
import sys

from tests.support.paths import ROOT
from tests.support.service.api_world import MANY, Api, started
from tests.support.service.services import PATIENCE, service
from workers.settings import ServiceSettings

README = (ROOT / "README.md").read_text()
LISTENS = ServiceSettings.api_listen


def section() -> list[str]:
    text = README.partition("### HTTP API")[2].partition("\n### ")[0]
    (block,) = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    return [line.partition(" # ")[0].strip() for line in block.splitlines()]


def asked(one: Api, line: str) -> str:
    """By a shell, with `sandbox` and the port as they are here."""
    text = line.replace(LISTENS, f"127.0.0.1:{one.port}").replace("curl ", "curl --fail -s ", 1)
    program = 'sandbox() { "$PYTHON" -m workers.cli "$@"; }\n' + text
    done = subprocess.run(
        ["bash", "-euc", program],
        cwd=one.there.folder,
        env=one.there.environment | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, (line, done.stdout, done.stderr)
    return done.stdout


def test_the_readmes_lines_do_what_it_says() -> None:
    with service(API_LISTEN="127.0.0.1:0", API_RATE=MANY) as there:
        there.environment["SANDBOX_URI"] = "xen+ssh://root@xen1.example.org/system"
        one = started(there)
        create, submit, runs, gate, openapi, listed, revoke = section()
        asked(one, create)
        first = json.loads(asked(one, submit))["run"]
        assert json.loads(asked(one, submit))["run"] == first
        assert json.loads(asked(one, runs)) == {"items": [], "next": None}
        assert json.loads(asked(one, gate))["allowed"] is False
        assert "/v1/runs" in json.loads(asked(one, openapi))["paths"]
        assert " submit " in asked(one, listed)
        assert "revoked" in asked(one, revoke)
