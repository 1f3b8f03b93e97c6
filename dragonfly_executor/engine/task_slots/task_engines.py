"""Finds what runs the calls of a function with the option `slot_concurrency`."""

from __future__ import annotations

from collections.abc import Callable

from dragonfly_executor.core.calls import CallLimits
from dragonfly_executor.engine.call_name import call_name
from dragonfly_executor.engine.task_slots.task_engine import TaskEngine
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING
from dragonfly_executor.util.validation import is_async, refuse

if TYPE_CHECKING:
    from typing import Any

    from dragonfly_executor.engine.engine import Engine
    from dragonfly_executor.engine.options import CallOptions


def task_engine(
    engine: Engine, options: CallOptions, fn: Callable[..., Any], *, is_default: bool
) -> tuple[Engine | TaskEngine, CallOptions]:
    """Return what runs the calls of a function, and the options that these calls have there.

    Args:
        engine: the pool's engine.
        options: of the calls.
        fn: the function.
        is_default: whether the pool has this `slot_concurrency` itself. Then other functions run as without it.

    Raises:
        TypeError: the function is no ``async def``, and the pool itself does not share slots.
    """
    if not is_async(fn):
        refuse(fn)
        if is_default:
            return engine, options
        raise TypeError(
            f"slot_concurrency={options.slot_concurrency} is for `async def` functions, and {call_name(fn)} is none. "
            "Leave the option out for plain functions, and for chunks of a map: each has a slot of its own"
        )
    if any(not tier.backend.has_slot_processes for tier in engine.tiers):
        return engine, options  # a fake
    requirements = options.requires
    key = options.slot_concurrency, "" if requirements is None else requirements.key, options.priority
    found = engine.task_engines.get(key)
    if found is None:
        limits = CallLimits(requirements=requirements, priority=options.priority)
        made = TaskEngine(engine, options.slot_concurrency, limits)
        # Two threads may come here at once, and get one object. It takes part in the pool with its first call.
        found = engine.task_engines.setdefault(key, made)
    # The slot has what the calls require.
    return found, options if requirements is None else options.change({"requires": None})
