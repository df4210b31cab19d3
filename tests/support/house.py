"""The house as its code has it: packages, what they import, and what is to be measured of them.

``python -m tests.support.house`` writes docs/architecture.md anew and prints the measures.
"""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
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
# The same for the service, which may import all of the library.
_BELOW: set[str] = {"queue", "database", "logs", "settings"}
SERVICE_PACKAGES: dict[str, set[str]] = {
    "settings": set(),
    "logs": {"settings"},
    "database": set(),
    "context": {"database", "settings"},
    "queue": {"database", "settings"},
    "artifacts": _BELOW,
    "notifications": _BELOW,
    "schedule": {"notifications", *_BELOW},
    "chat": {"notifications", *_BELOW},
    "gate": {"artifacts", "context", *_BELOW},
    "standalone": _BELOW,
    "monitoring": {"chat", "artifacts", *_BELOW},
    "worker": {"artifacts", "monitoring", "notifications", "schedule", *_BELOW},
    "web": {"gate", "chat", "artifacts", "monitoring", "schedule", *_BELOW},
}
SERVICE_PACKAGES["commands"] = {*SERVICE_PACKAGES}
SERVICE_PACKAGES["cli"] = {"commands"}


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def modules(top: str = "sandbox") -> list[Path]:
    """The modules of a tree; those of its migrations are alembic's."""
    return [path for path in sorted((ROOT / top).rglob("*.py")) if "migrations" not in path.parts]


def python_files(*tops: str) -> list[Path]:
    return [path for top in tops for path in sorted((ROOT / top).rglob("*.py"))]


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def name_of(path: Path) -> str:
    """``sandbox/checks/plugin.py`` is ``checks.plugin``; the tree itself is ````."""
    parts = path.relative_to(ROOT).with_suffix("").parts[1:]
    return ".".join(parts[:-1] if parts[-1:] == ("__init__",) else parts)


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


@cache
def _names(top: str) -> frozenset[str]:
    return frozenset(name_of(module) for module in modules(top))


def ours(path: Path, *, for_types: bool = True) -> set[str]:
    """The modules of its own tree that one imports, without the tree's own names."""
    top = path.relative_to(ROOT).parts[0]
    found = set()
    for name in imports(path, for_types=for_types):
        inner = name.removeprefix(f"{top}.") if name.startswith(f"{top}.") else None
        while inner:
            if inner in _names(top):
                found.add(inner)
                break
            inner = inner.rpartition(".")[0]
    return found


# -- docs/architecture.md ----------------------------------------------------------------------


def imported_packages(top: str, packages: Iterable[str]) -> dict[str, set[str]]:
    """For each package of a tree those that it really imports."""
    found = {package: set[str]() for package in packages}
    for path in modules(top):
        own = name_of(path).partition(".")[0]
        if own in found:
            found[own] |= {name.partition(".")[0] for name in ours(path)} & {*found} - {own}
    return found


def purpose(top: str, package: str) -> str:
    """The first sentence of its docstring."""
    folder = ROOT / top / package
    path = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    text = ast.get_docstring(parsed(path)) or ""
    words = " ".join(text.partition("\n\n")[0].split())
    return re.sub(r":\w+:`~?([\w.]+)`", r"`\1`", words.replace("``", "`"))


def _table(top: str, real: dict[str, set[str]]) -> str:
    rows = [
        f"| `{package}{'/' if (ROOT / top / package).is_dir() else '.py'}` "
        f"| {purpose(top, package)} | {', '.join(sorted(used)) or '–'} |"
        for package, used in reversed(real.items())
    ]
    return "\n".join(["| package | purpose | imports |", "|---|---|---|", *rows])


def _drawing(real: dict[str, set[str]]) -> str:
    """The packages and their imports in Mermaid. What an import implies is left out."""
    below = {package: _reached(package, real) for package in real}
    lines = ["```mermaid", "flowchart TD"]
    for package in reversed(real):
        implied = {far for near in real[package] for far in below[near]}
        lines += [f"    {package} --> {other}" for other in sorted(real[package] - implied)]
    return "\n".join([*lines, "```"])


