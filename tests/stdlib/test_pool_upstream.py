"""CPython's own tests of `multiprocessing.Pool`, run against this package's pool.

``UPSTREAM_POOL=control pytest tests/stdlib/test_pool_upstream.py`` runs the same tests over `multiprocessing.Pool`,
shims and exclusions left aside: what fails there is the harness's fault. ``UPSTREAM_START_METHOD`` is spawn (default),
forkserver or fork.
"""

from __future__ import annotations

import os

import pytest

from tests.stdlib import pool_swap, pool_table
from tests.stdlib.harness import GRACE, LIMIT, Harness
from tests.stdlib.upstream import why_missing

POOLS = {"dragonfly": "dragonfly_executor.multiprocessing:Pool", "control": "tests.stdlib.control:control_pool"}
CHOSEN = os.environ.get("UPSTREAM_POOL", "dragonfly")
HARNESS = Harness(POOLS.get(CHOSEN, CHOSEN), source=pool_swap.SOURCE)
MISSING = why_missing(pool_swap.SOURCE)

pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "upstream_id" in metafunc.fixturenames:
        metafunc.parametrize("upstream_id", [] if MISSING else HARNESS.ids())


@pytest.mark.slow
@pytest.mark.timeout(LIMIT + 4 * GRACE)
def test_upstream(upstream_id: str) -> None:
    HARNESS.check(upstream_id, pool_table.EXCLUDED if CHOSEN == "dragonfly" else {})


def test_the_table_names_tests_that_exist() -> None:
    ids = set(HARNESS.ids())
    assert set(pool_table.SHIMMED) | set(pool_table.EXCLUDED) <= ids
    assert not set(pool_table.SHIMMED) & set(pool_table.EXCLUDED)
