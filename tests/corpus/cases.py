"""All cases, in the order in which they are begun: what breaks takes longest, so it is first."""

from __future__ import annotations

from tests.corpus import cases_good, cases_services, cases_system, cases_treacherous

CASES = (
    *cases_services.CASES,
    *cases_system.CASES,
    *cases_treacherous.CASES,
    *cases_good.CASES,
)
