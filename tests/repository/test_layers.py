"""Which room may import which, and what an import drags in."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import dragonfly_executor
from dragonfly_executor.runner import common_imports

PACKAGE = Path(dragonfly_executor.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

# From the bottom up: a room imports from the rooms on the floors below its own, and from itself. That holds for the
# type checker's imports as well.
FLOORS = (
    {"util"},
    {"errors"},
    {"core", "protocol"},
    {"serialization", "simulation", "transport"},
    {"runner", "sync"},
    {"backends", "dashboard"},
    {"engine"},
    {"api"},
    {"cli", "integrations", "multiprocessing", "testing"},
)
# Names for users. Nothing in the package imports them.
FACADE = {"__init__", "__main__", "parent", "pytest_plugin"}
# What decides or parses imports data modules alone. These of the protocol look at the process that they are in.
LIGHT = ("util.lazy_typing", "util.plain_enum")
"""What stands in the place of data modules that take long to import."""
IMPURE = {"protocol/parent.py", "protocol/stdlib_json.py", "protocol/versions.py"}
# The standard library's data modules: what holds, orders and computes values, and does nothing.
DATA_MODULES = {
    "__future__", "bisect", "collections", "dataclasses", "enum", "functools", "heapq", "hmac", "itertools",
    "json", "math", "operator", "struct", "types", "typing",
}  # fmt: skip
HEAVY = {
    "asyncio", "cloudpickle", "cryptography", "dill", "httpx", "multiprocessing", "numpy", "paramiko", "ssl",
    "tenacity",
}  # fmt: skip
# What the parent may load and a runner has no use for.
IN_CALLS = {"child_calls", "child_executor", "child_future"}
"""Modules of the runner that are loaded only in slots whose calls submit calls, and that need `concurrent.futures`."""
PARENTS_ONLY = {"concurrent", "logging", "queue", "subprocess", "tempfile", "threading"}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def is_pure(path: Path) -> bool:
    name = str(path.relative_to(PACKAGE))
    return name in ("util/plain_enum.py", "util/terminal_text.py") or (
        room_of(path) in ("core", "protocol") and name not in IMPURE
    )


def imports(path: Path, *, types: bool) -> Iterator[str]:
    """Full names of what a file imports, anywhere in it; with `types`, of what only a type checker sees as well."""
    waiting: list[ast.AST] = [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not types:
            waiting += node.orelse
            continue
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            assert node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imports_from_above(path: Path) -> set[str]:
    """What a file imports of the package from a room that is not on a floor below its own."""
    room = room_of(path)
    below = {room}
    for floor in FLOORS:
        if room in floor:
            break
        below |= floor
    else:
        pytest.fail(f"the room {room!r} has no floor yet: give it one, as low as it can be")
    names = {name.partition(".")[2] for name in imports(path, types=True) if name.startswith("dragonfly_executor.")}
    return {name for name in names if name.partition(".")[0] not in below}


def import_graph() -> dict[str, set[str]]:
    """By module, the modules of the package that it imports, wherever the import stands and whoever sees it."""
    modules = {f"dragonfly_executor.{name_of(path)}".removesuffix(".__init__"): path for path in MODULES}
    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        names = imports(path, types=True)
        # Of `from a.b import c`: the module a.b.c if there is one, else a.b.
        found = {name if name in modules else name.rpartition(".")[0] for name in names}
        graph[module] = (found & modules.keys()) - {module}
    return graph


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Return the sets of modules that reach each other: the strongly connected components with more than one member."""
    order: list[str] = []
    reached: set[str] = set()

    def visit(module: str, arrows: dict[str, set[str]], ended: list[str]) -> None:
        """Append what is reached from here and was not reached before, each module after those that it leads to."""
        waiting = [(module, iter(arrows[module]))]
        reached.add(module)
        while waiting:
            here, others = waiting[-1]
            other = next((other for other in others if other not in reached), None)
            if other is None:
                ended.append(here)
                waiting.pop()
            else:
                reached.add(other)
                waiting.append((other, iter(arrows[other])))

    for module in graph:
        if module not in reached:
            visit(module, graph, order)
    reversed_graph: dict[str, set[str]] = {module: set() for module in graph}
    for module, others in graph.items():
        for other in others:
            reversed_graph[other].add(module)
    reached.clear()
    components: list[set[str]] = []
    for module in reversed(order):
        if module not in reached:
            members: list[str] = []
            visit(module, reversed_graph, members)
            components.append(set(members))
    return [component for component in components if len(component) > 1]


def loaded_by(statement: str) -> set[str]:
    """Modules that a fresh interpreter loads for a statement."""
    program = f"import sys; sys.path[:] = {sys.path!r}; {statement}; loaded = [*sys.modules]; import json; "
    # Without site: what a .pth file loads is not ours.
    command = [sys.executable, "-S", "-c", program + "print(json.dumps(loaded))"]
    output = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
    return set(json.loads(output))


def packages(modules: set[str]) -> set[str]:
    return {module.partition(".")[0] for module in modules}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path: Path) -> None:
    if room_of(path) not in FACADE:
        assert imports_from_above(path) == set()


