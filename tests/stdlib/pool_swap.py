"""Put a pool where CPython's tests build a `multiprocessing.Pool`."""

from __future__ import annotations

import importlib
import multiprocessing
import multiprocessing.pool
import unittest
from collections.abc import Callable
from typing import Any

from tests.stdlib import pool_table

SOURCE = "test._test_multiprocessing"
CASES = {
    "TestPool": "WithProcessesTestPool",
    "TestPoolWorkerErrors": "WithProcessesTestPoolWorkerErrors",
    "TestPoolWorkerLifetime": "WithProcessesTestPoolWorkerLifetime",
}
"""The classes about pools of processes, by their names in ids."""
OTHERS = {"TestInitializers.test_pool_initializer"}
"""The tests about pools in other classes."""


def load(pool: str, test_id: str | None) -> dict[str, unittest.TestCase]:
    """Import the tests with `pool` ("module:name") in place; `test_id` says which one is about to run."""
    module, _, name = pool.partition(":")
    make: Callable[..., Any] = getattr(importlib.import_module(module), name)
    if test_id in pool_table.SHIMMED and module.startswith("dragonfly_executor"):
        from tests.stdlib import pool_shims

        make = pool_shims.shim(make)
    # Before the import: the tests bind it in a class body.
    multiprocessing.Pool = make  # type: ignore[assignment]
    cases = importlib.import_module("tests.stdlib.pool_cases")
    found: dict[str, unittest.TestCase] = {}
    for short, long in CASES.items():
        kind = getattr(cases, long)
        assert not hasattr(kind, "Pool") or kind.Pool is make, f"{kind} was not reached by the swap"
        methods = unittest.defaultTestLoader.getTestCaseNames(kind)
        found |= {f"{short}.{method}": kind(method) for method in methods}
    for test in OTHERS:
        short, _, method = test.partition(".")
        found[test] = getattr(cases, short)(method)
    return found
