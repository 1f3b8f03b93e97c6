"""The controls: upstream's own executor and pool, put in place the way ours are.

What fails with this class fails because of the harness, not because of an executor.
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from typing import Any

upstream_pool = multiprocessing.Pool  # before the swap


class ControlExecutor(ProcessPoolExecutor):
    """A `ProcessPoolExecutor` under another name and from another module, so that the swap itself is tested."""


def control_pool(*args: Any, **options: Any) -> Any:
    """Make a `multiprocessing.Pool` under another name."""
    return upstream_pool(*args, **options)
