"""The arguments of `EC2Backend`, checked and in the form that the backend uses. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from dragonfly_executor.backends.agent_command import runner_options
from dragonfly_executor.backends.ec2.prices import EC2Prices


def command(python: str, module: str, times: Mapping[str, float]) -> tuple[str, ...]:
    """Return the command that runs a module of this package on an instance, with options that are seconds."""
    options = runner_options()
    more = [word for name, seconds in times.items() for word in (name, f"{seconds:.3f}")]
    return (python, "-P", *options, "-m", module, *more)


def checked_prices(prices: EC2Prices) -> EC2Prices:
    """Return the prices.

    Raises:
        TypeError: they are no `EC2Prices`.
        ValueError: a price is no finite number of at least 0.
    """
    if not isinstance(prices, EC2Prices):
        raise TypeError(f"prices must be EC2Prices, such as EC2_PRICES._replace(...), not {type(prices).__name__}")
    return prices.check()
