"""What every record is."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """A frozen value; an unknown key in a stored file is an error, not a surprise later."""

    model_config = ConfigDict(frozen=True, extra="forbid")