def test_no_modules_import_each_other() -> None:
    """In a room and between rooms, imports for the type checker and imports inside functions included."""
    assert circles(import_graph()) == []


def test_circles_are_found() -> None:
    graph = {"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": {"e"}, "e": {"f", "b2"}, "f": {"e"}, "b2": set()}
    assert sorted(map(sorted, circles(graph))) == [["a", "b", "c"], ["e", "f"]]


@pytest.mark.parametrize("path", [path for path in MODULES if is_pure(path)], ids=lambda path: path.name)
def test_the_core_imports_data_modules_and_errors_and_nothing_else(path: Path) -> None:
    below = tuple(f"dragonfly_executor.{name}" for name in ("core", "protocol", "errors", *LIGHT))
    foreign = {
        name
        for name in imports(path, types=False)
        if not name.startswith(below) and name.partition(".")[0] not in DATA_MODULES
    }
    assert foreign == set()


def test_the_package_is_light_to_import() -> None:
    loaded = loaded_by("import dragonfly_executor")
    assert not packages(loaded) & HEAVY
    # How long an import takes depends on the machine; how much it loads does not.
    assert len(loaded) < len(loaded_by("import concurrent.futures.process"))


def test_the_executor_is_light_to_import() -> None:
    loaded = loaded_by("from dragonfly_executor import DragonflyExecutor, LocalBackend, Parent, Pool")
    assert not packages(loaded) & HEAVY
    # Small, but slow to load: a first call would wait for it.
    assert "typing" not in loaded
    # Half of the package is loaded when a pool is made.
    assert "dragonfly_executor.engine.engine" not in loaded


def test_a_pool_is_light_to_make() -> None:
    make = "from dragonfly_executor import DragonflyExecutor; pool = DragonflyExecutor().pool"
    loaded = loaded_by(make)
    assert not loaded & {"dragonfly_executor.engine.engine", "dragonfly_executor.core.machine", "pickle", "json"}
    loaded = loaded_by(f"{make}; pool.stats()")
    assert "dragonfly_executor.engine.engine" in loaded
    assert not packages(loaded) & (HEAVY | {"socket", "typing"})


def test_a_pool_for_multiprocessing_programs_is_light_to_import() -> None:
    """It loads the standard library's multiprocessing when a name of it is used; and nobody else loads it."""
    loaded = loaded_by("from dragonfly_executor.multiprocessing import Pool; Pool")
    assert "dragonfly_executor.multiprocessing.pool" in loaded
    assert not packages(loaded) & (HEAVY | {"socket", "typing"})
    executors = loaded_by("from dragonfly_executor import DragonflyExecutor; DragonflyExecutor()")
    assert not {name for name in executors if name.startswith("dragonfly_executor.multiprocessing")}


def test_types_cost_nothing_when_calls_run() -> None:
    """Their parameters are named for type checkers alone: neither `typing` nor the types of options are loaded."""
    calls = "executor.options(timeout=30).submit(abs, -1).result(); list(executor.map(abs, [1])); executor.shutdown()"
    loaded = loaded_by(f"from dragonfly_executor import DragonflyExecutor; executor = DragonflyExecutor(1); {calls}")
    assert not loaded & {"typing", "inspect", "dragonfly_executor.engine.option_keywords"}


def test_a_runner_is_lighter_still() -> None:
    modules = [path for path in MODULES if room_of(path) == "runner" and path.stem not in {"__main__", *IN_CALLS}]
    names = [f"dragonfly_executor.runner.{path.stem}" for path in modules if path.stem != "__init__"]
    loaded = loaded_by("import " + ", ".join(names))
    assert set(names) <= loaded
    assert not packages(loaded) & (HEAVY | PARENTS_ONLY | {"typing"})
    assert "socket" not in loaded_by("import dragonfly_executor.runner.agent")
    assert not {name for name in loaded if name.startswith("dragonfly_executor.backends")}


@pytest.mark.parametrize("name", dragonfly_executor.__all__)
def test_each_public_name_is_there(name: str) -> None:
    assert getattr(dragonfly_executor, name) is not None
    assert name in dir(dragonfly_executor)


def test_public_names_are_loaded_when_they_are_used() -> None:
    assert "dragonfly_executor.api.pool" not in loaded_by("import dragonfly_executor")
    assert "dragonfly_executor.api.pool" in loaded_by("import dragonfly_executor; dragonfly_executor.Pool")
    assert "dragonfly_executor.api.pool" not in loaded_by("import dragonfly_executor; dragonfly_executor.Parent")


def test_backends_load_what_they_need_when_they_are_made() -> None:
    loaded = loaded_by("from dragonfly_executor import FlyBackend, SSHBackend")
    assert not packages(loaded) & HEAVY


def test_a_name_that_is_none_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Dragonfly'"):
        _ = dragonfly_executor.Dragonfly


def test_an_agent_loads_nothing_that_only_its_calls_may_need() -> None:
    """It would take milliseconds of each cold start. All slots but the first get it from the agent."""
    loaded = loaded_by("import dragonfly_executor.runner.__main__, dragonfly_executor.runner.process_title")
    assert not loaded & set(common_imports.MODULES)
