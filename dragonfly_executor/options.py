"""Every default and every validation of a pool's and a call's options, once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dragonfly_executor.backends.base import Backend
    from dragonfly_executor.core.ledger import CallLimits

Seconds = float | int | timedelta
IdleCheck = Callable[[], object]
Hook = Callable[[Mapping[str, Any]], object]

MAX_PAYLOAD = 8 * 1024**3
SERIALIZERS = ("cloudpickle", "dill", "pickle")


def seconds(value: Seconds | None, name: str, *, positive: bool = False) -> float | None:
    """A duration in seconds; None stays None.

    Raises:
        TypeError: it is no number and no `timedelta`.
        ValueError: it is negative, or zero where it must be positive.
    """
    if value is None:
        return None
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds or a timedelta, not {type(value).__name__}")
    if value != value or value < 0 or (positive and value == 0):
        raise ValueError(f"{name} must be {'greater than' if positive else 'at least'} 0, not {value!r}")
    return float(value)


def whole(value: int, name: str, least: int) -> int:
    """A whole number of at least `least`; TypeError or ValueError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}")
    return value


@dataclass(frozen=True, slots=True)
class CallOptions:
    """What applies to the calls of one view of a pool.

    Attributes:
        timeout: seconds that a call may take from its submit on, waiting and running together; None for no limit.
        queue_timeout: seconds that it may wait for a slot.
        run_timeout: seconds that it may run, on each attempt.
        retries: how often a call is tried again when its slot or runner was lost.
        retry_on: exception types that, raised by the call itself, are tried again as well.
        retry_wait: a tenacity wait strategy for the pauses between attempts; None for an exponential one with jitter,
            from a tenth of a second to ten seconds.
        cancel_running: whether `Future.cancel` stops a call that is running; False gives the standard library's answers.
    """

    timeout: Seconds | None = None
    queue_timeout: Seconds | None = None
    run_timeout: Seconds | None = None
    retries: int = 0
    retry_on: tuple[type[BaseException], ...] = ()
    retry_wait: Callable[[Any], float] | None = None
    cancel_running: bool = True

    def __post_init__(self) -> None:
        for name in ("timeout", "queue_timeout", "run_timeout"):
            object.__setattr__(self, name, seconds(getattr(self, name), name, positive=True))
        whole(self.retries, "retries", 0)
        types = self.retry_on if isinstance(self.retry_on, tuple) else (self.retry_on,)
        for kind in types:
            if not (isinstance(kind, type) and issubclass(kind, BaseException)):
                raise TypeError(f"retry_on must hold exception types, not {kind!r}")
        object.__setattr__(self, "retry_on", types)
        if self.retry_wait is not None and not callable(self.retry_wait):
            raise TypeError("retry_wait must be a tenacity wait strategy")

    def change(self, changes: Mapping[str, Any]) -> CallOptions:
        """These options with some changed; TypeError for a name that is none of them."""
        known = {option.name for option in fields(self)}
        for name in changes:
            if name not in known:
                raise TypeError(f"no such call option: {name!r}; there are {', '.join(sorted(known))}")
        return replace(self, **changes)

    def limits(self) -> CallLimits:
        """The part that the ledger enforces, with the pauses between attempts drawn."""
        from dragonfly_executor.core.ledger import CallLimits

        delays: tuple[float, ...] = ()
        if self.retries:
            from dragonfly_executor.backoff import delays as draw

            delays = draw(self.retry_wait, self.retries)
        return CallLimits(
            timeout=_number(self.timeout),
            queue_timeout=_number(self.queue_timeout),
            run_timeout=_number(self.run_timeout),
            retries=self.retries,
            retry_delays=delays,
        )


