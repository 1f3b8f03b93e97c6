"""The names that a pool needs from its first runner on. Their modules are loaded while that runner starts.

A program whose first call waits for a first runner need not wait for these imports too. All of them are loaded before
the runner is used (`load`): once memory or descriptors run out, no import works any more.
"""

from __future__ import annotations

from dragonfly_executor import errors
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from dragonfly_executor.engine.runner_connection import RunnerLink
    from dragonfly_executor.engine.runner_messages import events_of, initializer_error

__all__ = ["RunnerLink", "events_of", "initializer_error", "load"]

_MODULES = {
    "RunnerLink": "runner_connection",
    "events_of": "runner_messages",
    "initializer_error": "runner_messages",
}


def load() -> None:
    """Load these names. Further calls do nothing.

    Raises:
        StartError: they cannot be loaded, because memory or descriptors ran out.
    """
    if "RunnerLink" not in globals():
        for name, module in _MODULES.items():
            globals()[name] = getattr(errors.load_module(f"dragonfly_executor.engine.{module}"), name)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    load()
    return globals()[name]
