"""YAML from others: plain data with line numbers, or an error that names the line."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from sandbox.core.config import strict_yaml
from sandbox.core.errors import RequestError

PATH = Path("web01/scenario.yaml")


def refused(text: str) -> RequestError:
    with pytest.raises(RequestError) as caught:
        strict_yaml.parse(text, PATH)
    assert caught.value.hint
    return caught.value


def test_values_follow_yaml_1_2() -> None:
    text = "{a: no, b: true, c: 1:30, d: 2024-01-01, e: 1.5, f: -7, g: ~, h: '5', i: , j: 1e3}"
    assert strict_yaml.parse(text, PATH).data == {
        "a": "no",
        "b": True,
        "c": "1:30",
        "d": "2024-01-01",
        "e": 1.5,
        "f": -7,
        "g": None,
        "h": "5",
        "i": None,
        "j": 1000.0,
    }


def test_every_key_has_its_line() -> None:
    document = strict_yaml.parse("a: 1\nb:\n  c:\n  - x\n  - d: y\n", PATH)
    assert document.line(("b",)) == 2
    assert document.line(("b", "c")) == 3
    assert document.line(("b", "c", 0)) == 4
    assert document.line(("b", "c", 1, "d")) == 5
    assert document.line(("b", "missing", 3)) == 2, "the nearest key around it"
    assert document.line(("missing",)) == 1


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("a: 1\nb: 2\na: 3", ":3: a:", "given twice, first in line 1"),
        ("a:\n  b: 1\n  b: 2", ":3: a.b:", "given twice, first in line 2"),
        ("a:\n\t- b", ":2:1:", "tab"),
        ("a: 1\n b: 2", ":2:3:", "mapping values are not allowed"),
        ("a: 'x", ":1:6:", "unexpected end"),
        ("a: 1\nu: [*.mount]", ":2:6:", "quotes"),
        ("a: *b", ":1:4:", "undefined alias"),
        ("- a", ":1:", "must be a mapping"),
        ("just text", ":1:", "must be a mapping"),
        ("", ":1:", "not nothing"),
        ("a: 1\n---\nb: 2", ":2:1:", "more than one YAML document"),
        ("a: 1\nb: !!python/object/apply:os.system [ls]", ":2: b:", "!!python/object/apply"),
        ("a: !secret b", ":1: a:", "'!secret' is not allowed"),
        ("a: !!binary aGk=", ":1: a:", "'!!binary' is not allowed"),
        ("a: !!int x", ":1: a:", "'x' is not of type int"),
        ("a: 1\n? [x]\n: y", ":2: the file:", "a key must be a plain word"),
        ("a: 99999999999999999999", ":1: a:", "too large"),
        ("a: 1e999", ":1: a:", "too large"),
        ("a: 1\nb: \x07", ":2:", r"'\x07' is not allowed"),
        ('a: "\\ud800"', ":1: a:", "surrogate"),
        ('a: "\\UFFFFFFFF"', ":1:", "not YAML"),
        ("a: &a [*a]", ":1: a.0", "endless"),
        ("[" * 5000, ":1:", "nested deeper"),
        ("- " * 5000, ":1:", "nested deeper"),
    ],
)
def test_bad_text_is_refused_with_its_place(text: str, where: str, what: str) -> None:
    error = refused(text)
    assert error.message.startswith(f"{PATH}{where}")
    assert what in str(error)


def laughs(levels: int, width: int) -> str:
    lines = ["l0: &l0 [ha, ha]"]
    for level in range(1, levels):
        lines.append(f"l{level}: &l{level} [{', '.join([f'*l{level - 1}'] * width)}]")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("bomb", "what"),
    [
        (laughs(9, 9), "more than 20 aliases"),
        (f"big: &big [{'x,' * 3000}]\nmore: [*big, *big, *big]", "aliases make"),
        (f"a: &a {'x' * 200_000}\nb: [*a, *a]", "aliases make"),
        (f"a: [{'x,' * 20_000}]", "more than 10000 values"),
        ("{" * 100_000, "nested deeper"),
        ("? " * 100_000, "nested deeper"),
    ],
)
def test_bombs_are_refused_at_once(bomb: str, what: str) -> None:
    started = time.process_time()
    assert what in str(refused(bomb))
    assert time.process_time() - started < 5, "seconds of CPU; a bomb would take for ever"


def test_a_few_aliases_are_fine() -> None:
    document = strict_yaml.parse("a: &a [x]\nb: *a\nc: *a", PATH)
    assert document.data == {"a": ["x"], "b": ["x"], "c": ["x"]}


def test_files_are_limited_and_must_be_utf8(tmp_path: Path) -> None:
    file = tmp_path / "scenario.yaml"
    with pytest.raises(RequestError, match="no such file"):
        strict_yaml.load(file)
    with pytest.raises(RequestError, match="no such file"):
        strict_yaml.load(tmp_path)
    file.write_bytes(b"a: 1\nb: \xff\n")
    with pytest.raises(RequestError, match=r"scenario\.yaml:2: not UTF-8 \(byte 0xff\)"):
        strict_yaml.load(file)
    file.write_bytes(b"a: " + b"x" * strict_yaml.MAX_BYTES)
    with pytest.raises(RequestError, match="larger than 256 KiB"):
        strict_yaml.load(file)
    file.write_bytes("\ufeffa: ä\n".encode())
    assert strict_yaml.load(file).data == {"a": "ä"}


@given(st.text())
@example("%YAML " + "9" * 5000 + ".1\n---\na: 1")
@example("!<tag:yaml.org,2002:int> : 1")
@example("&a : *a")
@example("a: \x85- b")
def test_junk_is_refused_or_parsed(text: str) -> None:
    try:
        document = strict_yaml.parse(text, PATH)
    except RequestError as error:
        words = error.message
    else:
        assert isinstance(document.data, dict)
        return
    assert words.startswith(f"{PATH}:")


# Signs that mean something in YAML come up far too rarely in arbitrary text.
@given(st.text(alphabet="ab1:-?*&![]{},'\"|>%@`#~<= \n\t\\\ufeff"))
def test_syntax_shaped_junk_is_refused_or_parsed(text: str) -> None:
    test_junk_is_refused_or_parsed.hypothesis.inner_test(text)  # type: ignore[attr-defined]


@given(st.binary(max_size=300))
def test_junk_bytes_are_refused_or_parsed(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    file = tmp_path_factory.mktemp("junk") / "scenario.yaml"
    file.write_bytes(data)
    try:
        document = strict_yaml.load(file)
    except RequestError as error:
        words = error.message
    else:
        assert isinstance(document.data, dict)
        return
    assert words.startswith(f"{file}:")


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(10**15), 10**15)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
)
PLAIN = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text("abc-_", min_size=1, max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.text("abcxyz", min_size=1, max_size=8), PLAIN, max_size=5))
def test_what_a_yaml_library_writes_is_read_back(data: dict[str, object]) -> None:
    # Quoted and tagged throughout, because PyYAML writes YAML 1.1: there 0E0 needs no quotes.
    text = yaml.safe_dump(data, default_style='"')
    assert strict_yaml.parse(text, PATH).data == data
