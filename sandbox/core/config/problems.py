"""What is wrong with a strict file: all of it at once, each with its line and what to do."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from sandbox.core.config.scalars import did_you_mean, nearest, shown
from sandbox.core.config.strict_yaml import Document, KeyPath, dotted


@dataclass(frozen=True)
class Problem:
    """What is wrong with the value at ``key``."""

    key: KeyPath
    what: str


def problem_lines(document: Document, problems: Iterable[Problem]) -> list[str]:
    """``path:line: key: what``, in the order of the file's lines."""
    found = sorted({(document.line(p.key), dotted(p.key), p.what) for p in problems})
    return [f"{document.path}:{line}: {key}: {what}" for line, key, what in found]


def shape_problems(invalid: ValidationError, file: type[BaseModel]) -> Iterator[Problem]:
    """Unknown keys, wrong types and bad values, from pydantic's findings about a ``file``."""
    for error in invalid.errors(include_url=False):
        key = tuple(error["loc"])
        yield Problem(key, _what(error, key, file))


def _what(error: ErrorDetails, key: KeyPath, file: type[BaseModel]) -> str:
    value, context = error.get("input"), error.get("ctx", {})
    match error["type"]:
        case "value_error":
            return str(context["error"])
        case "extra_forbidden":
            return _unknown_key(key, file)
        case "missing":
            field = _section_at(key[:-1], file).model_fields.get(str(key[-1]))
            return f"is required: {field.description}" if field else "is required"
        case "literal_error":
            allowed = re.findall(r"'([^']*)'", str(context["expected"]))
            return f"{shown(value)} is not one of them{did_you_mean(str(value), allowed)}"
        case "too_long":
            return f"must not have more than {context['max_length']} entries"
        case "string_too_long":
            return f"must not have more than {context['max_length']} characters"
        case "greater_than_equal":
            return f"{shown(value)} is too small: at least {context['ge']}"
        case "less_than_equal":
            return f"{shown(value)} is too large: at most {context['le']}"
    wanted = _KINDS.get(error["type"])
    if wanted is None:
        return error["msg"]
    if value is None:
        return f"is empty: remove the key, or give it {wanted}"
    return f"must be {wanted}, not {_kind(value)}"


_KINDS = {
    "model_type": "a mapping (`key: value` lines)",
    "tuple_type": "a list, as in [a, b]",
    "string_type": "text (in quotes if need be)",
    "int_type": "a whole number",
    "bool_type": "true or false",
}


def _kind(value: object) -> str:
    if isinstance(value, dict):
        return "a mapping"
    return "a list" if isinstance(value, list) else shown(value)


def _unknown_key(key: KeyPath, file: type[BaseModel]) -> str:
    """Name the nearest key of the same section, or the section where the key belongs."""
    name, section = str(key[-1]), _section_at(key[:-1], file)
    here = list(section.model_fields)
    if best := nearest(name, here):
        return f"unknown key; did you mean {best!r}?"
    elsewhere = {path.rpartition(".")[2]: path for path in _all_keys(file)}
    if best := nearest(name, elsewhere):
        return f"unknown key; did you mean {elsewhere[best]!r}?"
    return f"unknown key; known here: {', '.join(here)}"


def _section_at(key: KeyPath, file: type[BaseModel]) -> type[BaseModel]:
    """The section that a key path leads to: list positions are passed over."""
    section = file
    for name in key:
        field = section.model_fields.get(str(name))
        section = (_section_in(field.annotation) if field else None) or section
    return section


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """The section inside ``Image | None`` or ``tuple[ImageDisk, ...]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _section_in(part))), None)


def _all_keys(section: type[BaseModel], around: str = "") -> Iterator[str]:
    """Every key of the file, the outermost last so that it wins over namesakes further in."""
    for name, field in section.model_fields.items():
        if inner := _section_in(field.annotation):
            yield from _all_keys(inner, f"{around}{name}.")
    yield from (around + name for name in section.model_fields)
