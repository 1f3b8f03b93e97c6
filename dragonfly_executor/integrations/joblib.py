"""The joblib backend "dragonfly": calls of `joblib.Parallel`, and so of scikit-learn, run on runners.

Importing this module registers the backend:

    import dragonfly_executor.integrations.joblib
    from joblib import parallel_config

    with parallel_config("dragonfly", executor=executor):
        GridSearchCV(model, grid).fit(X, y)
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from joblib import register_parallel_backend
from joblib.parallel import AutoBatchingMixin, FallbackToBackend, ParallelBackendBase, SequentialBackend

from dragonfly_executor.api.executor import DragonflyExecutor, PoolExecutor

NAME = "dragonfly"


class DragonflyJoblibBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]  # joblib has no types
    """Runs the batches of `joblib.Parallel` as calls of an executor.

    `n_jobs` is the number of jobs that joblib plans for; -1, the default, stands for all that the executor may run at
    once. joblib hands over twice as many batches in advance (``pre_dispatch``). How many run at once is the executor's
    business. With ``n_jobs=1`` the calls run here, one after another, as with joblib's own backends.

    A `Parallel` inside of a call uses threads, and inside of those runs its calls one after another.

    Args:
        nesting_level, inner_max_num_threads: see joblib. The threads of numeric libraries are limited in each call.
        executor: runs the calls, and is left as it is afterwards. It may be a view: ``executor.options(retries=2)``.
        options: options for an executor of the backend's own, which lives as long as the backend, so as long as the
            block of ``parallel_config``. Not together with `executor`.

    Raises:
        TypeError: `executor` is no executor of this package, or was given with options.
    """

    default_n_jobs = -1
    supports_retrieve_callback = True
    supports_inner_max_num_threads = True

    def __init__(
        self,
        nesting_level: int | None = None,
        inner_max_num_threads: int | None = None,
        executor: Executor | None = None,
        **options: Any,
    ) -> None:
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        if executor is not None and options:
            raise TypeError(f"an executor that exists takes no options: leave out {', '.join(options)}")
        if executor is not None and not isinstance(executor, PoolExecutor):
            raise TypeError(f"executor must be a DragonflyExecutor, not {executor!r}")
        self._executor: PoolExecutor | None = executor
        self._executor_options = options
        self._lock = threading.Lock()
        self._futures: set[Future[Any]] = set()

    def configure(  # pyright: ignore[reportIncompatibleMethodOverride]  # joblib's method has no types
        self, n_jobs: int = 1, parallel: Any = None, prefer: Any = None, require: Any = None, **options: Any
    ) -> int:
        """Prepare for a call of `parallel`, and return the number of jobs to plan for."""
        jobs = self.effective_n_jobs(n_jobs)
        if n_jobs == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        self.parallel = parallel
        # joblib runs the calls in this process if there is one job.
        return max(2, jobs)

    def effective_n_jobs(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, n_jobs: int | None
    ) -> int:
        """Return the number of jobs to plan for.

        Raises:
            ValueError: `n_jobs` is 0.
        """
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None:
            return 1
        return n_jobs if n_jobs > 0 else max(1, self._pool_executor().pool.max_calls + 1 + n_jobs)

    def submit(self, func: Callable[[], Any], callback: Callable[[Any], Any] | None = None) -> Future[Any]:
        """Submit a batch."""
        if self.inner_max_num_threads is not None:
            func = _WithThreads(func, self.inner_max_num_threads)
        future = self._pool_executor().submit(func)
        with self._lock:
            self._futures.add(future)
        future.add_done_callback(self._forget)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    def retrieve_result_callback(self, out: Future[Any]) -> Any:
        """Return the results of a batch, or raise its error."""
        return out.result()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Stop all batches of this backend. Running calls are killed."""
        with self._lock:
            futures = [*self._futures]
        for future in futures:
            future.cancel()

    def terminate(self) -> None:
        """End a call of `Parallel`. The executor stays for the next one."""
        self.reset_batch_stats()
        # `parallel` references this backend: without it, the executor goes when the last reference to the backend goes.
        self.parallel = None

    def _pool_executor(self) -> PoolExecutor:
        with self._lock:
            if self._executor is None:
                self._executor = DragonflyExecutor(**self._executor_options)
            return self._executor

    def _forget(self, future: Future[Any]) -> None:
        with self._lock:
            self._futures.discard(future)


class _WithThreads:
    """A batch whose numeric libraries use this many threads at most."""

    def __init__(self, batch: Callable[[], Any], threads: int) -> None:
        self._batch, self._threads = batch, threads

    def __call__(self) -> Any:
        # For libraries that are loaded later, and for child processes.
        os.environ.update(dict.fromkeys(ParallelBackendBase.MAX_NUM_THREADS_VARS, str(self._threads)))
        try:
            from threadpoolctl import threadpool_limits
        except ImportError:
            return self._batch()
        with threadpool_limits(self._threads):
            return self._batch()


def register() -> None:
    """Register the backend with joblib, as the import of this module does."""
    register_parallel_backend(NAME, DragonflyJoblibBackend)


register()