def _number(value: Seconds | None) -> float | None:
    return value if value is None or isinstance(value, float) else seconds(value, "duration")


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """What a pool is made with; `Pool` documents each of them."""

    name: str
    min: int
    max: int
    max_concurrency: int | None = None
    max_workers: int | None = None
    single_use: bool = False
    log: int | str | bool = False
    boot_timeout: Seconds = 30.0
    shutdown_timeout: Seconds = 30.0
    idle_shutdown_after: Seconds | None | tuple[Seconds, IdleCheck] = 30.0
    min_idle_shutdown_after: Seconds | None = None
    on_grow_start: Hook | None = None
    on_grow_end: Callable[[object, Mapping[str, Any]], object] | None = None
    on_shrink: Hook | None = None
    on_event: Hook | None = None
    initializer: Callable[..., object] | None = None
    initargs: tuple[Any, ...] = ()
    max_tasks_per_child: int | None = None
    serializer: Any = "cloudpickle"
    max_payload: int = MAX_PAYLOAD
    max_boot_failures: int = 3
    boot_wait: Callable[[Any], float] | None = None
    lease: Seconds = 60.0
    heartbeat: Seconds = 5.0
    dead_after: Seconds = 30.0
    call: CallOptions = field(default_factory=CallOptions)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ValueError("name must be a text that is not empty")
        whole(self.min, "min", 0)
        whole(self.max, "max", 1)
        if self.min > self.max:
            raise ValueError(f"min must be at most max, and {self.min} is more than {self.max}")
        for name in ("max_workers", "max_concurrency"):
            value = getattr(self, name)
            if value is not None and whole(value, name, -(2**63)) <= 0:
                raise ValueError(f"{name} must be greater than 0")
        self._check_durations()
        self._check_callables()
        if self.max_tasks_per_child is not None:
            if isinstance(self.max_tasks_per_child, bool) or not isinstance(self.max_tasks_per_child, int):
                raise TypeError("max_tasks_per_child must be an integer")
            if self.max_tasks_per_child <= 0:
                raise ValueError("max_tasks_per_child must be >= 1")
        whole(self.max_payload, "max_payload", 1)
        whole(self.max_boot_failures, "max_boot_failures", 1)
        object.__setattr__(self, "log", log_level(self.log))

    def _check_durations(self) -> None:
        for name in ("boot_timeout", "lease", "heartbeat", "dead_after"):
            object.__setattr__(self, name, seconds(getattr(self, name), name, positive=True))
        for name in ("shutdown_timeout", "min_idle_shutdown_after"):
            object.__setattr__(self, name, seconds(getattr(self, name), name))
        if isinstance(self.idle_shutdown_after, tuple):
            after, check = self.idle_shutdown_after
            if not callable(check):
                raise TypeError("idle_shutdown_after as a pair must be (seconds, check), and check a callable")
            checked = (seconds(after, "idle_shutdown_after"), check)
            object.__setattr__(self, "idle_shutdown_after", checked)
        else:
            object.__setattr__(self, "idle_shutdown_after", seconds(self.idle_shutdown_after, "idle_shutdown_after"))

    def _check_callables(self) -> None:
        for name in ("initializer", "on_grow_start", "on_grow_end", "on_shrink", "on_event", "boot_wait"):
            value = getattr(self, name)
            if value is not None and not callable(value):
                raise TypeError(f"{name} must be a callable")
        if isinstance(self.serializer, str):
            if self.serializer not in SERIALIZERS:
                raise ValueError(f"serializer must be one of {', '.join(SERIALIZERS)}, or an object with dumps and loads")
        elif not (callable(getattr(self.serializer, "dumps", None)) and callable(getattr(self.serializer, "loads", None))):
            raise TypeError("serializer must be a name, or an object with dumps and loads")

    @property
    def idle_after(self) -> float | None:
        """Seconds of idleness after which a runner goes."""
        after = self.idle_shutdown_after
        return _number(after[0] if isinstance(after, tuple) else after)

    @property
    def idle_check(self) -> IdleCheck | None:
        """What is asked on an idle runner before it goes."""
        return self.idle_shutdown_after[1] if isinstance(self.idle_shutdown_after, tuple) else None


def log_level(log: int | str | bool) -> int | bool:
    """The level of the pool's own log lines as a number, or False for none; ValueError for a level that is none."""
    if log is False or log is None:
        return False
    if log is True:
        return logging.INFO
    if isinstance(log, int):
        return log
    level = logging.getLevelName(str(log).upper())
    if not isinstance(level, int):
        raise ValueError(f"log must be False, True or a logging level, not {log!r}")
    return level


def default_max(backend: Backend, max_runners: int | None) -> int:
    """The `max` of a pool: what the user says, else what the backend knows; ValueError if neither."""
    if max_runners is not None:
        return max_runners
    if backend.default_max is None:
        raise ValueError(f"max is required with the {backend.name} backend: how many runners may be up at once?")
    return backend.default_max
