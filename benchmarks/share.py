"""Measure 200 MB that many calls use, beside Dask's ``scatter`` and Ray's ``put``: ``python -m benchmarks.share``.

Each way gets an array once, on this machine, on an SSH host (over loopback, an sshd of its own), and on a runner that
dials back over TLS (over loopback too). Dask and Ray are measured if they are installed, on this machine. Rounds
alternate between the ways, so the load of the machine meets all of them. The figures are medians.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import isclose
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from dragonfly_executor import DragonflyExecutor, SSHBackend
from dragonfly_executor.transport.link import Link
from tests.support.dialback import DialingBackend
from tests.support.sshd.host import Host, make_key, missing

SIZE = 200_000_000
CALLS = 500
SLOTS = 2
CALLS_BY_ARGUMENT = 4
"""Calls that get the array as a plain argument: fewer, because each pickles it."""


class Figures(NamedTuple):
    """The figures of one way in one round.

    Attributes:
        share: seconds to share the array.
        first: seconds of the first call in a slot that has numpy.
        calls: seconds for `CALLS` calls after that, in all slots.
        sent: megabytes of large payloads that the parent sent over links; None if unknown.
        private: the most megabytes that a worker has for itself alone, beyond what it had before.
    """

    share: float
    first: float
    calls: float
    sent: float | None
    private: float


class Pool(NamedTuple):
    """A way: how it shares, calls, and knows what was sent."""

    share: Callable[[Any], Any]
    call: Callable[..., Callable[[], Any]]
    sent: Callable[[], float] | None = None
    calls: int = CALLS


def look(array: Any, place: int) -> float:
    """Read one page of the array."""
    return float(array[place * 512])


def private() -> tuple[int, float]:
    """Return the process, and its memory in megabytes that it shares with no other process."""
    import os
    import time

    with open("/proc/self/smaps_rollup") as lines:
        found = sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
    time.sleep(0.02)  # so that another worker takes the next call
    return os.getpid(), found / 1000


def read_all(array: Any) -> float:
    """Read the whole array."""
    return float(array.sum())


def memory(pool: Pool) -> dict[int, float]:
    """Return what each worker has for itself."""
    waits = [pool.call(private) for _ in range(8 * SLOTS)]
    return dict(wait() for wait in waits)


def measure(pool: Pool, array: Any) -> Figures:
    """Measure one way."""
    for wait in [pool.call(look, np.arange(1000), 0) for _ in range(4 * SLOTS)]:
        wait()  # each worker loads numpy
    before, sent = memory(pool), pool.sent() if pool.sent is not None else 0.0
    began = time.perf_counter()
    shared = pool.share(array)
    share = time.perf_counter() - began
    began = time.perf_counter()
    assert pool.call(look, shared, 1)() == array[512]
    first = time.perf_counter() - began
    began = time.perf_counter()
    found = [wait() for wait in [pool.call(look, shared, number) for number in range(pool.calls)]]
    calls = (time.perf_counter() - began) * CALLS / pool.calls
    assert found == [float(array[number * 512]) for number in range(pool.calls)]
    total = float(array.sum())
    assert all(isclose(wait(), total) for wait in [pool.call(read_all, shared) for _ in range(2 * SLOTS)])
    grown = [after - before.get(pid, 0.0) for pid, after in memory(pool).items()]
    return Figures(share, first, calls, None if pool.sent is None else pool.sent() - sent, max(grown))


class Counted:
    """Counts the bytes of large payloads that all links of this process queue."""

    def __init__(self) -> None:
        self.total = 0
        original = Link.send_bulk

        def send_bulk(link: Link, header: Any, piece: Any = b"") -> None:
            self.total += len(header) + len(piece)
            original(link, header, piece)

        Link.send_bulk = send_bulk  # type: ignore[method-assign]

    def megabytes(self) -> float:
        """Return the number of megabytes so far."""
        return self.total / 1e6


@contextmanager
def ours(counted: Counted, backend: Any = None, *, by_argument: bool = False) -> Iterator[Pool]:
    """Open a pool of this package, on a backend."""
    slots = {"max_workers": SLOTS} if backend is None else {"backend": backend, "max_concurrency": SLOTS}
    with DragonflyExecutor(**slots) as executor:  # type: ignore[arg-type]

        def call(fn: Callable[..., Any], *args: Any) -> Callable[[], Any]:
            return executor.submit(fn, *args).result

        if by_argument:
            yield Pool(lambda array: array, call, counted.megabytes, CALLS_BY_ARGUMENT)
        else:
            yield Pool(executor.share, call, counted.megabytes)


@contextmanager
def dask() -> Iterator[Pool]:
    """Open a cluster of Dask, with a process for each worker, and ``scatter``."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=SLOTS, threads_per_worker=1, host="127.0.0.1", dashboard_address=None, silence_logs=50
        ) as cluster,
        Client(cluster) as client,
    ):
        yield Pool(
            lambda array: client.scatter(array, broadcast=True),
            lambda fn, *args: client.submit(fn, *args, pure=False).result,
        )


