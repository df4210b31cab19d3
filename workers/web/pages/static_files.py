"""The stylesheet, the script and the icon: ours, read once, named after what is in them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fastapi import APIRouter, Response

from sandbox.report.html import TEMPLATES as REPORT
from workers.web.api.problems import ProblemResponse

FOLDER = Path(__file__).parent / "static"
# Pages look like the report does, and some more.
_FILES = {
    "style.css": ("text/css; charset=utf-8", (REPORT / "style.css", FOLDER / "web.css")),
    "live.js": ("text/javascript; charset=utf-8", (FOLDER / "live.js",)),
    "icon.svg": ("image/svg+xml", (FOLDER / "icon.svg",)),
}
everybody = APIRouter()


@dataclass(frozen=True)
class Asset:
    content: bytes
    media_type: str
    version: str


@cache
def assets() -> dict[str, Asset]:
    found = {}
    for name, (media_type, paths) in _FILES.items():
        content = b"\n".join(path.read_bytes() for path in paths)
        found[name] = Asset(content, media_type, hashlib.sha256(content).hexdigest()[:12])
    return found


def url(name: str) -> str:
    return f"/static/{assets()[name].version}/{name}"


@everybody.get("/static/{version}/{name}")
def get_asset(version: str, name: str) -> Response:
    """Kept by browsers for a year: another content has another name."""
    asset = assets().get(name)
    if asset is None or asset.version != version:
        raise ProblemResponse(404, "there is no such file", "reload the page")
    return Response(
        asset.content,
        media_type=asset.media_type,
        headers={
            "Cache-Control": "public, max-age=31536000, immutable",
            "Cross-Origin-Resource-Policy": "same-origin",
        },
    )
