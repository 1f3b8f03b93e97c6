"""The executors of other projects. Each is measured if it is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.adapters import Adapter, NotMeasured


class Loky(Adapter):
    """loky's executor: the standard library's design, made more robust; it pickles with cloudpickle."""

    library = "loky"
    statement = "from loky.process_executor import ProcessPoolExecutor"
    make = "ProcessPoolExecutor({workers})"


class Mpire(Adapter):
    """mpire's pool with fork. Without `keep_alive` it starts its processes again for each map."""

    library = "mpire"
    statement = "from mpire import WorkerPool"
    make = "WorkerPool(n_jobs={workers}, keep_alive=True)"
    first = "pool.apply(abs, (-1,))"

    def submit(self, fn: Callable[..., Any], *args: Any) -> Callable[[], Any]:
        return self.pool.apply_async(fn, args).get  # type: ignore[no-any-return]

    def map(self, fn: Callable[..., Any], values: Iterable[Any], chunksize: int) -> list[Any]:
        return self.pool.map(fn, values, chunk_size=chunksize)  # type: ignore[no-any-return]

    def map_unsized(self, fn: Callable[..., Any], values: Iterable[Any]) -> list[Any]:
        return self.pool.map(fn, values)  # type: ignore[no-any-return]

    def close(self) -> None:
        self.pool.stop_and_join()


class Pebble(Adapter):
    """Pebble's pool with fork. It can stop running calls, as this project can."""

    library = "pebble"
    statement = "from multiprocessing import get_context; from pebble import ProcessPool"
    make = "ProcessPool({workers}, context=get_context('fork'))"
    first = "pool.schedule(abs, args=(-1,)).result()"

    def submit(self, fn: Callable[..., Any], *args: Any) -> Callable[[], Any]:
        return self.pool.schedule(fn, args=args).result  # type: ignore[no-any-return]

    def map(self, fn: Callable[..., Any], values: Iterable[Any], chunksize: int) -> list[Any]:
        return list(self.pool.map(fn, values, chunksize=chunksize).result())

    def map_unsized(self, fn: Callable[..., Any], values: Iterable[Any]) -> list[Any]:
        return list(self.pool.map(fn, values).result())

    def close(self) -> None:
        self.pool.close()
        self.pool.join()


class Ray(Adapter):
    """Ray on this machine. Its arrays are read-only views of shared memory."""

    library = "ray"
    # Without a token in the environment, Ray makes one in the user's home folder.
    statement = (
        "import os, secrets; os.environ |= {'RAY_AUTH_MODE': 'token', 'RAY_AUTH_TOKEN': secrets.token_hex(32)}; "
        "import ray"
    )
    make = (
        "ray.init(num_cpus={workers}, include_dashboard=False, log_to_driver=False, logging_level='ERROR', "
        "_node_ip_address='127.0.0.1', object_store_memory=4 << 30)"
    )
    first = "ray.get(ray.remote(lambda: 1).remote())"
    speed = 0.2
    starts_slowly = True

    def __init__(self, workers: int) -> None:
        super().__init__(workers)
        import ray

        self._ray = ray
        self._remote: dict[Callable[..., Any], Any] = {}

    def submit(self, fn: Callable[..., Any], *args: Any) -> Callable[[], Any]:
        if (remote := self._remote.get(fn)) is None:
            remote = self._remote[fn] = self._ray.remote(fn)
        reference = remote.remote(*args)
        return lambda: self._ray.get(reference)

    def map(self, fn: Callable[..., Any], values: Iterable[Any], chunksize: int) -> list[Any]:
        if chunksize > 1:
            raise NotMeasured("Ray has no chunks")
        return self.map_unsized(fn, values)

    def map_unsized(self, fn: Callable[..., Any], values: Iterable[Any]) -> list[Any]:
        return [result() for result in [self.submit(fn, value) for value in values]]

    def close(self) -> None:
        self._ray.shutdown()


class Dask(Adapter):
    """Dask's distributed scheduler with processes of this machine."""

    library = "distributed"
    statement = "from distributed import Client, LocalCluster"
    make = (
        "Client(LocalCluster(n_workers={workers}, threads_per_worker=1, host='127.0.0.1', dashboard_address=None, "
        "silence_logs=50))"
    )
    first = "pool.submit(abs, -1).result()"
    speed = 0.05
    starts_slowly = True

    def submit(self, fn: Callable[..., Any], *args: Any) -> Callable[[], Any]:
        return self.pool.submit(fn, *args, pure=False).result  # type: ignore[no-any-return]

    def map(self, fn: Callable[..., Any], values: Iterable[Any], chunksize: int) -> list[Any]:
        if chunksize > 1:
            raise NotMeasured("Dask has no chunks")
        return self.map_unsized(fn, values)

    def map_unsized(self, fn: Callable[..., Any], values: Iterable[Any]) -> list[Any]:
        return self.pool.gather(self.pool.map(fn, list(values), pure=False))  # type: ignore[no-any-return]

    def close(self) -> None:
        cluster = self.pool.cluster
        self.pool.close()
        cluster.close()
