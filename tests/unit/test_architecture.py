"""The house's rules that a machine can check: who imports whom, what is where, how long it is."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support.paths import ROOT

SANDBOX = ROOT / "sandbox"

# Top imports down, never up; modules of one layer may import one another without a circle.
# A name stands for the module, or for the package and all in it.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("__main__",),
    ("cli",),
    ("options", "preflighting"),
    ("lab",),
    ("demo",),
    ("foreground", "listing", "removing", "guests", "doctor", "init", "disk_watch", "completing"),
    ("preflight_command",),
    ("known_bugs",),
    ("host_checks", "xen_checks", "xen_report", "first_checks"),
    ("pipeline",),
    ("inside", "evidence", "twin", "confirming"),
    ("run", "closing"),
    ("plan", "request", "hosts", "limits", "terminal", "progress"),
    ("scenario",),
    ("clone",),
    ("guest", "guest_jobs", "inject", "source", "space_guard", "admission"),
    ("preflight",),
    ("preflight_boot",),
    ("preflight_points", "preflight_parse"),
    ("upgraders", "verify", "checks", "observe", "observe_parse", "wide", "wide_parse", "autopsy"),
    ("report",),
    (
        *("verdict", "doubts", "reasons", "judged", "trust", "differences", "changes", "ranking"),
        *("forecasts", "wording", "noise"),
    ),
    ("proxy", "proxy_server", "proxy_handler", "proxy_upstream", "proxy_cache", "proxy_rules"),
    ("reaper",),
    ("volumes",),
    ("network", "reach", "ssh", "console", "ledger", "standins"),
    ("hypervisors",),
    ("store", "settings", "strict_yaml", "host"),
    ("process",),
    ("deadline",),
    ("errors", "lazy", "interruption", "listener", "standin_server"),
)
# The same for the service, which stands on all of it.
SERVICE_LAYERS: tuple[tuple[str, ...], ...] = (
    ("cli",),
    ("operations",),
    ("api", "web", "embedded", "gating"),
    ("commands",),
    (
        *("asking", "histories", "processes", "health", "units", "service_checks", "reporting"),
        "chat",
    ),
    ("intake", "fetching", "nightly", "overview", "fleet", "gate"),
    ("tasks",),
    ("turns",),
    ("housekeeping", "canary", "attempt", "keeping", "metrics", "pools"),
    ("nights", "mornings", "changes"),
    ("executors", "rehearsing", "simulated", "retention", "presence"),
    ("orders", "notify", "summary"),
    ("schedule",),
    ("sessions",),
    ("ledger", "artifacts", "tokens"),
    ("app", "database", "pool"),
    ("settings", "states", "logs", "listening"),
)
# What everybody may import, and what imports nothing of ours but these.
_RECORDS = ("records", "records.base", "records.guest", "records.run")
SHARED = (*_RECORDS, "shell", "errors", "deadline", "process")
# Who starts programs itself: sandbox.process is for those that are waited for, or run on in the
# background; these talk to one while it runs, or run where there is nothing of ours.
_TALKING = ("process", "ssh", "host", "verify", "checks.answers", "lab.commands")
STARTS_PROGRAMS = {*_TALKING, "standin_server"}
LONGEST = 400
LONGEST_RECIPE = 80
TOP_FOLDERS = {"sandbox", "workers", "scenarios", "tests"}
TOP_FILES = {"README.md", "LICENSE", "Makefile", "pyproject.toml"}
MAY_BE_THERE = {"compose.yaml"}


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


def layer_of(module: str) -> int:
    for number, layer in enumerate(LAYERS):
        if module in layer or module.partition(".")[0] in layer:
            return number
    raise AssertionError(f"sandbox/{module} has no place in the layers: give it one")


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


# -- who imports whom -------------------------------------------------------------------------


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_go_one_way(path: Path) -> None:
    module = name_of(path)
    if not module:
        assert ours(path) == set()
        return
    if module in SHARED:
        upward = ours(path) - set(SHARED)
        assert not upward, f"{module} is imported by all and imports {upward}"
        return
    for other in ours(path) - set(SHARED):
        assert layer_of(other) >= layer_of(module), f"{module} imports {other}, which is above it"


def service_layer(module: str) -> int:
    for number, layer in enumerate(SERVICE_LAYERS):
        if module.partition(".")[0] in layer:
            return number
    raise AssertionError(f"workers/{module} has no place in the layers: give it one")


def service_modules() -> dict[str, Path]:
    """``workers/ledger/leases.py`` is ``ledger.leases``; migrations are alembic's."""
    found = {}
    for path in python_files("workers"):
        parts = path.relative_to(ROOT / "workers").with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name and "migrations" not in parts:
            found[name] = path
    return found


@pytest.mark.parametrize("module", service_modules())
def test_the_services_imports_go_one_way(module: str) -> None:
    for name in imports(service_modules()[module]):
        inner = name.removeprefix("workers.")
        if name.startswith("workers.") and inner != module:
            assert service_layer(inner) >= service_layer(module), f"{module} imports {name}"


def test_every_layer_of_the_service_exists() -> None:
    known = {name.partition(".")[0] for name in service_modules()}
    assert {name for layer in SERVICE_LAYERS for name in layer} <= known


