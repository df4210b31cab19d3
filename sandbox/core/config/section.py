"""What every section of a strict file is made of, and the words that several of them share."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, PlainValidator, WithJsonSchema

from sandbox.core.config import scalars


def schema(pattern: str | None = None, **extra: Any) -> WithJsonSchema:
    """JSON Schema of a text."""
    text: dict[str, Any] = {"type": "string", "minLength": 1}
    if pattern is not None:
        text["pattern"] = f"^(?:{pattern})$"
    return WithJsonSchema({**text, **extra})


NUMBER_OR_TEXT = {"type": ["integer", "string"], "minimum": 1}
HostName = Annotated[str, PlainValidator(scalars.host_name), schema(maxLength=63)]
GuestName = Annotated[str, PlainValidator(scalars.guest_name), schema(maxLength=64)]
Duration = Annotated[
    int,
    PlainValidator(scalars.duration),
    WithJsonSchema({**NUMBER_OR_TEXT, "pattern": f"^{scalars.DURATION}$", "examples": ["10m"]}),
]
Size = Annotated[
    int,
    PlainValidator(scalars.size),
    WithJsonSchema({**NUMBER_OR_TEXT, "pattern": f"^{scalars.SIZE}$", "examples": ["2GiB"]}),
]
# A duration where no time at all can be meant.
Pause = Annotated[
    int,
    PlainValidator(scalars.pause),
    WithJsonSchema(
        {
            **NUMBER_OR_TEXT,
            "minimum": 0,
            "pattern": f"^{scalars.DURATION}$",
            "examples": ["2m", 0],
        }
    ),
]


class Section(BaseModel):
    """A mapping of the file; unknown keys and converted types are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
