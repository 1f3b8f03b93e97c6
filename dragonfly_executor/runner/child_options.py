"""The options of calls that a call submits."""

from __future__ import annotations

from collections.abc import Mapping

from dragonfly_executor.errors.base import CallTimeoutError
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING
from dragonfly_executor.util.validation import duration, finite_number, whole

if TYPE_CHECKING:
    from typing import Any

TIMEOUTS = ("timeout", "queue_timeout", "run_timeout")
NAMES = (*TIMEOUTS, "retries", "retry_on", "requires", "priority", "key")
PLAIN = (str, bytes, int, float, bool, type(None))


class ChildOptions:
    """The options that were given. The parent adds the pool's, and checks what can be checked only there.

    Args:
        given: values by name.

    Attributes:
        plain: by name, values of built-in types, as they travel.
        retry_on: exception types that are retried.
        retries_timeouts: whether `CallTimeoutError` is one.

    Raises:
        TypeError: there is no such option, or a value has the wrong type.
        ValueError: a value is out of range.
    """

    def __init__(self, given: Mapping[str, Any]) -> None:
        for name in given:
            if name not in NAMES:
                raise TypeError(f"child calls have no option {name!r}; they have {', '.join(NAMES)}")
        self.given = dict(given)
        self.plain = {name: _checked(name, value) for name, value in given.items() if name != "retry_on"}
        retry_on = given.get("retry_on", ())
        types: tuple[Any, ...] = retry_on if isinstance(retry_on, tuple) else (retry_on,)
        if not all(isinstance(each, type) and issubclass(each, BaseException) for each in types):
            raise TypeError(f"retry_on must be an exception type, or a tuple of them, not {retry_on!r}")
        self.retry_on = types
        self.retries_timeouts = bool(types) and issubclass(CallTimeoutError, types)


def _checked(name: str, value: Any) -> Any:
    if name in TIMEOUTS:
        return None if value is None else duration(value, name)
    if name == "retries":
        return whole(value, name, 0)
    if name == "priority":
        return finite_number(value, name)
    if name == "requires" and value is not None:
        if not isinstance(value, Mapping):
            raise TypeError(f"requires must be a mapping, not {type(value).__name__}")
        return {str(key): _plain(f"requires[{key!r}]", each) for key, each in value.items()}
    return _plain(name, value)


def _plain(name: str, value: Any) -> Any:
    """Return a value of built-in types: the parent opens no others."""
    if type(value) in PLAIN:
        return value
    if isinstance(value, (tuple, list, set, frozenset)):
        return tuple(_plain(name, each) for each in (sorted(value) if isinstance(value, (set, frozenset)) else value))
    raise TypeError(
        f"{name} of a child call must be made of numbers, text, bytes and tuples, not {type(value).__name__}"
    )
