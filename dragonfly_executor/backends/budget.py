"""`Budget`: caps on what a pool's runners may use."""

from __future__ import annotations

from dragonfly_executor.core.record import Record
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING
from dragonfly_executor.util.validation import dollars, duration

if TYPE_CHECKING:
    from dragonfly_executor.util.validation import Seconds


class Budget(Record):
    """Caps on the total use of a pool's runners. At least one of the first two arguments is required.

    A runner counts from the moment at which its backend asks for its node until the node is released, busy or idle. A
    boot that waits for its turn, at a rate limit or in a queue, does not count. While this computer is suspended, its
    clock stands still and nothing counts.

    When the use reaches a limit, no call and no boot begins any more. Waiting calls and all later calls fail with
    `BudgetExceeded`. Boots are aborted, and idle runners are stopped, the `min` runners too. Calls on runners run to
    their end, and their runners stay until then. Their use beyond the limit is bounded by ``run_timeout``.

    A budget holds for a pool's whole life. The use of other pools and processes is not counted: two pools with the same
    budget object have one budget each.

    Args:
        machine_time: maximum total lifetime of all runners: seconds or a `timedelta`.
        cost: maximum cost in US dollars. It is estimated from prices; the provider's bill may differ.
        price: US dollars for one second of a runner, if the backend does not know the price, or you know better.

    Raises:
        TypeError: a value has the wrong type.
        ValueError: a value is not above 0, or not finite, or there is no limit.
    """

    __slots__ = __match_args__ = ("machine_time", "cost", "price")

    def __init__(
        self, *, machine_time: Seconds | None = None, cost: float | None = None, price: float | None = None
    ) -> None:
        if machine_time is None and cost is None:
            raise ValueError("a budget needs machine_time=, cost=, or both")
        self.machine_time = None if machine_time is None else duration(machine_time, "machine_time", positive=True)
        if self.machine_time == float("inf"):
            raise ValueError("machine_time must be finite: leave it out if there is no limit")
        self.cost = dollars(cost, "cost", positive=True)
        self.price = dollars(price, "price", positive=True)


def budget_or_none(value: Budget | None, name: str) -> Budget | None:
    """Return a budget, or None if `value` is None.

    Raises:
        TypeError: `value` is neither.
    """
    if value is not None and not isinstance(value, Budget):
        raise TypeError(f"{name} must be a Budget, such as Budget(cost=5.0), not {type(value).__name__}")
    return value
