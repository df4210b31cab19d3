"""What a check measured before the upgrade and needs again after it."""

from __future__ import annotations

import json
import os
from pathlib import Path


class CheckMemory:
    """A small JSON file in the run's folder; it outlives the checks' process of one phase."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> dict[str, object]:
        """Everything noted so far; nothing when the file is missing or not ours."""
        try:
            stored = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return stored if isinstance(stored, dict) else {}

    def note(self, key: str, value: object) -> None:
        """Keep ``value`` (anything JSON can hold) under ``key``."""
        text = json.dumps({**self.load(), key: value})
        fresh = self.path.with_suffix(".new")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        fresh.replace(self.path)

    def text(self, key: str) -> str | None:
        """A noted string, None when there is none."""
        value = self.load().get(key)
        return value if isinstance(value, str) else None

    def statuses(self, key: str) -> dict[str, int] | None:
        """A noted table of HTTP statuses, None when there is none."""
        value = self.load().get(key)
        if not isinstance(value, dict):
            return None
        return {str(name): status for name, status in value.items() if isinstance(status, int)}
