"""Write the golden reports anew; read the difference before committing it."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from sample_records import ALL, write_artifacts  # noqa: E402

from sandbox.report import render  # noqa: E402


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        run_dir = write_artifacts(Path(folder))
        for name in ("pass", "broken_nginx", "no_boot"):
            (HERE / f"{name}.txt").write_text(render(ALL[name](), run_dir, "text"))
        (HERE / "broken_nginx.md").write_text(render(ALL["broken_nginx"](), run_dir, "markdown"))


if __name__ == "__main__":
    main()
