"""The house's rules that a machine can check: who imports whom, what is where, how long it is."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.support.house import (
    DOCUMENT,
    PACKAGES,
    RECIPES,
    ROOT_MODULES,
    SANDBOX,
    SERVICE_PACKAGES,
    document,
    imports,
    modules,
    name_of,
    ours,
    parsed,
    python_files,
    relative,
    repeated_classes,
)
from tests.support.paths import ROOT

# Who starts programs itself: sandbox.core.process is for those that are waited for, or run on in
# the background; these talk to one while it runs, or run where there is nothing of ours.
_TALKING = ("core.process", "clone.ssh", "hosts.transport", "checks.runner", "checks.answers")
STARTS_PROGRAMS = {*_TALKING, "demo.lab.commands", "network.stand_in_server"}
TREES = [("sandbox", PACKAGES), ("workers", SERVICE_PACKAGES)]
LONGEST = 400
LONGEST_RECIPE = 80


# -- who imports whom -------------------------------------------------------------------------


@pytest.mark.parametrize(("top", "packages"), TREES)
def test_imports_go_one_way(top: str, packages: dict[str, set[str]]) -> None:
    """From package to package as the table allows it; whose table has no circle."""
    wrong = [
        f"{module} imports {other}"
        for path in modules(top)
        if (module := name_of(path)) not in ROOT_MODULES
        for other in ours(path)
        if (package := other.partition(".")[0]) != (own := module.partition(".")[0])
        if package not in packages[own]
    ]
    assert wrong == []
    assert list(TopologicalSorter(packages).static_order())


@pytest.mark.parametrize(("top", "packages"), TREES)
def test_every_module_is_in_a_package_that_says_what_it_is_for(
    top: str, packages: dict[str, set[str]]
) -> None:
    assert {name_of(path).partition(".")[0] for path in modules(top)} - ROOT_MODULES == {*packages}
    silent = [
        relative(path)
        for path in modules(top)
        if path.name == "__init__.py" and not ast.get_docstring(parsed(path))
    ]
    assert silent == []


@pytest.mark.parametrize("top", ["sandbox", "workers"])
def test_a_class_name_stands_once_in_a_tree(top: str) -> None:
    assert repeated_classes(top) == {}


@pytest.mark.parametrize("top", ["sandbox", "workers"])
def test_nothing_imports_in_a_circle(top: str) -> None:
    graph = {name_of(p): ours(p, for_types=False) - {name_of(p)} for p in modules(top)}
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join((*way, module))
        if module not in done:
            for other in graph[module]:
                # A package's own parts import its __init__; that one imports them to show them.
                if not f"{module}.".startswith(f"{other}.") and not other.startswith(f"{module}."):
                    visit(other, (*way, module))
            done.add(module)

    for module in graph:
        visit(module, ())


FORBIDDEN = {"celery", "redis", "workers", "kombu"}


def tops(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports(path)}


def test_the_library_knows_nothing_of_the_queue() -> None:
    assert [name_of(path) for path in modules() if tops(path) & FORBIDDEN] == []


def test_libvirt_is_for_drivers_and_the_demo() -> None:
    using = {name_of(path) for path in modules() if tops(path) & {"libvirt", "libvirt_qemu"}}
    assert {name for name in using if not name.startswith(("hosts.drivers", "demo"))} == set()


def test_libvirts_drivers_are_imported_when_they_are_used() -> None:
    """What needs no hypervisor runs, and is tested, where libvirt is not installed."""
    drivers = {"libvirt_base", "libvirt_qemu", "libvirt_xen"}
    eager = [
        f"{relative(path)} imports {node.module}"
        for path in python_files("sandbox", "workers", "tests/unit", "tests/support/fakes")
        if path.stem not in {*drivers, "run_fixtures"}
        for node in parsed(path).body
        if isinstance(node, ast.ImportFrom) and str(node.module).rpartition(".")[2] in drivers
    ]
    assert eager == []


def test_the_drawing_of_the_house_is_true() -> None:
    assert DOCUMENT.read_text() == document(), "python -m tests.support.house writes it anew"


def test_the_recipes_name_what_is_there() -> None:
    """Files that exist, and names that stand in the file before them."""
    text = RECIPES.replace("NAME", "")
    for path in re.findall(r"`([\w/]+\.py)`", text):
        assert (ROOT / path).exists() or path.endswith(("/.py", "test_.py")), path
    named = re.findall(r"`(\w+)`\s+(?:of|in|implements)?\s*`([\w/]+\.py)`", text)
    assert len(named) >= 4
    for name, path in named:
        assert name in (ROOT / path).read_text(), (name, path)


def test_observations_and_checks_are_compared_in_one_place() -> None:
    """Every judge and report reads the assessment; a recipe under way asks which checks broke."""
    comparing = {
        name_of(path)
        for path in modules("sandbox")
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("compare", "compare_checks", "without_drift")
    }
    assert comparing == {"verdict.assessment", "verdict.flakiness"}


# -- how programs are started -----------------------------------------------------------------


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


STARTERS = re.compile(
    r"^(subprocess\.(Popen|run|call|check_call|check_output|getoutput|getstatusoutput)"
    r"|os\.(system|popen|exec\w+|spawn\w+|posix_spawn\w*|fork|forkpty)|pty\.spawn"
    r"|asyncio\.create_subprocess_\w+)$"
)
SHELLS = re.compile(
    r"^(os\.(system|popen)|subprocess\.get(status)?output|.*create_subprocess_shell)$"
)


def started_by(path: Path) -> set[str]:
    started = {name for name, _call in calls(path) if STARTERS.match(name)}
    # `from subprocess import run` would hide them from the line above.
    hidden = ("subprocess.", "os.system", "os.popen")
    return started | {name for name in imports(path) if name.startswith(hidden)}


def test_programs_are_started_in_one_place() -> None:
    starting = {name_of(path): started_by(path) for path in modules()}
    assert {k: v for k, v in starting.items() if v and k not in STARTS_PROGRAMS} == {}


def test_the_list_of_exceptions_is_not_longer_than_need_be() -> None:
    starting = {
        name_of(path)
        for path in modules()
        if any(STARTERS.match(name) for name, _call in calls(path))
    }
    assert starting == STARTS_PROGRAMS


def test_no_command_goes_through_a_shell() -> None:
    through = [
        f"{relative(path)}: {ast.unparse(call)[:80]}"
        for path in python_files("sandbox", "workers")
        for name, call in calls(path)
        if SHELLS.match(name) or any(keyword.arg == "shell" for keyword in call.keywords)
    ]
    assert through == []


# -- what is where, and how long --------------------------------------------------------------


def test_a_file_has_one_job() -> None:
    long = {
        relative(path): lines
        for path in python_files("sandbox", "workers", "tests")
        if (lines := len(path.read_text().splitlines())) > LONGEST
    }
    assert long == {}, "split them by job"


def test_the_recipe_fits_a_screen() -> None:
    for node in ast.walk(parsed(SANDBOX / "rehearsal/recipe.py")):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno + 1 < LONGEST_RECIPE, node.name


SKIPPED = re.compile(r"^pytest\.(mark\.(skip|skipif|xfail)|skip|xfail|importorskip)$")


def handlers() -> Iterator[tuple[str, ast.ExceptHandler]]:
    for path in python_files("sandbox", "workers"):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.ExceptHandler):
                yield f"{relative(path)}:{node.lineno}", node


def test_no_exception_is_swallowed() -> None:
    """What may be ignored is named, in a `contextlib.suppress` with its reason."""
    swallowed = [
        where for where, node in handlers() if all(isinstance(step, ast.Pass) for step in node.body)
    ]
    assert swallowed == []


def test_no_handler_catches_ctrl_c_by_the_way() -> None:
    assert [where for where, node in handlers() if node.type is None] == []


def test_no_test_is_skipped() -> None:
    skipped = [
        f"{relative(path)}:{node.lineno}"
        for path in python_files("tests")
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Attribute) and SKIPPED.match(ast.unparse(node))
    ]
    assert skipped == []


# -- the tests themselves ---------------------------------------------------------------------


def test_tests_are_imported_as_a_package() -> None:
    """By their whole names: no path is bent, and two files may have one name."""
    bent = [
        relative(path)
        for path in python_files("tests")
        for name, _call in calls(path)
        if name.startswith("sys.path.")
    ]
    assert bent == []


def test_what_tests_share_is_in_support() -> None:
    """Fixtures come by a conftest's imports, helpers by their own."""
    plugins = [
        relative(path)
        for path in python_files("tests")
        for node in parsed(path).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytest_plugins"
    ]
    assert plugins == []


def test_support_stands_on_no_test() -> None:
    """A helper that a test has too is the helper's, and the test imports it."""
    upward = [
        f"{relative(path)} imports {name}"
        for path in python_files("tests/support")
        for name in imports(path)
        if re.match(r"tests\.(?!support\.)\w+\.", name)
    ]
    assert upward == []
