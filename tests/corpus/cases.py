"""All cases, in the order in which they are begun: what breaks takes longest, so it is first."""

from __future__ import annotations

import cases_good
import cases_services
import cases_system
import cases_treacherous

CASES = (
    *cases_services.CASES,
    *cases_system.CASES,
    *cases_treacherous.CASES,
    *cases_good.CASES,
)