def _reached(package: str, real: dict[str, set[str]]) -> set[str]:
    near = real[package]
    return near.union(*(_reached(other, real) for other in near))


RECIPES = """\
## Three recipes

How to add what is most often added. Each part is chosen by name from a registry and keeps to one
contract, which tests run against every implementation.

### A package manager

1. `sandbox/managers/NAME.py` implements `Upgrader` of `sandbox/managers/__init__.py`: the sources
   that the proxy may let through, a simulation that changes nothing, and the upgrade itself. Its
   scripts and parsers lie beside it, as those of `sandbox/managers/apt.py` do.
2. A line in `MANAGERS` of `sandbox/managers/__init__.py`: the guest's command and the upgrader.
3. Tests with the real tool, as `tests/system/test_apt.py` does, and a rehearsal of a guest that has
   it, as `tests/vm/test_cases.py` does.

Preflight and diagnosis still know apt by themselves: until they ask the manager, a new one has no
preflight.

### A driver with its store

1. `sandbox/hosts/drivers/NAME.py` implements `Hypervisor` of `sandbox/hosts/drivers/__init__.py`,
   and small protocols such as `ExportsDisks` where it can do more. A line in `driver_for` there
   names its URIs.
2. A class in `sandbox/hosts/volumes/storage.py` implements `Storage`: how its clones' disks are
   made, guarded and removed. A line in `_STORAGES` there.
3. Its readiness checks are a line of `sandbox/doctor/examine.py`.
4. It runs under `tests/contract/test_hypervisors.py` and `tests/contract/test_volumes.py`.

### A shared check

1. `scenarios/shared/test_NAME.py`: one or more testinfra tests. They get the observations `before`
   and `now`, the `settings` and the `patience` as fixtures of `sandbox/checks/plugin.py`; what they
   compare is a pure function in `sandbox/checks/compare.py`.
2. A word in `SHARED_CHECKS` of `sandbox/scenario/model.py`, and where scenarios name their checks.
3. Tests: `tests/unit/test_checks_compare.py` for the comparison, and
   `tests/system/test_shared_checks.py` for the check.
"""


def document() -> str:
    """What docs/architecture.md has to say."""
    library = imported_packages("sandbox", PACKAGES)
    service = imported_packages("workers", SERVICE_PACKAGES)
    return f"""\
# Architecture

This page is written by `python -m tests.support.house` from the code, and a test compares the two.

`sandbox/` is the library and the command; `workers/` is the service. The service imports the
library, never the other way round. What a package may import of its own tree is a list in
`tests/support/house.py`, which a test enforces; the tables show what it does import. In the
drawings an arrow means "imports"; arrows that follow from others are left out.

## sandbox/

Nothing lies at its root but its packages.

{_table("sandbox", library)}

{_drawing(library)}

## workers/

{_table("workers", service)}

{_drawing(service)}

{RECIPES}"""


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
    for top in ("sandbox", "workers"):
        sizes: dict[str, list[int]] = defaultdict(list)
        for path in modules(top):
            sizes[name_of(path).partition(".")[0]].append(len(path.read_text().splitlines()))
        for package, lines in sizes.items():
            print(f"{top}/{package:15} {len(lines):4} modules {sum(lines):6} lines")
        total = sum(map(sum, sizes.values()))
        print(f"{top}/{'':15} {sum(map(len, sizes.values())):4} modules {total:6} lines")
    print(f"lines that ask for the kind of hypervisor outside of hosts/: {len(kind_branches())}")
    print(f"modules outside of managers/ that know apt: {len(modules_that_know_apt())}")
    for top in ("sandbox", "workers"):
        print(f"class names that stand twice in {top}/: {repeated_classes(top)}")


if __name__ == "__main__":
    DOCUMENT.parent.mkdir(exist_ok=True)
    DOCUMENT.write_text(document())
    _print_measures()
