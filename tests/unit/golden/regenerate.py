"""Write the golden reports anew: ``python -m tests.unit.golden.regenerate``.

Read the difference before committing it.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from sandbox.report import render
from tests.support.fakes.sample_records import ALL, write_artifacts
from tests.support.paths import GOLDEN


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        run_dir = write_artifacts(Path(folder))
        for name in ("pass", "broken_nginx", "no_boot"):
            (GOLDEN / f"{name}.txt").write_text(render(ALL[name](), run_dir, "text"))
        (GOLDEN / "broken_nginx.md").write_text(render(ALL["broken_nginx"](), run_dir, "markdown"))


if __name__ == "__main__":
    main()
