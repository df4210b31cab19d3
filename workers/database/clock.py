"""The database's own clock: workers on several machines must not compare theirs."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Float
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import GenericFunction


class now(GenericFunction[float]):
    """Unix time in seconds, with fractions, as the database server has it."""

    type = Float()
    inherit_cache = True
    name = "sandbox_now"


@compiles(now, "sqlite")
def _sqlite(_element: Any, _compiler: Any, **_options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(now, "postgresql")
def _postgresql(_element: Any, _compiler: Any, **_options: Any) -> str:
    # Not now(): that is the transaction's start.
    return "extract(epoch from clock_timestamp())::double precision"
