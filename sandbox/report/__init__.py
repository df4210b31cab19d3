"""Reports: one rehearsal's record, laid out for people, CI and programs.

Formats are chosen by name and imported only when asked for, so that the command starts fast.
"""

from __future__ import annotations

from pathlib import Path

from sandbox.core.errors import RequestError
from sandbox.core.records import RunRecord

FORMATS = ("text", "json", "junit", "markdown", "html")


def render(
    record: RunRecord, run_dir: Path, format: str, *, colour: bool = False, brief: bool = False
) -> str:
    """``record`` as a report. Artifacts are read from ``run_dir``.

    ``colour`` and ``brief`` (what a terminal shows when a run ends) are for text only.
    Raises :class:`RequestError` for a format that does not exist.
    """
    from sandbox.report.view import view

    match format:
        case "text":
            from sandbox.report.text import render_text

            return render_text(view(record, run_dir), colour=colour, brief=brief)
        case "json":
            from sandbox.report.json_ import render_json

            return render_json(view(record, run_dir))
        case "junit":
            from sandbox.report.junit import render_junit

            return render_junit(view(record, run_dir))
        case "markdown":
            from sandbox.report.markdown import render_markdown

            return render_markdown(view(record, run_dir))
        case "html":
            from sandbox.report.html import render_html

            return render_html(view(record, run_dir), run_dir)
    raise RequestError(f"unknown report format {format!r}", f"one of {', '.join(FORMATS)}")
