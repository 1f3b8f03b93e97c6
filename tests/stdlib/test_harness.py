"""The harness itself: a control that cannot fail proves nothing."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from tests.stdlib import table
from tests.stdlib.harness import Harness
from tests.stdlib.upstream import SOURCE, why_missing

CONTROL = Harness("tests.stdlib.control:ControlExecutor", source="tests.stdlib.sample", limit=20)
IMPATIENT = replace(CONTROL, limit=2, grace=0.5)


@pytest.mark.parametrize(
    ("harness", "name", "outcome", "detail"),
    [
        (CONTROL, "passes", "passed", ""),
        (CONTROL, "fails", "failed", "AssertionError: as expected"),
        (CONTROL, "skips", "skipped", "as expected"),
        (IMPATIENT, "hangs", "failed", "in test_hangs"),
        (CONTROL, "crashes", "failed", "exit status -6"),
        (IMPATIENT, "hangs_at_exit", "failed", "in _shutdown"),
        (IMPATIENT, "leaves_process", "failed", "left behind: psutil.Process"),
        (CONTROL, "leaves_thread", "failed", "left threads or processes behind"),
        (CONTROL, "loses_error", "failed", "on stderr: Exception in thread"),
    ],
)
def test_outcomes(harness: Harness, name: str, outcome: str, detail: str) -> None:
    got = harness.run(f"SampleTest.test_{name}")
    assert got[0] == outcome
    assert detail in got[1]


def test_ids_do_not_name_the_start_method() -> None:
    assert "SampleTest.test_passes" in CONTROL.ids()


def test_missing_tests_are_named() -> None:
    assert why_missing("test.no_such_tests") == "this interpreter is installed without test.no_such_tests"
    assert why_missing("no_such_package.tests") is not None
    assert why_missing("tests.stdlib.sample") is None


@pytest.mark.skipif(why_missing() is not None, reason=str(why_missing()))
@pytest.mark.skipif(sys.version_info[:2] != (3, 13), reason="the table is kept against the tests of 3.13")
def test_table_names_tests_that_exist() -> None:
    ids = set(replace(CONTROL, source=SOURCE).ids())
    ids |= {f"{test_id.partition('.')[0]}.*" for test_id in ids}
    assert set(table.SHIMMED) | set(table.EXCLUDED) <= ids
    assert not set(table.SHIMMED) & set(table.EXCLUDED)
