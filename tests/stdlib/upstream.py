"""CPython's tests of executors in this interpreter: where they are, and which of them build a process pool."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import re
import unittest
from types import ModuleType

SOURCE = "test.test_concurrent_futures"
# Classes that no start method multiplies; the last one has one method per start method.
FUTURES = "FutureTests"
RESOURCES = "FailingInitializerResourcesTest"


def why_missing(source: str = SOURCE) -> str | None:
    """Why these tests cannot be loaded here, or None if they can. Many distributions leave them out."""
    try:
        found = importlib.util.find_spec(source)
    except ModuleNotFoundError:
        found = None
    return None if found else f"this interpreter is installed without {source}"


def load_modules(source: str = SOURCE) -> list[ModuleType]:
    """Import the tests: one module until 3.11, a package of modules from 3.12 on."""
    root = importlib.import_module(source)
    if not hasattr(root, "__path__"):
        return [root]
    names = sorted(module.name for module in pkgutil.iter_modules(root.__path__))
    return [importlib.import_module(f"{source}.{name}") for name in names if "thread_pool" not in name]


def find_tests(modules: list[ModuleType], start_method: str) -> dict[str, unittest.TestCase]:
    """The tests that are about executors on processes, by id.

    An id is the same for every start method: ``ProcessPoolSpawnWaitTest`` is ``WaitTest`` in it.
    """
    found: dict[str, unittest.TestCase] = {}
    # "Fork" is the beginning of "Forkserver", too.
    pattern = re.compile(f"ProcessPool{start_method.capitalize()}(?!server)(.+)")
    for name, case in _cases(modules):
        match = pattern.fullmatch(name)
        kept = match[1] if match else name if name == FUTURES else None
        if name == RESOURCES and hasattr(case, f"test_{start_method}"):
            found[f"{name}.test_resources"] = case(f"test_{start_method}")
        elif kept is not None:
            methods = unittest.defaultTestLoader.getTestCaseNames(case)
            found.update({f"{kept}.{method}": case(method) for method in methods})
    return found


def _cases(modules: list[ModuleType]) -> list[tuple[str, type[unittest.TestCase]]]:
    named = {name: value for module in modules for name, value in vars(module).items()}
    return sorted(
        (name, value)
        for name, value in named.items()
        if isinstance(value, type) and issubclass(value, unittest.TestCase)
    )
