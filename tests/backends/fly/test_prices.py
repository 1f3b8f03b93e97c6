"""The price list, against the prices that were copied from Fly's own pages."""

from __future__ import annotations

from typing import Any

import pytest

from dragonfly_executor import Budget, DragonflyExecutor
from dragonfly_executor.backends.fly.prices import MONTH, PRICES
from tests.backends.fly.conftest import MakeBackend
from tests.support.fly_simulator.simulator import Simulator
from tests.support.helpers import PATIENCE


def guest(kind: str, cpus: int, memory_mb: int) -> dict[str, Any]:
    return {"cpu_kind": kind, "cpus": cpus, "memory_mb": memory_mb}


@pytest.mark.parametrize(
    ("size", "seconds", "price"),
    [
        (guest("shared", 1, 256), 1, 0.00000078),
        (guest("shared", 1, 512), 1, 0.00000128),
        (guest("shared", 1, 1024), 1, 0.00000228),
        (guest("shared", 2, 512), 1, 0.00000156),
        (guest("shared", 1, 256), MONTH, 2.02),
        (guest("performance", 1, 2048), 1, 0.00001242),
        (guest("performance", 1, 2048), MONTH, 32.19),
        (guest("performance", 2, 4096), MONTH, 64.39),
        (guest("performance", 4, 16384), MONTH, 170.33),
        (guest("performance", 16, 131072), MONTH, 1013.80),
    ],
)
def test_prices_are_those_of_the_list(size: dict[str, Any], seconds: float, price: float) -> None:
    """Reference §6."""
    found = PRICES.per_second(size, ["ams"])
    assert found is not None
    # The list gives prices of a second with two or three digits.
    assert found * seconds == pytest.approx(price, rel=0.005)


def test_a_region_has_its_factor_and_one_that_is_unknown_is_dear() -> None:
    size = guest("performance", 2, 4096)
    ams = PRICES.per_second(size, ["ams"])
    assert ams is not None
    assert PRICES.per_second(size, ["sjc"]) == pytest.approx(1.15 * ams)
    assert PRICES.per_second(size, ["ams", "nrt"]) == pytest.approx(2 * ams)
    assert PRICES.per_second(size, ["cdg"]) == PRICES.per_second(size) == pytest.approx(2 * ams)
    assert PRICES._replace(regions={"cdg": 1.0}).per_second(size, ["cdg"]) == pytest.approx(ams)


def test_gpus_are_on_the_list_and_others_have_no_price() -> None:
    size = {**guest("performance", 8, 32768), "gpu_kind": "l40s", "gpus": 2}
    without = PRICES.per_second(guest("performance", 8, 32768), ["ams"])
    assert without is not None
    assert PRICES.per_second(size, ["ams"]) == pytest.approx(without + 2 * 0.70 / 3600)
    assert PRICES.per_second({**size, "gpu_kind": "tpu"}, ["ams"]) is None


@pytest.mark.parametrize("size", [{"cpu_kind": "quantum"}, {"cpus": "2"}, {"memory_mb": None}, {"cpus": True}])
def test_what_is_no_size_has_no_price(size: dict[str, Any]) -> None:
    assert PRICES.per_second(size, ["ams"]) is None


def test_a_pool_on_fly_knows_what_it_costs(on_fly: Simulator, make_backend: MakeBackend) -> None:
    """First by the regions that were asked for, then by the one that it got."""
    prices = PRICES._replace(regions={"cdg": 1.0, "lhr": 3.0})
    backend = make_backend(prices=prices, region=["cdg", "lhr"])
    price = prices.per_second(guest("performance", 2, 4096), ["cdg"])
    assert price is not None
    assert backend.price() == pytest.approx(3 * price)
    with DragonflyExecutor(backend=backend, max=1, budget=Budget(cost=1.0)) as executor:
        executor.submit(pow, 2, 2).result(PATIENCE)
        (runner,) = executor.pool.stats().runners
    assert runner.cost == pytest.approx(runner.machine_seconds * price)


def test_calls_are_packed_on_machines_even_if_their_price_is_unknown(make_backend: MakeBackend) -> None:
    backend = make_backend(region="ams", machine_config={"guest": {"gpu_kind": "tpu", "gpus": 1}})
    assert backend.price() is None
    assert backend.default_placement() == "pack"


def test_a_number_is_no_price_list(make_backend: MakeBackend) -> None:
    with pytest.raises(TypeError, match="prices must be Prices"):
        make_backend(prices=0.1)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"performance_cpu": "21.80"}, TypeError),
        ({"shared_cpu": None}, TypeError),
        ({"memory": float("nan")}, ValueError),
        ({"memory": -1.0}, ValueError),
        ({"gpus": {"l40s": float("inf")}}, ValueError),
        ({"gpus": 0.7}, TypeError),
        ({"regions": {"cdg": -0.5}}, ValueError),
        ({"regions": {"cdg": True}}, TypeError),
        ({"regions": ["cdg"]}, TypeError),
        ({"as_of": 2026}, TypeError),
    ],
)
def test_a_list_with_a_price_that_is_none_is_refused(
    make_backend: MakeBackend, change: dict[str, Any], error: type[Exception]
) -> None:
    """A cap goes by it: by what is no number it would never be reached."""
    (name,) = change
    with pytest.raises(error, match=f"prices: {name}"):
        make_backend(prices=PRICES._replace(**change))


def test_a_size_that_the_user_put_into_the_config_is_what_counts(make_backend: MakeBackend) -> None:
    backend = make_backend(region="ams", machine_config={"guest": {"cpus": 4, "memory_mb": 16384}})
    assert backend.price() == PRICES.per_second(guest("performance", 4, 16384), ["ams"])
