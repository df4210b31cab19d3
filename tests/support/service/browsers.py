"""Debian's own Chromium, driven by Playwright, and what it must never do on a page of ours."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from sandbox.demo.picture import CHROMIUM
from tests.support.service.api_world import Api
from workers.web.auth.tokens import Scope

PHONE = {"width": 360, "height": 740}
DESK = {"width": 1280, "height": 900}
_OWN = ("chromium", "--headless", "--hide-scrollbars")  # what Playwright sets by itself
# In every page before all else: what the page's policy stops is remembered.
_LISTEN = """
window.stopped = [];
addEventListener("securitypolicyviolation",
  (event) => window.stopped.push(event.violatedDirective + " " + event.blockedURI));
"""


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path="/usr/bin/chromium",
            args=[one for one in CHROMIUM if one not in _OWN],
        )
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Window:
    """A window of somebody, and all that went wrong in it."""

    served: Api
    context: BrowserContext
    page: Page
    wrong: list[str] = field(default_factory=list)

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.served.port}"

    def go(self, path: str) -> None:
        self.page.goto(self.base + path)

    def enter(self, scope: Scope) -> None:
        self.go("/login")
        self.page.get_by_label("Token").fill(self.served.token(scope))
        self.page.get_by_role("button", name="Sign in").click()
        self.page.get_by_role("button", name="Sign out").wait_for()

    def require_well(self) -> None:
        """Nothing ran that is not ours, nothing was asked for elsewhere, nothing was stopped."""
        assert self.wrong == []
        assert self.page.evaluate("window.stopped") == []

    def breaches(self) -> list[str]:
        """What axe says against the page, of all its rules."""
        found: list[dict[str, Any]] = Axe().run(self.page).response["violations"]
        return [
            f"{one['id']}: {one['help']}: {node['html'][:160]}"
            for one in found
            for node in one["nodes"]
        ]

    def too_wide(self) -> int:
        """Pixels that the page would have to be scrolled sideways."""
        wide: int = self.page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        return wide


@contextlib.contextmanager
def window(browser: Browser, served: Api, **options: Any) -> Iterator[Window]:
    """``options``: of Playwright's contexts: viewport, color_scheme, java_script_enabled."""
    context = browser.new_context(**{"viewport": DESK, **options})
    context.add_init_script(_LISTEN)
    page = context.new_page()
    one = Window(served, context, page)

    def asked(url: str) -> None:
        if not url.startswith((f"{one.base}/", "data:image/png;base64,")):
            one.wrong.append(f"asked for {url[:200]}")

    page.on("request", lambda request: asked(request.url))
    page.on("dialog", lambda dialog: (one.wrong.append("a dialog"), dialog.dismiss()))
    page.on("pageerror", lambda error: one.wrong.append(f"an error: {error}"))
    page.on("popup", lambda _page: one.wrong.append("a window"))
    page.on(
        "console",
        lambda said: one.wrong.append(said.text) if "Content Security" in said.text else None,
    )
    try:
        yield one
    finally:
        context.close()
