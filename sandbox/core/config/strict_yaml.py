"""YAML for files that others wrote: plain data and line numbers, or an error that names the line.

Values follow YAML 1.2's core schema, as editors do: only ``true`` and ``false`` are booleans,
``no`` and ``1:30`` and ``2024-01-01`` are text. Nothing but mappings, lists, text, numbers,
booleans and null can come out, and no small file can grow into a large one (alias bombs).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from yaml import AliasEvent
from yaml.composer import Composer
from yaml.error import MarkedYAMLError, YAMLError
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.parser import Parser
from yaml.reader import Reader, ReaderError
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

from sandbox.core.errors import RequestError

Plain = dict[str, "Plain"] | list["Plain"] | str | int | float | bool | None
KeyPath = tuple[str | int, ...]

MAX_BYTES = 256 * 1024
MAX_ALIASES = 20
MAX_DEPTH = 24
MAX_NODES = 10_000  # with every alias written out
MAX_DIGITS = 18  # fits 64 bits
_CHARACTERS_PER_NODE = 32  # long texts count towards MAX_NODES, once for every alias

_TAG = "tag:yaml.org,2002:"
_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?")
_NULL = re.compile(r"~|null|Null|NULL|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
# A part of PyYAML's words for a mistake, and what to do about it.
_HINTS = {
    "more than": "no file of ours needs as much; write it out plainly",
    "nested deeper": "no file of ours needs as much; write it out plainly",
    "'\\t'": "indent with spaces, not tabs",
    "alias": "put text that starts with * or & in quotes",
    "anchor": "put text that starts with * or & in quotes",
    "mapping values are not allowed": "put text that holds ': ' in quotes",
    "single document": "keep one document: remove what follows the second ---",
}
_HINT = "indent with spaces, and put text with special signs in quotes"


@dataclass(frozen=True)
class Document:
    """A parsed file: ``data`` is plain, ``line`` tells where a key stands."""

    path: Path
    data: dict[str, Plain]
    lines: Mapping[KeyPath, int]

    def line(self, key: KeyPath) -> int:
        """The line of a key path, or of the nearest key around it; the first line is 1."""
        while key and key not in self.lines:
            key = key[:-1]
        return self.lines.get(key, 1)


def dotted(key: KeyPath) -> str:
    """A key path as people write it: ``checks.ignore.units.0``; odd characters are escaped."""
    words = ".".join(str(part) for part in key)
    shown = words if words.isprintable() else ascii(words)[1:-1]
    return shown if len(shown) <= 100 else f"{shown[:99]}…"


def load(path: Path) -> Document:
    """Parse the file; raises :class:`RequestError` as ``path:line: key: what is wrong``."""
    return parse(_read(path), path)


def parse(text: str, path: Path) -> Document:
    """Parse ``text``; ``path`` is only for the messages. Raises like :func:`load`."""
    node = _compose(text, path)
    if not isinstance(node, MappingNode):
        found = {type(None): "nothing", SequenceNode: "a list"}.get(type(node), "plain text")
        line = 1 if node is None else node.start_mark.line + 1
        raise RequestError(
            f"{path}:{line}: the file must be a mapping (`key: value` lines), not {found}", _HINT
        )
    builder = _Builder(path)
    return Document(path, builder.mapping(node, ()), builder.lines)


def _read(path: Path) -> str:
    try:
        if not path.is_file():
            raise RequestError(f"{path}: no such file", "check the path")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as problem:
        reason = problem.strerror or str(problem)
        raise RequestError(f"{path}: cannot be read: {reason}", "check its rights") from problem
    if len(data) > MAX_BYTES:
        raise RequestError(
            f"{path}: larger than {MAX_BYTES // 1024} KiB", "no file of ours needs that much"
        )
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as problem:
        line = data.count(b"\n", 0, problem.start) + 1
        raise RequestError(
            f"{path}:{line}: not UTF-8 (byte 0x{data[problem.start]:02x})",
            "save the file as UTF-8",
        ) from problem


class _Refused(MarkedYAMLError):
    """A limit of ours was passed while the text was read."""


class _Loader(Reader, Scanner, Parser, Composer, BaseResolver):
    """PyYAML's reader without its constructors: nothing in the text can make an object."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        BaseResolver.__init__(self)
        self._depth = self._nodes = self._aliases = 0

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        """Count before composing, so that a bomb is refused while it is still small."""
        self._nodes += 1
        self._aliases += self.check_event(AliasEvent)
        self._depth += 1
        if self._aliases > MAX_ALIASES:
            self._refuse(f"more than {MAX_ALIASES} aliases (*name)")
        if self._depth > MAX_DEPTH:
            self._refuse(f"nested deeper than {MAX_DEPTH} levels")
        if self._nodes > MAX_NODES:
            self._refuse(f"more than {MAX_NODES} values")
        node: Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def _refuse(self, what: str) -> None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        raise _Refused(problem=what, problem_mark=event.start_mark)


