"""`PrometheusMetrics`: the figures of pools for Prometheus, by ``prometheus-client``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from threading import Lock

from dragonfly_executor.api.named_pools import pools
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, TypeAlias

    from prometheus_client import CollectorRegistry, Counter, Histogram
    from prometheus_client.metrics_core import Metric

    from dragonfly_executor.core.stats import PoolStats

    Figure: TypeAlias = tuple[str, str, Callable[[PoolStats], float]]
    """A metric: its name, its text, and what it is of a pool."""

WAIT_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
RUN_BUCKETS = (*WAIT_BUCKETS, 7200, 28800)
BOOT_BUCKETS = (0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1800)
MAX_FUNCTIONS = 200
"""Maximum number of functions of one pool that have labels of their own. All later ones are counted as OTHERS."""
OTHERS = "(others)"


class PrometheusMetrics:
    """The metrics of pools. Make one for the program, and give it to each pool: ``observers=[metrics]``.

    Counters and histograms of calls are labelled by pool and function. The pool's current figures (runners, slots,
    waiting calls, cost) are read when Prometheus scrapes. Like every observer, it runs on the pool's callback thread.

    Args:
        registry: where the metrics are registered; by default the registry of ``prometheus_client``.
        prefix: the beginning of their names.

    Raises:
        ImportError: prometheus-client is not installed.
    """

    def __init__(self, registry: CollectorRegistry | None = None, *, prefix: str = "dragonfly") -> None:
        try:
            from prometheus_client import REGISTRY, Counter, Histogram
        except ImportError as error:
            advice = "needs prometheus-client: pip install 'dragonfly-executor[prometheus]'"
            raise ImportError(f"PrometheusMetrics {advice}") from error
        registry = REGISTRY if registry is None else registry
        labels = ("pool", "function")

        def counter(name: str, text: str, *more: str) -> Counter:
            """Return a new counter."""
            return Counter(f"{prefix}_{name}", text, (*labels, *more), registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], names: tuple[str, ...] = labels) -> Histogram:
            """Return a new histogram."""
            return Histogram(f"{prefix}_{name}", text, names, registry=registry, buckets=buckets)

        self._submitted = counter("calls_submitted", "Calls that the pool has accepted.")
        self._argument_bytes = counter("call_argument_bytes", "Bytes of the encoded calls.")
        self._result_bytes = counter("call_result_bytes", "Bytes of the encoded results and errors.")
        self._done = counter("calls_done", "Calls that returned a value.")
        self._failed = counter("calls_failed", "Calls that failed, by kind.", "kind")
        self._cancelled = counter("calls_cancelled", "Calls that were cancelled.")
        self._wait = histogram("call_wait_seconds", "Seconds in which a call did not run.", WAIT_BUCKETS)
        self._run = histogram("call_run_seconds", "Seconds that a call's function ran.", RUN_BUCKETS)
        where = ("pool", "backend")
        self._boot = histogram("boot_seconds", "Seconds from a boot's begin to a runner.", BOOT_BUCKETS, where)
        self._boots_failed = Counter(f"{prefix}_boots_failed", "Boots that failed.", where, registry=registry)
        self._functions: dict[str, set[str]] = {}
        self._lock = Lock()
        """Pools have a callback thread each."""
        self._watched: set[str] = set()
        collector: Any = PoolCollector(prefix, self._watched)
        registry.register(collector)

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Count an event of a pool."""
        pool, what = event["name"], event["event"]
        self._watched.add(pool)
        if not what.startswith("call "):
            self._count_boot(pool, what, event)
            return
        function = self._label(pool, event["function"])
        if what == "call submitted":
            self._submitted.labels(pool, function).inc()
            self._argument_bytes.labels(pool, function).inc(event["argument_bytes"])
        elif what == "call done":
            self._done.labels(pool, function).inc()
        elif what == "call failed":
            self._failed.labels(pool, function, event["kind"]).inc()
        elif what == "call cancelled":
            self._cancelled.labels(pool, function).inc()
        if "result_bytes" in event:
            self._result_bytes.labels(pool, function).inc(event["result_bytes"])
        if "run_seconds" in event:
            self._run.labels(pool, function).observe(event["run_seconds"])
            self._wait.labels(pool, function).observe(event["wait_seconds"])

    def _count_boot(self, pool: str, what: str, event: Mapping[str, Any]) -> None:
        if what == "up":
            self._boot.labels(pool, event["backend"]).observe(event["seconds"])
        elif what == "boot failed":
            self._boots_failed.labels(pool, event["backend"]).inc()

    def _label(self, pool: str, function: str) -> str:
        known = self._functions.get(pool)
        if known is not None and function in known:
            return function
        with self._lock:
            known = self._functions.setdefault(pool, set())
            if len(known) >= MAX_FUNCTIONS:
                return OTHERS
            known.add(function)
        return function


class PoolCollector:
    """The state of the watched pools, read when Prometheus scrapes."""

    def __init__(self, prefix: str, watched: set[str]) -> None:
        self._prefix = prefix
        self._watched = watched

    def describe(self) -> Iterator[Metric]:
        """Return nothing: the metrics are known once there are pools."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Return what the pools are now."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        # A pool that is shut down may have its end before it, and another one its name already: the newer one counts.
        found = list({pool.name: pool.stats() for pool in pools() if pool.name in self._watched}.items())
        yield self._runners(found)
        gauges: Sequence[Figure] = (
            ("runners_max", "Runners that the pool may have.", lambda stats: stats.max),
            ("slots_busy", "Slots that have a call.", lambda stats: stats.slots_busy),
            ("slots_free", "Slots without a call.", lambda stats: stats.slots_free),
            ("calls_waiting", "Calls without a slot.", lambda stats: stats.calls_queued + stats.calls_delayed),
            ("calls_on_runners", "Calls on runners.", lambda stats: stats.calls_sent),
        )
        for name, text, value in gauges:
            yield self._family(GaugeMetricFamily, name, text, [(pool, value(stats)) for pool, stats in found])
        counters: Sequence[Figure] = (
            ("calls_retried", "Retries begun.", lambda stats: stats.calls_retried),
            ("boots", "Boots begun.", lambda stats: stats.boots_attempted),
            ("machine_seconds", "Seconds that runners existed.", lambda stats: stats.machine_seconds),
        )
        for name, text, value in counters:
            yield self._family(CounterMetricFamily, name, text, [(pool, value(stats)) for pool, stats in found])
        # An estimate falls when a runner turns out to be cheaper, so it is no counter.
        costs = [(pool, stats.cost) for pool, stats in found if stats.cost is not None]
        yield self._family(GaugeMetricFamily, "cost_dollars", "Estimated cost in US dollars.", costs)

    def _runners(self, found: list[tuple[str, PoolStats]]) -> Any:
        from prometheus_client.core import GaugeMetricFamily

        family = GaugeMetricFamily(f"{self._prefix}_runners", "Runners by state.", labels=("pool", "state"))
        for pool, stats in found:
            family.add_metric((pool, "booting"), stats.runners_booting)
            family.add_metric((pool, "up"), stats.runners_up)
            family.add_metric((pool, "stopping"), stats.runners_stopping)
        return family

    def _family(self, kind: Any, name: str, text: str, values: list[tuple[str, float]]) -> Any:
        family = kind(f"{self._prefix}_{name}", text, labels=("pool",))
        for pool, value in values:
            family.add_metric((pool,), value)
        return family
