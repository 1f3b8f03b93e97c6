"""The filters of `warnings` and the levels of `logging` that a program has set, for its slots.

They are read when the pool starts. Nothing is imported for them: a slot applies them once it imports the module.
"""

from __future__ import annotations

import sys
from functools import partial

from dragonfly_executor.serialization.post_import_hook import PostImportHooks
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


DEFAULT_FILTERS = [
    ("default", "", "builtins", "DeprecationWarning", "__main__", 0),
    ("ignore", "", "builtins", "DeprecationWarning", "", 0),
    ("ignore", "", "builtins", "PendingDeprecationWarning", "", 0),
    ("ignore", "", "builtins", "ImportWarning", "", 0),
    ("ignore", "", "builtins", "ResourceWarning", "", 0),
]
"""The filters that an interpreter starts with: action, message, module and name of the category, module, line."""


def settings() -> dict[str, Any]:
    """Return this program's settings that differ from an interpreter's own: values of built-in types."""
    found: dict[str, Any] = {}
    warnings, logging = sys.modules.get("warnings"), sys.modules.get("logging")
    if warnings is not None and (filters := [_described(*each) for each in warnings.filters]) != DEFAULT_FILTERS:
        found["warnings"] = filters
    if logging is not None:
        known = dict(logging.root.manager.loggerDict)
        levels = {name: logger.level for name, logger in known.items() if getattr(logger, "level", 0)}
        if levels:
            found["levels"] = levels
    return found


def _described(action: str, message: Any, category: type, module: Any, line: int) -> tuple[Any, ...]:
    return action, _text(message), category.__module__, category.__qualname__, _text(module), line


def _text(pattern: Any) -> str:
    """Return a pattern as text. The interpreter's own filters have texts in place of patterns."""
    return getattr(pattern, "pattern", pattern) or ""


def apply(found: dict[str, Any]) -> None:
    """Apply the settings in a slot."""
    actions: dict[str, Callable[[Any], None]] = {}
    if "warnings" in found:
        actions["warnings"] = lambda warnings: _set_filters(warnings, found["warnings"])
    if "levels" in found:
        actions["logging"] = lambda logging: _set_levels(logging, found["levels"])
    if actions:
        PostImportHooks(actions).install()


def _set_levels(logging: Any, levels: dict[str, int]) -> None:
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def _set_filters(warnings: Any, described: list[tuple[Any, ...]]) -> None:
    """Set the filters. Those for a category of a module that is not imported come first once the module is."""
    warnings.resetwarnings()
    later: dict[str, list[tuple[Any, ...]]] = {}
    for entry in described:
        if not _add_filter(warnings, *entry, append=True):
            later.setdefault(entry[2], []).append(entry)
    for name, entries in later.items():
        PostImportHooks({name: partial(_add_later, warnings, entries)}).install()


def _add_later(warnings: Any, entries: list[tuple[Any, ...]], _: Any) -> None:
    for entry in reversed(entries):
        _add_filter(warnings, *entry, append=False)


def _add_filter(
    warnings: Any, action: str, message: str, home: str, category: str, module: str, line: int, *, append: bool
) -> bool:
    """Add a filter. Return False if the module of its category is not imported."""
    found: Any = sys.modules.get(home)
    for name in category.split("."):
        found = getattr(found, name, None)
    if found is None:
        return False
    warnings.filterwarnings(action, message, found, module, line, append)
    return True
