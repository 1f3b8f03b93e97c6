"""A drop-in for `multiprocessing.Pool` on the pools of this package.

    from dragonfly_executor.multiprocessing import Pool

    with Pool(4) as pool:
        print(pool.map(abs, range(-3, 3)))

docs/multiprocessing.md has the differences. Names of the standard library's `multiprocessing` are loaded when they are
first used (PEP 562), because importing it takes time.
"""

from __future__ import annotations

from dragonfly_executor.multiprocessing.contexts import get_context
from dragonfly_executor.multiprocessing.pool import MultiprocessingPool as Pool
from dragonfly_executor.multiprocessing.results import AsyncResult
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multiprocessing import TimeoutError, cpu_count  # noqa: A004  # multiprocessing's name
    from typing import Any

__all__ = ["AsyncResult", "Pool", "TimeoutError", "cpu_count", "get_context"]


def __getattr__(name: str) -> Any:
    if name not in ("TimeoutError", "cpu_count"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import multiprocessing

    value = globals()[name] = getattr(multiprocessing, name)
    return value
