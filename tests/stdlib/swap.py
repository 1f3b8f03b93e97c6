"""Put an executor where CPython's tests build a `ProcessPoolExecutor`: in their classes, modules and scripts."""

from __future__ import annotations

import importlib
import os
import sys
import unittest
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.stdlib import table, upstream

ROOT = Path(__file__).parents[2]


def load(executor: str, start_method: str, source: str, test_id: str | None) -> dict[str, unittest.TestCase]:
    """Import the tests with `executor` ("module:Class") in place; `test_id` says which one is about to run.

    Only a test that the table of shims names gets more than the bare class.
    """
    kind = _resolve(executor)
    shimmed = test_id is not None and table.shim_of(test_id) is not None and kind.__name__ == "DragonflyExecutor"
    if shimmed:
        from tests.stdlib import shims

        shims.before_import()
        kind = shims.ShimmedExecutor
    # Before the import: the tests bind the class in their class bodies.
    futures.ProcessPoolExecutor = kind  # type: ignore[misc]
    modules = upstream.load_modules(source)
    for module in modules:
        _rewrite_scripts(module, executor)
    if not issubclass(kind, ProcessPoolExecutor):
        # Upstream leaves out what hangs in its own class, by comparing with this name: ours is to run it.
        futures.ProcessPoolExecutor = type(kind.__name__, (kind,), {})  # type: ignore[misc]
    tests = upstream.find_tests(modules, start_method)
    for test in tests.values():
        assert getattr(test, "executor_type", kind) is kind, f"{test} was not reached by the swap"
    if shimmed:
        shims.install(tests[str(test_id)])
    return tests


def _resolve(spec: str) -> type[futures.Executor]:
    module, _, name = spec.partition(":")
    kind = getattr(importlib.import_module(module), name)
    assert issubclass(kind, futures.Executor)
    return kind


def _rewrite_scripts(module: ModuleType, executor: str) -> None:
    """Scripts that a test runs import the class by its name; here they get it from where it is."""
    original: Callable[..., Any] | None = getattr(module, "assert_python_ok", None)
    if original is None:
        return
    origin, _, name = executor.partition(":")

    def assert_python_ok(*args: str, **env: str) -> Any:
        *flags, script = args
        assert f"from concurrent.futures import {name}" in script
        script = script.replace(f"from concurrent.futures import {name}", f"from {origin} import {name}")
        if "multiprocessing.set_start_method" in script:
            script = f"import multiprocessing\n{script}"  # upstream forgot it, where upstream never runs
        env.setdefault("PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, sys.path)]))
        return original(*flags, script, **env)

    module.assert_python_ok = assert_python_ok  # type: ignore[attr-defined]
