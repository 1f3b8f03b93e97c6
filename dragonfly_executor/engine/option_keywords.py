"""The types of options as users give them by keyword, for type checkers, editors and `inspect.signature`.

No pool loads this module. Defaults and checks are in `engine/options.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextvars import ContextVar
from os import PathLike
from typing import Any, Literal, TypeAlias, TypedDict

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dragonfly_executor.backends.budget import Budget
    from dragonfly_executor.protocol.call_progress import CallProgress
    from dragonfly_executor.util.validation import Seconds, Wait

IdleCheck: TypeAlias = Callable[[], object]
Hook: TypeAlias = Callable[[Mapping[str, Any]], object]
GrowEndHook: TypeAlias = Callable[[object, Mapping[str, Any]], object]
ProgressHook: TypeAlias = Callable[["CallProgress"], object]
Output: TypeAlias = str | Callable[[Any], object]


class CallKeywords(TypedDict, total=False):
    """Options of calls; see `CallOptions`."""

    timeout: Seconds | None
    queue_timeout: Seconds | None
    run_timeout: Seconds | None
    retries: int
    retry_on: type[BaseException] | tuple[type[BaseException], ...]
    retry_wait: Wait | None
    requires: Mapping[str, Any] | None
    priority: float
    key: Hashable
    max_queued: int | None
    when_full: Literal["wait", "raise"]
    stream_buffersize: int
    on_progress: ProgressHook | None
    cancel_running: bool
    seed: int | None
    context_vars: ContextVar[Any] | Sequence[ContextVar[Any]]
    slot_concurrency: int
    concurrency: int
    restart: Literal["never", "on_failure", "always"]
    max_restarts: int | None


class SharedKeywords(CallKeywords, total=False):
    """Options that `Pool` and `DragonflyExecutor` take by ``**options``; see `Pool`."""

    spare: int
    max_concurrency: int | None
    single_use: bool
    limit_threads: bool
    divide_gpus: bool
    log: int | str | bool
    boot_timeout: Seconds
    shutdown_timeout: Seconds
    idle_shutdown_after: Seconds | tuple[Seconds | None, IdleCheck] | None
    min_idle_shutdown_after: Seconds | None
    placement: Literal["spread", "pack"] | None
    scaling: Literal["fast", "thrifty"]
    on_grow_start: Hook | None
    on_grow_end: GrowEndHook | None
    on_shrink: Hook | None
    on_event: Hook | None
    on_call: Hook | None
    observers: Hook | Sequence[Hook]
    log_events: str | PathLike[str] | None
    dashboard: bool | Literal["read-only"]
    serializer: Any
    output: Output
    max_payload: int
    read_only_arguments: bool
    compression: Literal["auto"] | None
    max_boot_failures: int
    boot_wait: Wait | None
    budget: Budget | None
    lease: Seconds
    heartbeat: Seconds
    dead_after: Seconds


class ExecutorKeywords(SharedKeywords, total=False):
    """Options that are named parameters of `Pool` alone."""

    min: int
    max: int | None


class PoolKeywords(SharedKeywords, total=False):
    """Options that are named parameters of `DragonflyExecutor` alone."""

    max_workers: int | None
    initializer: Callable[..., object] | None
    initargs: tuple[Any, ...]
    max_tasks_per_child: int | None


def types_by_name() -> dict[str, str]:
    """Return the type of each option, as text."""
    types: dict[str, Any] = {**PoolKeywords.__annotations__, **ExecutorKeywords.__annotations__}
    return {name: getattr(kind, "__forward_arg__", kind) for name, kind in types.items()}
