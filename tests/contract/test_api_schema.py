"""schemathesis against the server itself: whatever its description allows, and much that it does
not, is answered as the description says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from sandbox.core.records import Verdict
from tests.support.service.api_world import HOST, Api, api
from workers.queue.leases import claim, finish
from workers.queue.submission import submit
from workers.queue.values import Order, Outcome
from workers.web.auth.tokens import Scope

EXAMPLES = 10  # of each operation and phase: enough for every kind of value, in half a minute
ROOM = 600.0


def with_runs(served: Api) -> None:
    """So that there is something to list."""
    for number, verdict in enumerate((Verdict.PASS, Verdict.FAIL)):
        order = Order("security", f"web{number}", HOST)
        run_id = submit(served.there.database, order).run_id
        held = claim(served.there.database, HOST, "worker-a", 60.0, None)
        assert held is not None
        assert held.run_id == run_id
        finish(served.there.database, held, Outcome(verdict, "so it is"))


def test_the_description_is_true() -> None:
    with api() as served:
        with_runs(served)
        served.there.start("worker", "--host", HOST, "--slots", "1")
        program = Path(sys.executable).with_name("schemathesis")
        place = f"http://127.0.0.1:{served.port}/v1/openapi.json"
        options = {
            "--header": f"Authorization: Bearer {served.token(Scope.ADMIN)}",
            "--max-examples": str(EXAMPLES),
            "--checks": "all",
            # That a scenario or a host of that name is there no schema can say.
            "--exclude-checks": "positive_data_acceptance",
            "--exclude-operation-id": "revoke_token",  # it would end the admin's
            "--request-timeout": "60",
            "--seed": "1",
            "--workers": "1",
        }
        words = [word for pair in options.items() for word in pair]
        done = subprocess.run(
            [program, "run", place, *words, "--generation-database", "none"],
            cwd=served.there.folder,
            env={**served.there.environment, "NO_COLOR": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=ROOM,
        )
        assert done.returncode == 0, done.stdout[-12_000:] + done.stderr
        assert served.ask("/v1/health", None).status == 200
        log = served.there.log.read_text()
        assert "a fault of ours" not in log
        assert "Traceback" not in log