def test_nothing_imports_in_a_circle() -> None:
    graph = {name_of(p): ours(p, for_types=False) - {name_of(p)} for p in modules()}
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join((*way, module))
        if module not in done:
            for other in graph[module]:
                # A package's own parts import its __init__; that one imports them to show them.
                if other != module.partition(".")[0] and not other.startswith(f"{module}."):
                    visit(other, (*way, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_every_layer_exists() -> None:
    known = {name_of(path).partition(".")[0] for path in modules()}
    named = {name for layer in LAYERS for name in layer}
    assert named <= known, f"no such module any more: {named - known}"


FORBIDDEN = {"celery", "redis", "workers", "kombu"}


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_the_library_knows_nothing_of_the_queue(path: Path) -> None:
    assert not {name.partition(".")[0] for name in imports(path)} & FORBIDDEN


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_libvirt_is_for_drivers_and_the_demo(path: Path) -> None:
    if name_of(path).partition(".")[0] not in ("hypervisors", "demo"):
        tops = {name.partition(".")[0] for name in imports(path)}
        assert not tops & {"libvirt", "libvirt_qemu"}


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


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_programs_are_started_in_one_place(path: Path) -> None:
    started = {name for name, _call in calls(path) if STARTERS.match(name)}
    # `from subprocess import run` would hide them from the line above.
    hidden = {
        name for name in imports(path) if name.startswith(("subprocess.", "os.system", "os.popen"))
    }
    if name_of(path) not in STARTS_PROGRAMS:
        assert not started | hidden


def test_the_list_of_exceptions_is_not_longer_than_need_be() -> None:
    starting = {
        name_of(path)
        for path in modules()
        if any(STARTERS.match(name) for name, _call in calls(path))
    }
    assert starting == STARTS_PROGRAMS


@pytest.mark.parametrize("path", python_files("sandbox", "workers"), ids=relative)
def test_no_command_goes_through_a_shell(path: Path) -> None:
    for name, call in calls(path):
        assert not SHELLS.match(name), name
        for keyword in call.keywords:
            assert keyword.arg != "shell", f"{path}: {ast.unparse(call)[:80]}"


# -- what is where, and how long --------------------------------------------------------------


def tracked() -> list[Path]:
    """What git has, or would have after `git add .`; without git (an archive) every file."""
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        check=False,
    )
    if listed.returncode:
        return [path for path in ROOT.rglob("*") if path.is_file()]
    names = listed.stdout.decode().split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def test_the_top_level_is_fixed() -> None:
    relative = [path.relative_to(ROOT) for path in tracked()]
    folders = {path.parts[0] for path in relative if len(path.parts) > 1}
    files = {path.parts[0] for path in relative if len(path.parts) == 1}
    assert {name for name in folders if not name.startswith(".")} == TOP_FOLDERS
    named = {name for name in files if not name.startswith(".")}
    assert named >= TOP_FILES
    assert named <= TOP_FILES | MAY_BE_THERE


@pytest.mark.parametrize("path", python_files("sandbox", "workers", "tests"), ids=relative)
def test_a_file_has_one_job(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= LONGEST, f"{lines} lines: split it by job"


def test_no_two_files_of_tests_have_one_name() -> None:
    """pytest refuses to load both into one session."""
    counted = Counter(path.name for path in python_files("tests") if path.name != "conftest.py")
    assert [name for name, times in counted.items() if times > 1] == []


def test_the_recipe_fits_a_screen() -> None:
    for node in ast.walk(parsed(SANDBOX / "pipeline.py")):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno + 1 < LONGEST_RECIPE, node.name


SKIPPED = re.compile(r"^pytest\.(mark\.(skip|skipif|xfail)|skip|xfail|importorskip)$")


@pytest.mark.parametrize("path", python_files("sandbox", "workers"), ids=relative)
def test_no_exception_is_swallowed(path: Path) -> None:
    """What may be ignored is named, in a `contextlib.suppress` with its reason."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, "a bare except catches Ctrl-C as well"
            assert not all(isinstance(step, ast.Pass) for step in node.body), node.lineno


@pytest.mark.parametrize("path", python_files("tests"), ids=relative)
def test_no_test_is_skipped(path: Path) -> None:
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Attribute):
            assert not SKIPPED.match(ast.unparse(node)), node.lineno


# -- nothing of this machine ------------------------------------------------------------------


def registry_hosts() -> set[str]:
    """The hosts that this machine's own package managers are told to use."""
    found = set()
    apt = Path("/etc/apt")
    files = [apt / "sources.list", *(apt / "sources.list.d").glob("*")]
    for file in files:
        if file.is_file():
            found |= set(re.findall(r"https?://([^/\s]+)", file.read_text(errors="replace")))
    asked = subprocess.run(
        [
            sys.executable,
            "-c",
            "from pip._internal.models.index import PyPI as p; print(p.url, p.file_storage_domain)",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    words = asked.stdout.split()
    found |= {re.sub(r"^https?://([^/]*).*", r"\1", word) for word in words}
    return {host for host in found if "." in host}


def test_no_package_registry_is_named() -> None:
    """Hosts come from the machine that this runs on; examples use example.org."""
    hosts = registry_hosts()
    assert hosts, "this machine has no package sources: nothing was checked"
    pattern = re.compile("|".join(map(re.escape, sorted(hosts))))
    named = [
        f"{path.relative_to(ROOT)}: {found.group()}"
        for path in tracked()
        if (found := pattern.search(path.read_text(errors="replace")))
    ]
    assert named == []


def test_no_path_of_this_checkout_is_named() -> None:
    pattern = re.compile(rf"(?<![\w.-]){re.escape(str(ROOT.parent))}/")
    named = [p for p in tracked() if pattern.search(p.read_text(errors="replace"))]
    assert named == []
