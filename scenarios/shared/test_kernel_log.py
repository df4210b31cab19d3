"""The kernel complains about nothing new."""

from __future__ import annotations

from sandbox.checks import CheckSettings
from sandbox.checks.compare import new_kernel_errors
from sandbox.core.records import Observation


def test_no_new_errors(before: Observation, now: Observation, settings: CheckSettings) -> None:
    fresh = new_kernel_errors(before.kernel_errors, now.kernel_errors, settings.ignore_kernel_log)
    assert not fresh, (
        f"the kernel log has {'a new error' if len(fresh) == 1 else f'{len(fresh)} new errors'}: "
        + "\n".join(fresh)
    )
