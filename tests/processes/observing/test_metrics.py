"""The metrics of pools for Prometheus, read as Prometheus reads them."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from tests.engine.conftest import MakePool
from tests.support.helpers import error_of, values
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