for _tag, _pattern, _first in (
    ("bool", _BOOL, "tTfF"),
    ("int", _INT, "-+0123456789"),
    ("float", _FLOAT, "-+0123456789."),
    ("null", _NULL, ["~", "n", "N", ""]),
):
    # PyYAML only matches at the start.
    _whole = re.compile(f"(?:{_pattern.pattern})$")
    _Loader.add_implicit_resolver(_TAG + _tag, _whole, list(_first))


def _compose(text: str, path: Path) -> Node | None:
    try:
        loader = _Loader(text)
    except ReaderError as problem:
        line = text.count("\n", 0, problem.position) + 1
        raise RequestError(
            f"{path}:{line}: character {text[problem.position]!a} is not allowed",
            "remove it, or write it as an escape in double quotes",
        ) from problem
    try:
        node: Node | None = loader.get_single_node()
    except MarkedYAMLError as problem:
        mark = problem.problem_mark or problem.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        what = problem.problem or problem.context or "not YAML"
        words = f"{problem.context or ''} {what}"
        if "single document" in words:
            what = "more than one YAML document"
        hint = next((hint for part, hint in _HINTS.items() if part in words), _HINT)
        raise RequestError(f"{path}:{line}:{column}: {what}", hint) from problem
    except (YAMLError, ValueError, OverflowError) as problem:
        # PyYAML lets chr() and int() of absurd escapes and versions through.
        where = f"{path}:{loader.line + 1}:{loader.column + 1}"
        raise RequestError(f"{where}: not YAML: {problem}", _HINT) from problem
    return node


class _Builder:
    """Turns nodes into plain data and remembers every key's line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: dict[KeyPath, int] = {(): 1}
        self._left = MAX_NODES

    def mapping(self, node: MappingNode, key: KeyPath) -> dict[str, Plain]:
        result: dict[str, Plain] = {}
        for name_node, value_node in node.value:
            name = self._name(name_node, key)
            inner = (*key, name)
            if name in result:
                first = self.lines[inner]
                self._fail(name_node, inner, f"given twice, first in line {first}", "keep one")
            self.lines[inner] = name_node.start_mark.line + 1
            result[name] = self._value(value_node, inner)
        self._standard(node, key, "map")
        return result

    def _name(self, node: Node, around: KeyPath) -> str:
        if not isinstance(node, ScalarNode):
            self._fail(node, around, "a key must be a plain word", _HINT)
        self._standard(node, around, "str", "int", "bool", "null", "float")
        return self._text(node, around)

    def _value(self, node: Node, key: KeyPath) -> Plain:
        self._spend(1, node, key)
        if isinstance(node, MappingNode):
            return self.mapping(node, key)
        if isinstance(node, SequenceNode):
            self._standard(node, key, "seq")
            result: list[Plain] = []
            for number, item in enumerate(node.value):
                self.lines[*key, number] = item.start_mark.line + 1
                result.append(self._value(item, (*key, number)))
            return result
        assert isinstance(node, ScalarNode)
        return self._scalar(node, key)

    def _scalar(self, node: ScalarNode, key: KeyPath) -> Plain:
        self._standard(node, key, "str", "int", "float", "bool", "null")
        kind = node.tag.removeprefix(_TAG)
        text = self._text(node, key)
        if kind == "str":
            return text
        pattern = {"int": _INT, "float": _FLOAT, "bool": _BOOL, "null": _NULL}[kind]
        if not pattern.fullmatch(text) and not (kind == "float" and _INT.fullmatch(text)):
            self._fail(node, key, f"{text[:40]!r} is not of type {kind}", "remove the !! tag")
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        number: int | float = math.inf
        if kind == "float":
            number = float(text)
        elif len(text) <= MAX_DIGITS:
            number = int(text)
        if not math.isfinite(number):
            self._fail(node, key, "the number is too large", "put it in quotes if it is text")
        return number

    def _text(self, node: Node, key: KeyPath) -> str:
        text = str(node.value)
        self._spend(len(text) // _CHARACTERS_PER_NODE, node, key)
        if any("\ud800" <= character <= "\udfff" for character in text):
            self._fail(node, key, "half a surrogate pair is no character", "write it as UTF-8")
        return text

    def _spend(self, nodes: int, node: Node, key: KeyPath) -> None:
        self._left -= nodes
        if self._left < 0 or len(key) > MAX_DEPTH:
            self._fail(node, key, "aliases make the file too large or endless", "write it out")

    def _standard(self, node: Node, key: KeyPath, *kinds: str) -> None:
        if node.tag not in {_TAG + kind for kind in kinds}:
            shown = node.tag.replace(_TAG, "!!")[:60]
            self._fail(node, key, f"tag {shown!r} is not allowed here", "remove the tag")

    def _fail(self, node: Node, key: KeyPath, what: str, hint: str) -> NoReturn:
        where = f"{self.path}:{node.start_mark.line + 1}"
        raise RequestError(f"{where}: {dotted(key) or 'the file'}: {what}", hint)
