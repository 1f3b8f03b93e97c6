"""Run one upstream test in an interpreter of its own: ``python -m tests.stdlib.one --report FILE ID``.

A test that hangs, crashes or leaves threads behind can then harm no other one.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import resource
import sys
import traceback
import unittest
from pathlib import Path
from typing import Any


def main() -> None:
    options = _options()
    # Crashing a slot is what many of these tests do; their memory images are of no use.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if options.limit:
        faulthandler.dump_traceback_later(options.limit, exit=True)
    # Imported late, so that the children that `spawn` starts from this main module stay as light as upstream's.
    from tests.stdlib import pool_swap, swap

    if options.source == pool_swap.SOURCE:
        tests = pool_swap.load(options.executor, options.id)
    else:
        tests = swap.load(options.executor, options.start_method, options.source, options.id)
    report: Any = sorted(tests) if options.id is None else _run(tests[options.id])
    Path(options.report).write_text(json.dumps(report), encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--executor", required=True, help="module:name that is put in the standard class's place")
    parser.add_argument("--start-method", default="spawn")
    parser.add_argument("--source", required=True, help="the module or package that has the tests")
    parser.add_argument(
        "--report", required=True, help="JSON file that is written: an outcome, or all ids if none is given"
    )
    parser.add_argument(
        "--limit", type=float, default=0, help="seconds until all stacks are dumped and the process ends"
    )
    parser.add_argument("id", nargs="?")
    return parser.parse_args()


class _Told(unittest.TestResult):
    """Says at once what went wrong: a test that failed half way may well hang after that."""

    def addError(self, test: Any, err: Any) -> None:  # noqa: N802  # unittest's names
        super().addError(test, err)
        traceback.print_exception(*err)

    def addFailure(self, test: Any, err: Any) -> None:  # noqa: N802
        super().addFailure(test, err)
        traceback.print_exception(*err)


def _run(test: unittest.TestCase) -> tuple[str, str]:
    result = _Told()
    unittest.TestSuite([test]).run(result)
    for _, detail in result.errors + result.failures:
        return "failed", detail
    for _, reason in result.skipped:
        return "skipped", reason
    # What CPython's own test runner calls "env changed": threads or processes were left behind.
    support = sys.modules.get("test.support")
    if support is not None and support.environment_altered:
        return "failed", "it left threads or processes behind (see output)"
    return "passed", ""


if __name__ == "__main__":
    main()
