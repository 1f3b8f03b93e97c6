"""The metrics of pools for Prometheus, read as Prometheus reads them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from dragonfly_executor.multiprocessing import Pool as MultiprocessingPool
from dragonfly_executor.parent import Parent
from tests.engine.conftest import MakePool
from tests.support.helpers import PATIENCE, error_of, values
from tests.support.payloads import die_by, echo, fail

prometheus_client = pytest.importorskip("prometheus_client")


def test_counters_and_histograms_by_pool_and_function(make_pool: MakePool) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    from dragonfly_executor.integrations.prometheus import PrometheusMetrics

    registry = prometheus_client.CollectorRegistry()
    metrics = PrometheusMetrics(registry)
    pool = make_pool("media", observers=metrics, max_concurrency=2)
    other = make_pool("unwatched")
    values(pool.submit(echo, number) for number in range(5))
    error_of(pool.submit(partial(fail, KeyError())))
    error_of(pool.submit(die_by, 9))
    other.call(echo, 1)

    def scraped(name: str, **labels: str) -> Any:
        families = text_string_to_metric_families(prometheus_client.generate_latest(registry).decode())
        samples = [sample for family in families for sample in family.samples if sample.name == name]
        found = [sample.value for sample in samples if labels.items() <= sample.labels.items()]
        return found[0] if len(found) == 1 else found

    assert scraped("dragonfly_runners", pool="media", state="up") == 1
    assert scraped("dragonfly_runners_max", pool="media") == 1
    assert scraped("dragonfly_calls_waiting", pool="media") == 0
    assert scraped("dragonfly_boots_total", pool="media") == 1
    assert scraped("dragonfly_machine_seconds_total", pool="media") > 0
    assert scraped("dragonfly_cost_dollars", pool="media") == []  # the price of this machine is unknown
    assert scraped("dragonfly_runners", pool="unwatched") == []
    # Its callbacks have all run after that.
    pool.shutdown()
    assert scraped("dragonfly_calls_submitted_total", pool="media", function="echo") == 5
    assert scraped("dragonfly_calls_done_total", pool="media", function="echo") == 5
    assert scraped("dragonfly_calls_failed_total", function="fail", kind="raised") == 1
    assert scraped("dragonfly_calls_failed_total", function="die_by", kind="lost") == 1
    assert scraped("dragonfly_call_run_seconds_count", pool="media", function="echo") == 5
    assert scraped("dragonfly_call_wait_seconds_bucket", function="echo", le="+Inf") == 5
    assert scraped("dragonfly_call_argument_bytes_total", function="echo") > 0
    assert scraped("dragonfly_call_result_bytes_total", function="echo") > 0
    assert scraped("dragonfly_boot_seconds_count", pool="media", backend="local") == 1
    assert scraped("dragonfly_runners", pool="media") == []


class Adder:
    """A worker, whose methods are no calls of the pool."""

    def add(self, one: int) -> int:
        return one + 1


def numbers(count: int) -> Iterator[int]:
    yield from range(count)


def fail_after(count: int) -> Iterator[int]:
    yield from range(count)
    raise KeyError


def nest(count: int) -> list[int]:
    return [Parent.pool().call(echo, number) for number in range(count)]


def test_streams_child_calls_and_workers_count_as_what_they_are(make_pool: MakePool) -> None:
    """A stream is one call, whatever its items. A child call is a call. A worker is one call, whatever its methods."""
    from dragonfly_executor.integrations.prometheus import PrometheusMetrics

    registry = prometheus_client.CollectorRegistry()
    pool = make_pool("media", observers=PrometheusMetrics(registry), max_concurrency=3)
    assert list(pool.stream(numbers, 5000)) == list(range(5000))
    with pytest.raises(KeyError):
        list(pool.stream(fail_after, 2))
    assert pool.call(nest, 3) == [0, 1, 2]
    with pool.place(Adder) as worker:
        assert [worker.add(number).result(PATIENCE) for number in range(4)] == [1, 2, 3, 4]
    lost = pool.place(Adder)
    lost.ready.result(PATIENCE)
    lost.kill()
    error_of(lost.ended)
    with MultiprocessingPool(pool=pool) as shared:
        assert shared.map(echo, range(4), chunksize=2) == [0, 1, 2, 3]
    pool.shutdown()

    def count(name: str, **labels: str) -> float:
        return sum(
            sample.value
            for family in registry.collect()
            for sample in family.samples
            if sample.name == f"dragonfly_{name}" and labels.items() <= sample.labels.items()
        )

    assert count("calls_submitted_total", function="numbers") == count("calls_done_total", function="numbers") == 1
    assert count("call_run_seconds_count", function="numbers") == 1
    assert count("calls_failed_total", function="fail_after", kind="raised") == 1
    assert count("calls_done_total", function="nest") == 1
    assert count("calls_done_total", function="echo") == 3 + 2
    assert count("calls_submitted_total", function="Adder") == 2
    assert count("calls_done_total", function="Adder") == 1
    assert count("calls_cancelled_total", function="Adder") == 1
    assert count("calls_submitted_total") == 2 + 1 + 5 + 2


def test_functions_beyond_a_number_share_a_label(monkeypatch: pytest.MonkeyPatch) -> None:
    from dragonfly_executor.integrations import prometheus

    monkeypatch.setattr(prometheus, "MAX_FUNCTIONS", 2)
    registry = prometheus_client.CollectorRegistry()
    metrics = prometheus.PrometheusMetrics(registry, prefix="mine")
    for function in ("a", "b", "c", "d", "a"):
        event = {"name": "p", "event": "call submitted", "function": function, "argument_bytes": 1}
        metrics(event)
    text = prometheus_client.generate_latest(registry).decode()
    assert 'mine_calls_submitted_total{function="(others)",pool="p"} 2.0' in text
    assert 'mine_calls_submitted_total{function="a",pool="p"} 2.0' in text
