"""Each default and each validation of the options of pools and calls, in one place."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from dragonfly_executor.core.call_table import CallLimits
from dragonfly_executor.core.record import Record
from dragonfly_executor.util.backoff import delays as draw
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING
from dragonfly_executor.util.validation import dollars, duration, hook, whole

if TYPE_CHECKING:
    from typing import Any, TypeAlias

    from dragonfly_executor.util.validation import Seconds, Wait

    IdleCheck: TypeAlias = Callable[[], object]
    Hook: TypeAlias = Callable[[Mapping[str, Any]], object]
    GrowEndHook: TypeAlias = Callable[[object, Mapping[str, Any]], object]
    Output: TypeAlias = str | Callable[[Any], object]

OUTPUTS = ("inherit", "tag", "capture", "drop")
MAX_PAYLOAD = 8 * 1024**3


def seconds(value: Seconds | None, name: str, *, positive: bool = False) -> float | None:
    """Return a duration in seconds; None stays None. Raises as `duration` does."""
    return None if value is None else duration(value, name, positive=positive)


class CallOptions(Record):
    """Options of the calls of one view of a pool. Durations are seconds or a `timedelta`.

    Args:
        timeout: time limit of a call from its submit on, waiting and running together; None for no limit.
        queue_timeout: time limit of its wait for a slot.
        run_timeout: time limit of its function, on each attempt. Imports that the call needs before its function begins
            do not count. They may take `boot_timeout`, or `run_timeout` if that is longer, and count for `timeout`.
        retries: maximum number of further attempts when the call's slot or runner is lost.
        retry_on: exception types that are retried as well when the call itself raises them.
        retry_wait: a tenacity wait strategy for the pauses between attempts; None for exponential backoff with jitter,
            from 0.1 s to 10 s. The strategy is asked for the first 32 pauses. Later pauses are as long as the last of
            these.
        cancel_running: whether `Future.cancel` stops a running call; False for the standard library's behaviour.

    Raises:
        TypeError: a value has the wrong type.
        ValueError: a value is out of range.
    """

    __match_args__ = (
        "timeout", "queue_timeout", "run_timeout", "retries", "retry_on", "retry_wait", "cancel_running",
    )  # fmt: skip
    __slots__ = (*__match_args__, "_limits")

    def __init__(
        self,
        *,
        timeout: Seconds | None = None,
        queue_timeout: Seconds | None = None,
        run_timeout: Seconds | None = None,
        retries: int = 0,
        retry_on: type[BaseException] | tuple[type[BaseException], ...] = (),
        retry_wait: Wait | None = None,
        cancel_running: bool = True,
    ) -> None:
        self.timeout = seconds(timeout, "timeout", positive=True)
        self.queue_timeout = seconds(queue_timeout, "queue_timeout", positive=True)
        self.run_timeout = seconds(run_timeout, "run_timeout", positive=True)
        self.retries = whole(retries, "retries", 0)
        types = retry_on if isinstance(retry_on, tuple) else (retry_on,)
        for kind in types:
            if not (isinstance(kind, type) and issubclass(kind, BaseException)):
                raise TypeError(f"retry_on must hold exception types, not {kind!r}")
        self.retry_on = types
        self.retry_wait = hook(retry_wait, "retry_wait")
        self.cancel_running = bool(cancel_running)
        self._limits: CallLimits | None = None

    def change(self, changes: Mapping[str, Any]) -> CallOptions:
        """Return these options with some changed.

        Raises:
            TypeError: a name is not an option.
        """
        for name in changes:
            if name not in self.__match_args__:
                raise TypeError(
                    f"no such call option: {name!r}; the options are {', '.join(sorted(self.__match_args__))}"
                )
        return CallOptions(**{**{name: getattr(self, name) for name in self.__match_args__}, **changes})

    def limits(self) -> CallLimits:
        """Return the limits that the core enforces, with random pauses between attempts."""
        if self._limits is not None:
            return self._limits
        delays: tuple[float, ...] = ()
        if self.retries:
            delays = draw(self.retry_wait, self.retries)
        limits = CallLimits(
            timeout=self.timeout,
            queue_timeout=self.queue_timeout,
            run_timeout=self.run_timeout,
            retries=self.retries,
            retry_delays=delays,
        )
        # Each call draws its own pauses, so that calls that failed together are not retried together.
        self._limits = None if self.retries else limits
        return limits


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
        self.machine_time = seconds(machine_time, "machine_time", positive=True)
        if self.machine_time == float("inf"):
            raise ValueError("machine_time must be finite: leave it out if there is no limit")
        self.cost = dollars(cost, "cost", positive=True)
        self.price = dollars(price, "price", positive=True)


class PoolOptions:
    """A pool's options, checked. `Pool` documents each of them."""

    def __init__(
        self,
        name: str,
        *,
        min: int,  # noqa: A002  # Dragonfly's word
        max: int,  # noqa: A002
        max_concurrency: int | None = None,
        max_workers: int | None = None,
        single_use: bool = False,
        log: int | str | bool = False,
        boot_timeout: Seconds = 30.0,
        shutdown_timeout: Seconds = 30.0,
        idle_shutdown_after: Seconds | tuple[Seconds | None, IdleCheck] | None = 30.0,
        min_idle_shutdown_after: Seconds | None = None,
        on_grow_start: Hook | None = None,
        on_grow_end: GrowEndHook | None = None,
        on_shrink: Hook | None = None,
        on_event: Hook | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        max_tasks_per_child: int | None = None,
        serializer: Any = "cloudpickle",
        output: Output = "inherit",
        max_payload: int = MAX_PAYLOAD,
        max_boot_failures: int = 3,
        boot_wait: Wait | None = None,
        budget: Budget | None = None,
        lease: Seconds = 60.0,
        heartbeat: Seconds = 5.0,
        dead_after: Seconds = 30.0,
        call: CallOptions | None = None,
    ) -> None:
        self.name = _name(name)
        self._set_size(min, max, max_workers, max_concurrency)
        self.single_use = bool(single_use)
        self.log = log_level(log)
        self.boot_timeout = duration(boot_timeout, "boot_timeout", positive=True)
        self.shutdown_timeout = duration(shutdown_timeout, "shutdown_timeout")
        self.idle_after, self.idle_check = _idle(idle_shutdown_after)
        self.min_idle_after = seconds(min_idle_shutdown_after, "min_idle_shutdown_after")
        self._set_hooks(on_grow_start, on_grow_end, on_shrink, on_event)
        self.initializer = hook(initializer, "initializer")
        self.initargs = tuple(initargs)
        self.max_tasks_per_child = _tasks(max_tasks_per_child)
        self.serializer = serializer
        self.output = _output(output)
        self.max_payload = whole(max_payload, "max_payload", 1)
        self.max_boot_failures = whole(max_boot_failures, "max_boot_failures", 1)
        self.boot_wait = hook(boot_wait, "boot_wait")
        self.budget = _budget(budget)
        self.lease = duration(lease, "lease", positive=True)
        self.heartbeat = duration(heartbeat, "heartbeat", positive=True)
        self.dead_after = duration(dead_after, "dead_after", positive=True)
        self.call = call or CallOptions()

    def _set_size(self, least: int, most: int, max_workers: int | None, max_concurrency: int | None) -> None:
        self.min = whole(least, "min", 0)
        self.max = whole(most, "max", 1)
        if self.min > self.max:
            raise ValueError(f"min must be at most max, and {least} is more than {most}")
        # First, because max_concurrency may have been derived from it: an error must name the argument that the user
        # gave.
        self.max_workers = _more_than_none(max_workers, "max_workers")
        self.max_concurrency = _more_than_none(max_concurrency, "max_concurrency")

    def _set_hooks(
        self, grow_start: Hook | None, grow_end: GrowEndHook | None, shrink: Hook | None, event: Hook | None
    ) -> None:
        self.on_grow_start = hook(grow_start, "on_grow_start")
        self.on_grow_end = hook(grow_end, "on_grow_end")
        self.on_shrink = hook(shrink, "on_shrink")
        self.on_event = hook(event, "on_event")

    @staticmethod
    def names() -> list[str]:
        """Return the names of the options that a user may give, without those of `CallOptions`."""
        known = PoolOptions.__init__.__kwdefaults__ or {}
        return ["max", "min", *(name for name in known if name != "call")]


