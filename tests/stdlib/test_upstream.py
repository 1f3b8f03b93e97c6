"""CPython's own executor tests, run against this package's executor.

``UPSTREAM_EXECUTOR=control pytest tests/stdlib`` runs the same tests over `ProcessPoolExecutor`, shims and exclusions
left aside: what fails there is the harness's fault. ``UPSTREAM_START_METHOD`` is spawn (default), forkserver or fork.
"""

from __future__ import annotations

import os

import pytest

from tests.stdlib import table
from tests.stdlib.harness import GRACE, LIMIT, Harness
from tests.stdlib.upstream import why_missing

EXECUTORS = {
    "dragonfly": "dragonfly_executor:DragonflyExecutor",
    "control": "tests.stdlib.control:ControlExecutor",
}
CHOSEN = os.environ.get("UPSTREAM_EXECUTOR", "dragonfly")
HARNESS = Harness(EXECUTORS.get(CHOSEN, CHOSEN), os.environ.get("UPSTREAM_START_METHOD", "spawn"))
MISSING = why_missing()

pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "upstream_id" in metafunc.fixturenames:
        metafunc.parametrize("upstream_id", [] if MISSING else HARNESS.ids())


@pytest.mark.slow
@pytest.mark.timeout(LIMIT + 4 * GRACE)
def test_upstream(upstream_id: str) -> None:
    HARNESS.check(upstream_id, table.EXCLUDED if CHOSEN == "dragonfly" else {})
