"""What every command of the service begins with: its settings and its database."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workers.database import Database
    from workers.settings import ServiceSettings


def open_service() -> tuple[ServiceSettings, Database]:
    """Read and opened; imported only here, so that `sandbox --help` stays quick."""
    from workers.database import open_database
    from workers.settings import read_service_settings

    settings = read_service_settings()
    if settings.database.startswith(f"sqlite:///{settings.embedded}/"):
        settings.embedded.mkdir(parents=True, exist_ok=True, mode=0o700)
    return settings, open_database(settings.database)
