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

PACKAGE = Path(dragonfly_executor.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

# From the bottom up: a room imports from the rooms of the lines above its own, and from itself.
LAYERS = (
    {"errors", "stdlib_json"},
    {"condition", "core", "latch", "parent"},
    {"backoff", "notebook", "payload", "printer", "questions", "screen", "threads", "transport", "versions"},
    {"future", "intake", "options", "outputs", "runner", "starting", "sync"},
    {"backends", "lifecycle", "mapping", "narrator", "performer", "release", "reports", "transfers"},
    {"hearing"},
    {"arrivals", "dialback", "lookout", "registry", "runner_link", "welcome"},
    {"booting"},
    {"boot_times"},
    {"boots"},
    {"runners"},
    {"parts"},
    {"engine"},
    {"pool"},
    {"executor"},
    {"testing", "doctor", "fleet"},
    {"command"},
    {"__main__"},
)
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
PARENTS_ONLY = {"concurrent", "logging", "queue", "subprocess", "tempfile", "threading"}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    """Full names of the modules that a file imports, anywhere in it; not what only a type checker sees."""
    waiting: list[ast.AST] = [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting += node.orelse
            continue
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            assert node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


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
    room = room_of(path)
    below: set[str] = {room}
    if room != "__init__":
        for layer in LAYERS:
            if room in layer:
                break
            below |= layer
        else:
            pytest.fail(f"the room {room!r} has no layer yet: give it one, as low as it can be")
        for name in imports(path):
            package, _, rest = name.partition(".")
            if package == "dragonfly_executor":
                assert rest.partition(".")[0] in below, f"{room} imports {name}"
    assert room in below


@pytest.mark.parametrize("path", [path for path in MODULES if room_of(path) == "core"], ids=lambda path: path.name)
def test_the_core_imports_data_modules_and_errors_and_nothing_else(path: Path) -> None:
    below = ("dragonfly_executor.core", "dragonfly_executor.errors", "dragonfly_executor.stdlib_json")
    foreign = {
        name for name in imports(path) if not name.startswith(below) and name.partition(".")[0] not in DATA_MODULES
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
    assert "dragonfly_executor.engine" not in loaded


def test_a_pool_is_light_to_make() -> None:
    loaded = loaded_by("from dragonfly_executor import DragonflyExecutor; DragonflyExecutor()")
    assert "dragonfly_executor.engine" in loaded
    assert not packages(loaded) & (HEAVY | {"socket", "typing"})


def test_a_runner_is_lighter_still() -> None:
    modules = [path for path in MODULES if room_of(path) == "runner" and path.name != "__main__.py"]
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
    assert "dragonfly_executor.pool" not in loaded_by("import dragonfly_executor")
    assert "dragonfly_executor.pool" in loaded_by("import dragonfly_executor; dragonfly_executor.Pool")
    assert "dragonfly_executor.pool" not in loaded_by("import dragonfly_executor; dragonfly_executor.Parent")


def test_backends_load_what_they_need_when_they_are_made() -> None:
    loaded = loaded_by("from dragonfly_executor import FlyBackend, SSHBackend")
    assert not packages(loaded) & HEAVY


def test_a_name_that_is_none_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Dragonfly'"):
        _ = dragonfly_executor.Dragonfly
