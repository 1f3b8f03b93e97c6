"""What is measured: executors and limits, by name."""

from __future__ import annotations

from importlib.util import find_spec

from benchmarks.adapters import Adapter, Dragonfly, Fork, ForkServer, MultiprocessingPool, Spawn, Threads
from benchmarks.bare_sockets import BareSockets
from benchmarks.peers import Dask, Loky, Mpire, Pebble, Ray

OURS = "DragonflyExecutor"
BASELINE = "ProcessPoolExecutor (fork)"
SPAWN = "ProcessPoolExecutor (spawn)"
FORKSERVER = "ProcessPoolExecutor (forkserver)"
THREADS = "ThreadPoolExecutor"
POOL = "multiprocessing.Pool"
RAY = "Ray"
MPIRE = "mpire"
OTHER = "DragonflyExecutor, the other checkout"
EXECUTORS: dict[str, type[Adapter]] = {
    BASELINE: Fork,
    OURS: Dragonfly,
    FORKSERVER: ForkServer,
    SPAWN: Spawn,
    THREADS: Threads,
    POOL: MultiprocessingPool,
    "loky": Loky,
    MPIRE: Mpire,
    "pebble": Pebble,
    RAY: Ray,
    "Dask": Dask,
}

SOCKETS = "bare sockets"
MEMCPY = "two copies in memory"
FUTURE = "a Future"
EMPTY_PROGRAM = "python -c pass"
ADAPTERS: dict[str, type[Adapter]] = {**EXECUTORS, OTHER: Dragonfly, SOCKETS: BareSockets}
"""All that calls can be submitted to."""
LIMITS = (SOCKETS, MEMCPY, FUTURE, EMPTY_PROGRAM)
PEERS = tuple(name for name in EXECUTORS if name not in (OURS, THREADS))
"""The other executors with processes. With threads, a call pickles nothing and leaves no process."""


def is_installed(name: str) -> bool:
    """Return False if an executor's library is not installed."""
    library = ADAPTERS[name].library if name in ADAPTERS else ""
    return not library or find_spec(library) is not None
