"""The phases of a rehearsal as a picture: an SVG that scales with the page. Pure.

Built as a tree, never as text. Widths are percentages and there is no view box, so that the
letters keep their size on a phone; colours come from the page's style, with a fall-back.
"""

from __future__ import annotations

from xml.etree.ElementTree import Element, SubElement, tostring

from sandbox.core.clean_text import one_line
from sandbox.core.records import PhaseTime, RunRecord
from sandbox.core.wording import duration

_ROW = 38  # pixels a phase
_TEXT_Y = 14
_BAR_Y = 21
_BAR_HEIGHT = 9
_THINNEST = 0.6  # per cent: a phase of milliseconds is still seen
_COLOURS = {"ok": "#2563eb", "failed": "#dc2626", "track": "#e5e7eb", "text": "#374151"}


def timeline_svg(record: RunRecord) -> str:
    """One bar a phase on a common clock; an empty string when no phase was recorded."""
    if not record.phases:
        return ""
    begin = min(phase.started for phase in record.phases)
    end = max(phase.started + max(0.0, phase.seconds) for phase in record.phases)
    span = max(end - begin, 0.001)
    svg = Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "class": "timeline",
            "width": "100%",
            "height": str(_ROW * len(record.phases)),
            "role": "img",
            "aria-labelledby": "timeline-title timeline-text",
            "font-family": "system-ui, sans-serif",
            "font-size": "13",
        },
    )
    SubElement(svg, "title", {"id": "timeline-title"}).text = "Where the time went"
    SubElement(svg, "desc", {"id": "timeline-text"}).text = "; ".join(
        f"{p.phase.value} {duration(p.seconds)}{'' if p.ok else ' (failed)'}" for p in record.phases
    )
    for number, phase in enumerate(record.phases):
        _row(svg, record, phase, number * _ROW, begin, span)
    return tostring(svg, encoding="unicode")


def _row(
    svg: Element, record: RunRecord, phase: PhaseTime, top: int, begin: float, span: float
) -> None:
    state = "ok" if phase.ok else "failed"
    SubElement(svg, "text", _text_at("0", top, "start")).text = _label(record, phase)
    SubElement(svg, "text", _text_at("100%", top, "end")).text = duration(phase.seconds)
    SubElement(svg, "rect", _bar("track", top, 0.0, 100.0))
    width = min(100.0, max(_THINNEST, 100 * max(0.0, phase.seconds) / span))
    start = min(100 * (phase.started - begin) / span, 100 - width)
    bar = SubElement(svg, "rect", _bar(state, top, start, width))
    note = f": {one_line(phase.note)}" if phase.note else ""
    SubElement(bar, "title").text = f"{phase.phase.value}, {duration(phase.seconds)}{note}"


def _label(record: RunRecord, phase: PhaseTime) -> str:
    """The phase's name; where a boot was measured inside the guest, how long that took."""
    facts = record.facts
    observation = {"boot": facts.before, "reboot": facts.after}.get(phase.phase.value)
    label = phase.phase.value if phase.ok else f"{phase.phase.value} ✗"
    if observation and observation.boot_seconds > 0:
        return f"{label} · guest up in {duration(observation.boot_seconds)}"
    return label


def _text_at(x: str, top: int, anchor: str) -> dict[str, str]:
    return {
        "x": x,
        "y": str(top + _TEXT_Y),
        "text-anchor": anchor,
        "class": "label",
        "fill": _COLOURS["text"],
    }


def _bar(kind: str, top: int, start: float, width: float) -> dict[str, str]:
    return {
        "class": f"bar-{kind}",
        "x": f"{start:.2f}%",
        "y": str(top + _BAR_Y),
        "width": f"{width:.2f}%",
        "height": str(_BAR_HEIGHT),
        "rx": "4",
        "fill": _COLOURS[kind],
    }
