"""The house as its code has it: packages, what they import, and what is to be measured of them.

``python -m tests.support.house`` writes docs/architecture.md anew and prints the measures.
"""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.support.paths import ROOT

DOCUMENT = ROOT / "docs" / "architecture.md"
SANDBOX = ROOT / "sandbox"

# What each package of the library may import besides itself; nothing else lies at its root.
PACKAGES: dict[str, set[str]] = {
    "core": set(),
    "verdict": {"core"},
    "observe": {"core"},
    "checks": {"core"},
    "managers": {"observe", "core"},
    "scenario": {"managers", "checks", "core"},
    "hosts": {"core"},
    "network": {"hosts", "core"},
    "clone": {"network", "hosts", "core"},
    "report": {"verdict", "core"},
    "preflight": {"scenario", "managers", "observe", "verdict", "core"},
    "doctor": {"clone", "network", "hosts", "scenario", "core"},
}
PACKAGES["rehearsal"] = {*PACKAGES} - {"preflight", "doctor"}
PACKAGES["cli"] = {*PACKAGES}
PACKAGES["demo"] = {*PACKAGES}
ROOT_MODULES = {"", "__main__"}


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def modules() -> list[Path]:
    return sorted(SANDBOX.rglob("*.py"))


def python_files(*tops: str) -> list[Path]:
    return [path for top in tops for path in sorted((ROOT / top).rglob("*.py"))]


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def name_of(path: Path) -> str:
    """``sandbox/checks/plugin.py`` is ``checks.plugin``; the package itself is ````."""
    parts = path.relative_to(SANDBOX).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, *, for_types: bool = True) -> Iterator[str]:
    """Everything that a module imports, wherever in it; names after ``from x import`` too."""
    skipped = set() if for_types else set(nodes_for_types(path))
    for node in ast.walk(parsed(path)):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def nodes_for_types(path: Path) -> Iterator[ast.AST]:
    """What is beneath ``if TYPE_CHECKING:``: not imported when the program runs."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            yield from ast.walk(node)


def ours(path: Path, *, for_types: bool = True) -> set[str]:
    """The modules of sandbox that one imports, without sandbox's own names."""
    known = {name_of(module) for module in modules()}
    found = set()
    for name in imports(path, for_types=for_types):
        inner = name.removeprefix("sandbox.") if name.startswith("sandbox.") else None
        while inner:
            if inner in known:
                found.add(inner)
                break
            inner = inner.rpartition(".")[0]
    return found


# -- docs/architecture.md ----------------------------------------------------------------------


def imported_packages() -> dict[str, set[str]]:
    """For each package of the library those that it really imports."""
    found = {package: set[str]() for package in PACKAGES}
    for path in modules():
        own = name_of(path).partition(".")[0]
        if own in found:
            found[own] |= {name.partition(".")[0] for name in ours(path)} & {*PACKAGES} - {own}
    return found


def purpose(package: str) -> str:
    """The sentence of its ``__init__``."""
    text = ast.get_docstring(parsed(SANDBOX / package / "__init__.py")) or ""
    words = " ".join(text.partition("\n\n")[0].split())
    return re.sub(r":\w+:`~?([\w.]+)`", r"`\1`", words.replace("``", "`"))


def _size(package: str) -> tuple[int, int]:
    """Modules and lines."""
    files = list((SANDBOX / package).rglob("*.py"))
    return len(files), sum(len(file.read_text().splitlines()) for file in files)


def drawing() -> str:
    """The packages and their imports in Mermaid. What an import implies is left out."""
    real = imported_packages()
    below = {package: _reached(package, real) for package in real}
    lines = ["```mermaid", "flowchart TD"]
    for package in reversed(real):
        implied = {far for near in real[package] for far in below[near]}
        lines += [f"    {package} --> {other}" for other in sorted(real[package] - implied)]
    return "\n".join([*lines, "```"])


def _reached(package: str, real: dict[str, set[str]]) -> set[str]:
    near = real[package]
    return near.union(*(_reached(other, real) for other in near))


def document() -> str:
    """What docs/architecture.md has to say."""
    rows = [
        f"| `{package}/` | {purpose(package)} | {', '.join(sorted(used)) or '–'} |"
        for package, used in reversed(imported_packages().items())
    ]
    table = "\n".join(["| package | purpose | imports |", "|---|---|---|", *rows])
    return f"""\
# Architecture

This page is written by `python -m tests.support.house` from the code, and a test compares the two.

`sandbox/` is the library and the command. It knows nothing of the queue: `workers/`, the service,
imports it and never the other way round. Nothing lies at the root of `sandbox/` but its packages.
What a package may import is a list in `tests/support/house.py`, which a test enforces; the table
shows what it does import.

{table}

An arrow means "imports". Arrows that follow from others are left out.

{drawing()}
"""


# -- measures -----------------------------------------------------------------------------------

_KINDS = re.compile(
    r"""\bkind\b.*(==|!=|\bin\b).*["'](xen|qemu)|["'](xen|qemu)["'].*(==|!=).*\bkind\b"""
)
_APT = re.compile(r"\b(apt|dpkg|deb)\b|\.deb\b|apt[-_]|dpkg[-_]", re.IGNORECASE)


def kind_branches() -> list[str]:
    """Lines outside of hosts/ that ask which hypervisor it is."""
    return [
        f"{relative(path)}:{number}"
        for path in python_files("sandbox", "workers")
        if "sandbox/hosts/" not in str(path)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if _KINDS.search(line)
    ]


def modules_that_know_apt() -> list[str]:
    """Modules outside of managers/ and demo/ that speak of apt, dpkg or deb."""
    return [
        relative(path)
        for path in python_files("sandbox", "workers")
        if not re.search(r"sandbox/(managers|demo)/", str(path)) and _APT.search(path.read_text())
    ]


def repeated_classes(top: str) -> dict[str, int]:
    """Names of classes that stand more than once in a tree."""
    names = Counter(
        node.name
        for path in python_files(top)
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    return {name: count for name, count in names.most_common() if count > 1}


def _print_measures() -> None:
    for package in PACKAGES:
        count, lines = _size(package)
        print(f"{package:12} {count:4} modules {lines:6} lines")
    totals: dict[str, int] = defaultdict(int)
    for path in python_files("sandbox", "workers"):
        totals[path.relative_to(ROOT).parts[0]] += len(path.read_text().splitlines())
    print(", ".join(f"{top}: {lines} lines" for top, lines in totals.items()))
    print(f"lines that ask for the kind of hypervisor outside of hosts/: {len(kind_branches())}")
    print(f"modules outside of managers/ that know apt: {len(modules_that_know_apt())}")
    for top in ("sandbox", "workers"):
        print(f"class names that stand twice in {top}/: {repeated_classes(top)}")


if __name__ == "__main__":
    DOCUMENT.parent.mkdir(exist_ok=True)
    DOCUMENT.write_text(document())
    _print_measures()
