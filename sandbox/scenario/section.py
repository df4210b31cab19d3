"""What every section of a strict file is made of, and the words that several of them share."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, PlainValidator, WithJsonSchema

from sandbox.scenario import values


def schema(pattern: str | None = None, **extra: Any) -> WithJsonSchema:
    """JSON Schema of a text."""
    text: dict[str, Any] = {"type": "string", "minLength": 1}
    if pattern is not None:
        text["pattern"] = f"^(?:{pattern})$"
    return WithJsonSchema({**text, **extra})


NUMBER_OR_TEXT = {"type": ["integer", "string"], "minimum": 1}
HostName = Annotated[str, PlainValidator(values.host_name), schema(maxLength=63)]
GuestName = Annotated[str, PlainValidator(values.guest_name), schema(maxLength=64)]
Duration = Annotated[
    int,
    PlainValidator(values.duration),
    WithJsonSchema({**NUMBER_OR_TEXT, "pattern": f"^{values.DURATION}$", "examples": ["10m"]}),
]
# The same where no time at all can be meant.
Pause = Annotated[
    int,
    PlainValidator(values.pause),
    WithJsonSchema(
        {
            **NUMBER_OR_TEXT,
            "minimum": 0,
            "pattern": f"^{values.DURATION}$",
            "examples": ["2m", 0],
        }
    ),
]


class Section(BaseModel):
    """A mapping of the file; unknown keys and converted types are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
