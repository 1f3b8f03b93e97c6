"""The options of pools and of calls: name, default and check of each.

Their types, as users give them, are in `engine/option_keywords.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping

from dragonfly_executor.backends.budget import budget_or_none
from dragonfly_executor.core.calls import CallLimits
from dragonfly_executor.core.record import Record
from dragonfly_executor.engine.option_checks import (
    above_zero,
    anything,
    arguments,
    at_least,
    at_least_or_none,
    compression,
    context_variables,
    dashboard,
    exception_types,
    flag,
    hashable,
    hooks,
    idle,
    limit,
    log_level,
    one_of,
    output_mode,
    path_or_none,
    positive_or_none,
    requirements_or_none,
    seconds_or_none,
    seed_or_none,
    tasks_per_child,
    text,
)
from dragonfly_executor.engine.option_set import OptionSet, OptionSignature, option
from dragonfly_executor.errors import CallTimeoutError
from dragonfly_executor.util.backoff import delays as draw
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING
from dragonfly_executor.util.validation import duration, finite_number, hook, initializer

if TYPE_CHECKING:
    from typing import Any, Unpack

    from dragonfly_executor.engine.option_keywords import CallKeywords, GrowEndHook, Hook, Output, ProgressHook
    from dragonfly_executor.util.validation import Wait


class CallOptions(OptionSet, Record):
    """Options of the calls of one view of a pool. Durations are seconds or a `timedelta`.

    Args:
        timeout: time limit of a call from its submit on, waiting and running together; None for no limit.
        queue_timeout: time limit of its wait for a slot.
        run_timeout: time limit of its function, on each attempt. Imports that the call needs before its function begins
            do not count. They may take `boot_timeout`, or `run_timeout` if that is longer, and count for `timeout`.
        retries: maximum number of further attempts when the call's slot or runner is lost.
        retry_on: exception types that are retried as well when the call itself raises them. With `CallTimeoutError`, or
            a base class of it such as `TimeoutError`, an attempt that was stopped at `run_timeout` is retried too.
            `timeout` is for all attempts together.
        retry_wait: a tenacity wait strategy for the pauses between attempts; None for exponential backoff with jitter,
            from 0.1 s to 10 s. The strategy is asked for the first 32 pauses. Later pauses are as long as the last of
            these.
        requires: what a call requires of its runner, such as
            ``{"cpus": 2, "gpus": 1, "memory": "8GiB", "label": "eu"}``; None for the share of one slot. ``cpus`` may be
            a fraction, ``memory`` is a number of bytes or text, ``labels`` are several labels. The call goes to a
            runner that has it, and runs there beside other calls as far as all of them fit.
        priority: a number. Waiting calls with a larger priority run first; with the same priority, in order of arrival.
        key: a hashable object. A call goes to the slot that last ran a call with an equal key, so
            that it finds that call's objects in memory. If that slot is not free soon, it goes to any slot.
        max_queued: a submit needs that fewer calls of the pool than this wait for a slot; None for no bound. The limits
            of the call begin after that. `map` and `amap` submit at most this many calls ahead of the results that were
            taken, unless `buffersize` says another number.
        when_full: what a submit does otherwise: "wait" (the default) until there is room, as `queue.Queue.put` does, or
            "raise" a `QueueFullError`. `acall` waits without blocking its loop.
        stream_buffersize: number of items by which the function of a `stream` may be ahead of its caller.
        on_progress: called with each `CallProgress` that a call reports by `progress`, on the pool's callback thread.
            If it is slower than the reports, it gets the latest one.
        cancel_running: whether `Future.cancel` stops a running call; False for the standard library's behaviour.
        seed: a whole number from which the calls' random numbers follow (`random`, and NumPy's legacy generator), in
            maps for each item its own; None to seed nothing. docs/calls-in-context.md has the details.
        context_vars: context variables, one or several, whose values at the submit the calls see.
        slot_concurrency: number of calls of ``async def`` functions that share one slot and its event loop. Other
            functions have a slot each: they run as without the option if it is the pool's own, and are refused by
            views. docs/asyncio.md has the rules.
        concurrency: number of methods of a worker that `place` makes that run at once. With more than 1, methods run in
            threads, and ``async def`` methods in the slot's loop.
        restart: when such a worker begins again: "never" (the default); "on_failure", if its slot or runner is lost or
            its class raises; or "always", also if it ends by itself.
        max_restarts: maximum number of restarts of a worker; None for no limit. The default is 3 for "on_failure", and
            no limit for "always".

    Raises:
        TypeError: a value has the wrong type.
        ValueError: a value is out of range.
    """

    KIND = "call "
    timeout = option(None, limit)
    queue_timeout = option(None, limit)
    run_timeout = option(None, limit)
    retries = option(0, at_least(0))
    retry_on = option((), exception_types)
    retry_wait: Wait | None = option(None, hook)
    requires = option(None, requirements_or_none)
    priority = option(0, finite_number)
    key: Hashable = option(None, hashable)
    max_queued = option(None, at_least_or_none(1))
    when_full = option("wait", one_of("wait", "raise"))
    stream_buffersize = option(1024, at_least(1))
    on_progress: ProgressHook | None = option(None, hook)
    cancel_running = option(True, flag)
    seed = option(None, seed_or_none)
    context_vars = option((), context_variables)
    slot_concurrency = option(1, at_least(1))
    concurrency = option(1, at_least(1))
    restart = option("never", one_of("never", "on_failure", "always"))
    max_restarts = option(None, at_least_or_none(0))

    def __init__(self, **options: Unpack[CallKeywords]) -> None:
        self._take(options)
        self._limits: CallLimits | None = None
        self.has_setting = self.seed is not None or bool(self.context_vars)
        """True if calls run under a `CallSetting`."""
        self.is_special = self.max_queued is not None or self.slot_concurrency > 1
        """True if a submit may have to wait for room, or calls may share slots."""
        if self.slot_concurrency > 1 and self.seed is not None:
            raise ValueError("seed and slot_concurrency exclude each other: calls in one slot share its random numbers")

    __signature__ = OptionSignature()

    def change(self, changes: CallKeywords) -> CallOptions:
        """Return these options with some changed. Raises as the constructor does."""
        current: Any = {name: getattr(self, name) for name in self.OPTIONS}
        return CallOptions(**(current | changes))

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
            retries_timeouts=self.retries > 0 and issubclass(CallTimeoutError, self.retry_on),
            retry_delays=delays,
            requirements=self.requires,
            priority=self.priority,
            # The number of a key is never 0.
            key=0 if self.key is None else hash(self.key) % (2**64 - 1) + 1,
        )
        # Each call draws its own pauses, so that calls that failed together are not retried together.
        self._limits = None if self.retries else limits
        return limits


class PoolOptions(OptionSet):
    """A pool's options, checked. `Pool` documents each of them.

    Args:
        name: the pool's name.
        call: the default options of calls.
        given: values by name. The others have the defaults below, except that `max` is required.
    """

    min = option(0, at_least(0))
    max = option(None, at_least(1))
    spare = option(0, at_least(0))
    # Before max_concurrency, which may have been derived from it: an error must name the argument that the user gave.
    max_workers = option(None, positive_or_none)
    max_concurrency = option(None, positive_or_none)
    single_use = option(False, flag)
    limit_threads = option(True, flag)
    divide_gpus = option(True, flag)
    log = option(False, log_level)
    boot_timeout = option(30.0, above_zero)
    shutdown_timeout = option(30.0, duration)
    idle_shutdown_after = option(30.0, idle)
    min_idle_shutdown_after = option(None, seconds_or_none)
    placement = option(None, one_of(None, "spread", "pack"))
    scaling = option("fast", one_of("fast", "thrifty"))
    on_grow_start: Hook | None = option(None, hook)
    on_grow_end: GrowEndHook | None = option(None, hook)
    on_shrink: Hook | None = option(None, hook)
    on_event: Hook | None = option(None, hook)
    on_call: Hook | None = option(None, hook)
    observers: tuple[Hook, ...] = option((), hooks)
    log_events: str | None = option(None, path_or_none)
    dashboard = option(False, dashboard)
    initializer: Callable[..., object] | None = option(None, initializer)
    initargs = option((), arguments)
    max_tasks_per_child = option(None, tasks_per_child)
    serializer = option("cloudpickle", anything)
    output: Output = option("inherit", output_mode)
    max_payload = option(8 * 1024**3, at_least(1))
    read_only_arguments = option(False, flag)
    compression = option(None, compression)
    max_boot_failures = option(3, at_least(1))
    boot_wait: Wait | None = option(None, hook)
    budget = option(None, budget_or_none)
    lease = option(60.0, above_zero)
    heartbeat = option(5.0, above_zero)
    dead_after = option(30.0, above_zero)

    def __init__(self, name: str, call: CallOptions, given: Mapping[str, Any]) -> None:
        self.name = text(name, "name")
        self.call = call
        self._take(given)
        if self.min > self.max:
            raise ValueError(f"min must be at most max, and {self.min} is more than {self.max}")
        self.idle_after, self.idle_check = self.idle_shutdown_after
        # A thrifty pool learns it, unless the user has set it.
        self.learns_idle = self.scaling == "thrifty" and "idle_shutdown_after" not in given
