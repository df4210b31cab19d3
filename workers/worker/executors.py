"""The registry of executors, which are chosen by name."""

from __future__ import annotations

from sandbox.core.errors import RequestError
from workers.settings import ServiceSettings
from workers.worker.executor import Executor


def executor_for(settings: ServiceSettings) -> Executor:
    """The executor that the settings name."""
    if settings.executor == "rehearsal":
        from workers.worker.rehearsal_executor import RehearsalExecutor

        return RehearsalExecutor(settings)
    if settings.executor.startswith("simulated:"):
        from workers.worker.simulated_executor import SimulatedExecutor

        return SimulatedExecutor.from_text(settings.executor)
    raise RequestError(
        f"there is no executor {settings.executor!r}", "rehearsal, or simulated:FOLDER for tests"
    )
