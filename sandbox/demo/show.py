"""The demo: a running production guest, an upgrade that works and one that does not."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from sandbox.cli.foreground import rehearse_in_terminal
from sandbox.core.records import Verdict
from sandbox.core.settings import Settings
from sandbox.demo.broken import build_broken_site
from sandbox.demo.guest import Production, start_production, stop_production
from sandbox.demo.image import build_image
from sandbox.scenario.request import Request

NAME = "web01"
Say = Callable[[str], None]


def start(say: Say) -> Production:
    """Build web01's image if it is not cached, and start web01 as the running production."""
    image = build_image(say)
    began = time.monotonic()
    production = start_production(NAME, image=image)
    say(f"{NAME} runs as production ({time.monotonic() - began:.0f} s); enter it with")
    say(f"  {' '.join(production.ssh())}")
    return production


def stop(say: Say) -> None:
    """Remove web01; the image stays cached."""
    stop_production(NAME)
    say(f"{NAME} is removed")


def rehearse_both(settings: Settings, picture: Path | None, say: Say) -> int:
    """Rehearse both upgrades; 0 when each got the verdict that it deserves, else 1."""
    production = start(say)
    say("")
    say("1. The security updates that wait for it, kernel included:")
    good = rehearse_in_terminal(
        Request("security", guest=NAME, key=production.key),
        settings,
        keep=False,
        as_json=False,
        picture=picture,
    )
    say("")
    say("2. A new version of its web site, which nginx will not like:")
    with tempfile.TemporaryDirectory(prefix="upgrade-sandbox-") as folder:
        package = build_broken_site(Path(folder))
        bad = rehearse_in_terminal(
            Request("package", guest=NAME, key=production.key, upgrade=str(package)),
            settings,
            keep=False,
            as_json=False,
            picture=None,
        )
    say("")
    say(f"The good upgrade: {good.value}. The one that breaks nginx: {bad.value}.")
    say(f"{NAME} still runs, untouched; `sandbox demo down` removes it.")
    return 0 if (good, bad) == (Verdict.PASS, Verdict.FAIL) else 1