@contextmanager
def ray() -> Iterator[Pool]:
    """Open a cluster of Ray, and ``put``."""
    import ray as library

    library.init(
        num_cpus=SLOTS,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        _node_ip_address="127.0.0.1",
        object_store_memory=2 << 30,
    )
    remote: dict[Any, Any] = {}

    def call(fn: Callable[..., Any], *args: Any) -> Callable[[], Any]:
        if fn not in remote:
            remote[fn] = library.remote(fn)
        reference = remote[fn].remote(*args)
        return lambda: library.get(reference)

    try:
        yield Pool(library.put, call)
    finally:
        library.shutdown()


@contextmanager
def ssh(counted: Counted, folder: Path) -> Iterator[Pool]:
    """Open a pool of this package, on an SSH host with an empty cache."""
    folder.mkdir()
    key = make_key(folder / "id")
    host = Host(folder / "host", key, [Path(sys.executable).parent])
    known = folder / "known_hosts"
    known.write_text(host.known_as)
    host.start()
    try:
        backend = SSHBackend([host.spec], key_filename=key, known_hosts=known, config=None, use_agent=False, sync=None)
        with ours(counted, backend) as pool:
            yield pool
    finally:
        host.stop()


@contextmanager
def dialing(counted: Counted, folder: Path) -> Iterator[Pool]:
    """Open a pool of this package, on a runner that dials back, with an empty cache."""
    os.environ["DRAGONFLY_CACHE"] = str(folder)
    try:
        with ours(counted, DialingBackend()) as pool:
            yield pool
    finally:
        del os.environ["DRAGONFLY_CACHE"]


def ways(counted: Counted, folder: Path, turn: int) -> dict[str, Callable[[], Any]]:
    """Return the ways that can be measured here, for one round."""
    found: dict[str, Callable[[], Any]] = {
        "share, here": lambda: ours(counted),
        "argument, here": lambda: ours(counted, by_argument=True),
    }
    if importlib.util.find_spec("distributed") is not None:
        found["Dask scatter, here"] = dask
    if importlib.util.find_spec("ray") is not None:
        found["Ray put, here"] = ray
    if missing() is None:
        found["share, SSH"] = lambda: ssh(counted, folder / f"ssh-{turn}")
    found["share, dial-back"] = lambda: dialing(counted, folder / f"cache-{turn}")
    return found


def main() -> None:
    """Measure all ways, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds; the figures are medians")
    parser.add_argument("--only", nargs="*", default=[], help="names of ways, as the table has them")
    options = parser.parse_args()
    counted, array = Counted(), np.random.default_rng(1).random(SIZE // 8)
    figures: dict[str, list[Figures]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(options.rounds):
            for name, open_pool in ways(counted, Path(folder), turn).items():
                if options.only and name not in options.only:
                    continue
                with open_pool() as pool:
                    figures.setdefault(name, []).append(measure(pool, array))
    print(
        f"| {SIZE // 1_000_000} MB, {CALLS} calls, {SLOTS} slots | share, s | first call, s | {CALLS} calls, s | "
        "MB sent | MB of its own in a slot |"
    )
    print("|---|---|---|---|---|---|")
    for name, found in figures.items():
        share, first, calls, sent, own = (
            [each for each in column if each is not None] for column in zip(*found, strict=True)
        )
        cells = [f"{median(column):.3f}" for column in (share, first, calls)]
        cells += [f"{median(sent):.0f}" if sent else "", f"{median(own):.0f}"]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