def _name(value: str) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("name must be a string that is not empty")
    return value


def _budget(value: Budget | None) -> Budget | None:
    if value is not None and not isinstance(value, Budget):
        raise TypeError(f"budget must be a Budget, such as Budget(cost=5.0), not {type(value).__name__}")
    return value


def _more_than_none(value: int | None, name: str) -> int | None:
    if value is None:
        return None
    number = whole(value, name, -(2**63))
    if number <= 0:
        # The words of ProcessPoolExecutor.
        raise ValueError(f"{name} must be greater than 0")
    return number


def _output(value: Output) -> Output:
    choices = f"output must be {', '.join(map(repr, OUTPUTS))} or a callable, not"
    if isinstance(value, str):
        if value not in OUTPUTS:
            raise ValueError(f"{choices} {value!r}")
    elif not callable(value):
        raise TypeError(f"{choices} {type(value).__name__}")
    else:
        hook(value, "output")
    return value


def _tasks(value: int | None) -> int | None:
    """Check `max_tasks_per_child`; refuse it in the words of ProcessPoolExecutor."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError("max_tasks_per_child must be an integer")
    if value <= 0:
        raise ValueError("max_tasks_per_child must be >= 1")
    return value


def _idle(after: Seconds | tuple[Seconds | None, IdleCheck] | None) -> tuple[float | None, IdleCheck | None]:
    """Return the idle time in seconds after which a runner stops, and the user's idle check."""
    if not isinstance(after, tuple):
        return seconds(after, "idle_shutdown_after"), None
    if len(after) != 2 or not callable(after[1]):
        raise TypeError("idle_shutdown_after must be seconds, or a pair (seconds, check) whose check is callable")
    return seconds(after[0], "idle_shutdown_after"), hook(after[1], "the check of idle_shutdown_after")


def log_level(log: int | str | bool) -> int | bool:
    """Return the level of the pool's own log lines as a number, or False for none.

    Raises:
        ValueError: there is no such level.
    """
    if log is False or log is None:
        return False
    if log is True:
        return logging.INFO
    if isinstance(log, int):
        return log
    levels = logging.getLevelNamesMapping()
    if str(log).upper() not in levels:
        raise ValueError(f"log must be False, True or a logging level, not {log!r}")
    return levels[str(log).upper()]
