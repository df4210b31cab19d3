"""The pages in a real Chromium: main paths, live, by keyboard, on a phone, and for everybody."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from sandbox.core.records import Verdict
from sandbox.verdict.flakiness import Rate
from tests.contract.web_example import LONG, example
from tests.support.service.api_world import HOST, Api
from tests.support.service.browsers import PHONE, Window, chromium, window
from tests.support.service.web_world import begun, dashboard, tell
from workers.queue.check_histories import WORDS
from workers.queue.history import Mark
from workers.queue.leases import finish
from workers.queue.values import Outcome, Tally
from workers.web.auth.tokens import Scope


@pytest.fixture(scope="module")
def served() -> Iterator[Api]:
    with dashboard() as one:
        yield one


@pytest.fixture(scope="module")
def runs(served: Api) -> dict[str, str]:
    found = example(served, LONG)
    remembered(served)
    return found


def remembered(served: Api) -> None:
    """Runs of one guest in which a check did all that one may do."""
    often, red, none = Rate(4, 4), Rate(0, 3), Rate(0, 0)
    for control, after in ((often, often), (Rate(2, 4), often), (often, red), (Rate(0, 4), none)):
        checks = (
            Tally("test_web.py::test_http", none, after, control),
            Tally(f"shared/ports.py::test_{'x' * 130}", Rate(1, 1), none, none),
        )
        outcome = Outcome(Verdict.INCONCLUSIVE, "test_http is flaky", checks=checks)
        finish(served.there.database, begun(served, "shaky01"), outcome)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as one:
        yield one


@pytest.fixture
def seen(browser: Browser, served: Api, runs: dict[str, str]) -> Iterator[Window]:
    """A window of somebody who may submit."""
    with window(browser, served) as one:
        one.enter(Scope.SUBMIT)
        yield one
        one.require_well()


def test_from_the_fleet_to_the_answer(seen: Window, runs: dict[str, str]) -> None:
    page = seen.page
    expect(page.get_by_role("heading", level=1)).to_have_text("May it be upgraded?")
    answers = page.get_by_role("navigation", name="By answer")
    expect(answers.get_by_role("link", name="2 No")).to_be_visible()
    page.get_by_label("Guest").fill("web")
    page.get_by_role("button", name="Show").click()
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(2)
    expect(rows.nth(0)).to_contain_text("web02")  # what needs attention first
    expect(rows.nth(0)).to_contain_text("No")
    expect(rows.nth(1)).to_contain_text("7 packages")
    rows.nth(0).get_by_role("link", name="its run").click()
    page.wait_for_url(f"**/runs/{runs['web02']}")
    heading = page.get_by_role("heading", level=1)
    expect(heading).to_contain_text("NO")
    expect(heading).to_contain_text("do not upgrade web02")
    for name in ("Checks, before and after", "Packages", "What else changed in the guest", "Files"):
        expect(page.get_by_role("heading", name=name, exact=True)).to_be_visible()
    expect(page.get_by_role("img", name="Where the time went")).to_be_visible()
    with page.expect_download() as coming:
        page.get_by_role("link", name="console.log").click()
    assert "Gave up waiting" in coming.value.path().read_text()


def test_what_a_guest_showed_is_seen(seen: Window, runs: dict[str, str]) -> None:
    seen.go(f"/runs/{runs['db01']}")
    picture = seen.page.get_by_role("img", name="screen when it was given up")
    expect(picture).to_be_visible()
    assert picture.evaluate("one => one.naturalWidth") == 720
    expect(seen.page.get_by_text("Gave up waiting for root file system")).to_be_visible()
    seen.go(f"/runs/{runs['web01']}")
    expect(seen.page.locator(".diff")).to_contain_text("+worker_processes auto;")


def test_what_checks_did_so_far(seen: Window, runs: dict[str, str]) -> None:
    page = seen.page
    seen.go(f"/runs/{runs['web02']}")
    broken = page.get_by_role("row", name="test_web.py::test_http")
    words = "held 1 of 1 times where this guest was not upgraded, since 20"
    expect(broken.get_by_text(words)).to_be_visible()
    expect(page.get_by_text(words)).to_have_count(6)  # of those that need attention
    page.get_by_role("link", name="Its checks so far").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Checks of web02")
    expect(page.locator("tbody tr").nth(0)).to_contain_text("0 of 1")
    page.get_by_label("Guest").fill("shaky01")
    page.get_by_role("button", name="Show").click()
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(2)
    for text in ("test_http", "10 of 12", "broken in 1 run", "8 of 11", "4 runs"):
        expect(rows.nth(0)).to_contain_text(text)
    marks = rows.nth(0).locator("ol.strip a")
    says = [one.rpartition(": ")[2] for one in marks.all_inner_texts()]
    assert says == [WORDS[mark] for mark in Mark]
    expect(rows.nth(1)).to_contain_text("never")
    page.get_by_role("searchbox", name="Check").fill("ports")
    page.get_by_role("button", name="Show").click()
    expect(rows).to_have_count(1)
    seen.go("/runs?guest=shaky01")
    page.get_by_role("link", name="What its checks did so far").click()
    page.locator("ol.strip a").nth(2).click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("test_http is flaky")


def test_schedules_and_hosts_say_how_it_is(seen: Window, runs: dict[str, str]) -> None:
    page = seen.page
    page.get_by_role("link", name="Schedules").click()
    expect(page.get_by_role("row", name="shop")).to_contain_text("1 of 3 guests may be upgraded")
    night = page.get_by_role("region", name="shop: the night of")
    expect(night.locator("tbody tr")).to_have_count(3)
    expect(night.locator("tbody tr").nth(0)).to_contain_text("web02")  # who needs attention first
    night.get_by_role("link", name="web02").click()
    page.wait_for_url(f"**/runs/{runs['web02']}")
    page.get_by_role("link", name="Hosts").click()
    row = page.get_by_role("row", name=HOST)
    for text in ("vg0/thin", "82 %", "23 %", "w1 up", "2 slots", "w0 gone"):
        expect(row).to_contain_text(text)
    expect(row.get_by_role("meter", name="metadata")).to_have_attribute("value", "23.0")


def test_a_run_is_watched_to_its_end(seen: Window, served: Api) -> None:
    held = begun(served, "live01")
    seen.go(f"/runs/{held.run_id}")
    page = seen.page
    expect(page.get_by_role("heading", level=1)).to_contain_text("NO ANSWER YET")
    tell(served, held, "phase", "plan")
    tell(served, held, "phase-end", "plan done after 0.4 s")
    tell(served, held, "phase", "upgrade")
    tell(served, held, "detail", "unpacking libssl3", 40.0)
    upgrade = page.locator("[data-step=upgrade]")
    expect(upgrade).to_contain_text("now")
    expect(page.locator("[data-step=plan]")).to_contain_text("done after 0.4 s")
    expect(page.locator("#detail")).to_have_text("unpacking libssl3")
    expect(page.locator("#share")).to_have_attribute("value", "40")
    expect(page.get_by_role("status")).to_have_text("Phase upgrade")
    assert seen.breaches() == []
    finish(served.there.database, held, Outcome(Verdict.PASS, "every check holds"))
    expect(page.get_by_role("heading", level=1)).to_contain_text("YES, upgrade live01")
    expect(page.get_by_text("left nothing").or_(page.get_by_text("no report"))).to_be_visible()


def test_a_rehearsal_is_asked_for_cancelled_and_asked_for_again(seen: Window) -> None:
    page = seen.page
    page.get_by_role("link", name="Rehearse").click()
    page.get_by_label("Scenario").select_option("security")
    page.get_by_label("Guest").fill("form01")
    page.get_by_label("Host").select_option(HOST)
    page.get_by_text("Otherwise than the scenario says").click()
    page.get_by_label("Upgrade").fill("../x")
    page.get_by_role("button", name="Rehearse").click()
    expect(page.get_by_role("alert")).to_contain_text("Nothing was queued")
    expect(page.get_by_label("Upgrade")).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_label("Guest")).to_have_value("form01")
    assert seen.breaches() == []
    page.get_by_label("Upgrade").fill("kernel")
    page.get_by_role("button", name="Rehearse").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("queued")
    expect(page.get_by_text("for kernel")).to_be_visible()
    first = page.url
    page.get_by_role("button", name="Cancel this run").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("was cancelled")
    page.get_by_role("button", name="Rehearse again").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("queued")
    assert page.url != first
    page.get_by_role("button", name="Cancel this run").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("was cancelled")


def test_who_may_only_read_has_no_buttons(
    browser: Browser, served: Api, runs: dict[str, str]
) -> None:
    with window(browser, served) as one:
        one.enter(Scope.READ)
        expect(one.page.get_by_role("link", name="Rehearse")).to_have_count(0)
        for guest in ("web01", "app01"):
            one.go(f"/runs/{runs[guest]}")
            expect(one.page.get_by_role("button")).to_have_count(1)  # to sign out
        one.page.get_by_role("button", name="Sign out").click()
        expect(one.page.get_by_label("Token")).to_be_focused()
        one.go("/runs")
        expect(one.page.get_by_role("heading", name="Sign in")).to_be_visible()
        one.require_well()


def test_by_keyboard(seen: Window) -> None:
    page = seen.page
    seen.go("/runs")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_label("Guest")).to_be_focused()
    page.keyboard.type("web01")
    page.keyboard.press("Enter")
    expect(page.locator("tbody tr")).to_have_count(1)


def test_without_scripts(browser: Browser, served: Api, runs: dict[str, str]) -> None:
    with window(browser, served, java_script_enabled=False) as one:
        one.enter(Scope.SUBMIT)
        one.go(f"/runs/{runs['app01']}")
        expect(one.page.locator("[data-step=clone]")).to_contain_text("now")
        expect(one.page.locator("[data-step=plan]")).to_contain_text("done")
        refresh = one.page.locator("meta[http-equiv=refresh]")
        expect(refresh).to_have_attribute("content", "5")
        one.go("/rehearse")
        one.page.get_by_label("Guest").fill("plain01")
        one.page.get_by_role("button", name="Rehearse").click()
        expect(one.page.get_by_role("heading", level=1)).to_contain_text("NO ANSWER YET")
        one.page.get_by_role("button", name="Cancel this run").click()
        expect(one.page.get_by_role("heading", level=1)).to_contain_text("was cancelled")
        assert one.wrong == []


PAGES = (
    *("/", "/?guest=nobody", "/runs", "/runs?guest=web01", "/schedules", "/hosts", "/rehearse"),
    *("/checks", "/checks?guest=shaky01", "/checks?guest=nobody", "/login", "/nowhere"),
)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_is_for_everybody(
    browser: Browser, served: Api, runs: dict[str, str], scheme: str
) -> None:
    """axe's rules, contrast included; and no page is wider than a phone."""
    with window(browser, served, color_scheme=scheme) as one:
        one.enter(Scope.SUBMIT)
        for path in (*PAGES, *(f"/runs/{run_id}" for run_id in runs.values())):
            one.page.set_viewport_size({"width": 1280, "height": 900})
            one.go(path)
            assert one.breaches() == [], path
            one.page.set_viewport_size(PHONE)
            assert one.too_wide() == 0, path
        one.require_well()
