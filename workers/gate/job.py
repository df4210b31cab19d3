"""The CI job that asks, by what CI says in the environment: GitHub Actions, GitLab, Jenkins."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# What is the same for a job that is started once more where it was, and for no other.
_JOBS = (
    ("GITHUB_REPOSITORY", "GITHUB_RUN_ID", "GITHUB_RUN_ATTEMPT", "GITHUB_JOB"),
    ("CI_SERVER_URL", "CI_JOB_ID"),
    ("JENKINS_URL", "BUILD_TAG"),
)


@dataclass(frozen=True)
class Job:
    """What of it matters. Without CI all of it is empty."""

    words: tuple[str, ...] = ()
    summary: Path | None = None  # Markdown is added to it
    outputs: Path | None = None  # name=value lines are added to it
    obeys: bool = False  # whether lines on standard output are commands to CI

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Job:
        found: tuple[str, ...] = ()
        for names in _JOBS:
            if all(environment.get(name) for name in names):
                found = tuple(f"{name}={environment[name]}" for name in names)
                break
        return cls(
            found,
            _path(environment, "GITHUB_STEP_SUMMARY"),
            _path(environment, "GITHUB_OUTPUT"),
            environment.get("GITHUB_ACTIONS") == "true",
        )

    def key(self, body: Mapping[str, Any], *, fresh: bool) -> str:
        """The Idempotency-Key of what the job asks for: the same for the same job and wish."""
        if fresh or not self.words:
            return f"gate-{secrets.token_hex(20)}"
        said = json.dumps([self.words, body], sort_keys=True)
        return f"gate-{hashlib.sha256(said.encode()).hexdigest()[:40]}"


def _path(environment: Mapping[str, str], name: str) -> Path | None:
    text = environment.get(name)
    return Path(text) if text else None
