"""Checks of option values. Each gets a value and the option's name, and returns the value to keep, or raises."""

from __future__ import annotations

import logging
import os
from _contextvars import ContextVar  # `contextvars` is this module, in one more file
from collections.abc import Callable, Hashable, Mapping, Sequence

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING
from dragonfly_executor.util.validation import duration, hook, whole

if TYPE_CHECKING:
    from typing import Any

    from dragonfly_executor.core.capacity import Requirements
    from dragonfly_executor.engine.option_keywords import Hook, IdleCheck, Output
    from dragonfly_executor.util.validation import Seconds

OUTPUTS = ("inherit", "tag", "capture", "drop")


def above_zero(value: Seconds, name: str) -> float:
    """Return a duration above 0 in seconds."""
    return duration(value, name, positive=True)


def seconds_or_none(value: Seconds | None, name: str) -> float | None:
    """Return a duration in seconds; None stays None."""
    return None if value is None else duration(value, name)


def limit(value: Seconds | None, name: str) -> float | None:
    """Return a duration above 0 in seconds; None, for no limit, stays None."""
    return None if value is None else duration(value, name, positive=True)


def at_least(least: int) -> Callable[[int, str], int]:
    """Return a check for whole numbers of at least `least`."""
    return lambda value, name: whole(value, name, least)


def at_least_or_none(least: int) -> Callable[[int | None, str], int | None]:
    """Return a check for whole numbers of at least `least`; None stays None."""
    return lambda value, name: None if value is None else whole(value, name, least)


def requirements_or_none(value: Mapping[str, Any] | Requirements | None, name: str) -> Requirements | None:
    """Return what a call requires; None if it requires nothing."""
    if value is None:
        return None
    # Imported here, because importing takes time and most programs do not use `requires`.
    from dragonfly_executor.engine.requires import requirements

    return requirements(value, name)


def hashable(value: Hashable, name: str) -> Hashable:
    """Return a hashable object, or None."""
    try:
        hash(value)
    except TypeError as error:
        raise TypeError(f"{name} must be hashable, such as a string or a number: {error}") from None
    return value


def flag(value: object, _name: str) -> bool:
    """Return the truth value."""
    return bool(value)


def anything(value: Any, _name: str) -> Any:
    """Return the value: another part of the package checks it."""
    return value


def arguments(value: Sequence[Any], _name: str) -> tuple[Any, ...]:
    """Return positional arguments as a tuple."""
    return tuple(value)


def text(value: str, name: str) -> str:
    """Return a string that is not empty."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} must be a string that is not empty")
    return value


def positive_or_none(value: int | None, name: str) -> int | None:
    """Return a whole number above 0, or None; refuse others in the words of ProcessPoolExecutor."""
    if value is None:
        return None
    number = whole(value, name, -(2**63))
    if number <= 0:
        raise ValueError(f"{name} must be greater than 0")
    return number


def tasks_per_child(value: int | None, name: str) -> int | None:
    """Return a number of calls, or None; refuse others in the words of ProcessPoolExecutor."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer")
    if value <= 0:
        raise ValueError(f"{name} must be >= 1")
    return value


def exception_types(
    value: type[BaseException] | tuple[type[BaseException], ...], name: str
) -> tuple[type[BaseException], ...]:
    """Return exception types as a tuple."""
    types = value if isinstance(value, tuple) else (value,)
    for kind in types:
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise TypeError(f"{name} must hold exception types, not {kind!r}")
    return types


def seed_or_none(value: int | None, name: str) -> int | None:
    """Return a seed, or None."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise TypeError(f"{name} must be a whole number or None, not {value!r}")
    return value


def context_variables(value: Any, name: str) -> tuple[Any, ...]:
    """Return context variables as a tuple."""
    variables = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    for each in variables:
        if not isinstance(each, ContextVar):
            raise TypeError(f"{name} must be a ContextVar, or several, not {each!r}")
    return variables


def one_of(*words: str | None) -> Callable[[str | None, str], str | None]:
    """Return a check for one of these words. None is allowed if it is among them."""

    def check(value: str | None, name: str) -> str | None:
        """Return the word."""
        if value in words:
            return value
        raise ValueError(f"{name} must be {' or '.join(repr(word) for word in words if word)}, not {value!r}")

    return check


def compression(value: str | None, name: str) -> str | None:
    """Return a way to compress large payloads: None or "auto", for which this Python has a codec."""
    if value is None:
        return None
    if value != "auto":
        raise ValueError(f"{name} must be None or 'auto', not {value!r}")
    from dragonfly_executor.transport.codecs import installed

    if not installed():
        raise ImportError(
            f"{name}='auto' needs lz4 or zstandard, here and on the runners: pip install 'dragonfly-executor[lz4]' or "
            "'dragonfly-executor[zstd]'"
        )
    return value


def dashboard(value: bool | str, name: str) -> bool | str:
    """Return whether a pool has a web page: False, True or "read-only"."""
    if value not in (False, True, "read-only"):
        raise ValueError(f"{name} must be True, False or 'read-only', not {value!r}")
    if value:
        from dragonfly_executor.dashboard.server import check_installed

        check_installed(f"{name}={value!r}")
    return value


def output_mode(value: Output, name: str) -> Output:
    """Return a way to handle output: a known word, or a callable."""
    choices = f"{name} must be {', '.join(map(repr, OUTPUTS))} or a callable, not"
    if isinstance(value, str):
        if value not in OUTPUTS:
            raise ValueError(f"{choices} {value!r}")
    elif not callable(value):
        raise TypeError(f"{choices} {type(value).__name__}")
    else:
        hook(value, name)
    return value


def hooks(value: Hook | Sequence[Hook], name: str) -> tuple[Hook, ...]:
    """Return callables: one, or a list or tuple of several."""
    several: Any = value if isinstance(value, (list, tuple)) else (value,)
    for each in several:
        if not callable(each):
            raise TypeError(f"{name} must be a callable, or a list of callables, not {each!r}")
        hook(each, name)
    return tuple(several)


def path_or_none(value: object, name: str) -> str | None:
    """Return the path of a file whose folder exists; None stays None."""
    if value is None:
        return None
    path = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if not isinstance(path, str):
        raise TypeError(f"{name} must be the path of a file, not {value!r}")
    path = os.path.abspath(path)  # noqa: PTH100  # pathlib takes longer to import than a pool to make
    if not os.path.isdir(os.path.dirname(path)):  # noqa: PTH112, PTH120
        raise ValueError(f"{name}: there is no folder for {path!r}; make it first")
    if os.path.isdir(path):  # noqa: PTH112
        raise ValueError(f"{name} must be the path of a file, and {path!r} is a folder")
    return path


def idle(value: Seconds | tuple[Seconds | None, IdleCheck] | None, name: str) -> tuple[float | None, IdleCheck | None]:
    """Return the idle time in seconds after which a runner stops, and the user's idle check."""
    if not isinstance(value, tuple):
        return seconds_or_none(value, name), None
    if len(value) != 2 or not callable(value[1]):
        raise TypeError(f"{name} must be seconds, or a pair (seconds, check) whose check is callable")
    return seconds_or_none(value[0], name), hook(value[1], f"the check of {name}")


def log_level(value: int | str | bool, name: str) -> int | bool:
    """Return the level of the pool's own log lines as a number, or False for none."""
    if value is False or value is None:
        return False
    if value is True:
        return logging.INFO
    if isinstance(value, int):
        return value
    levels = logging.getLevelNamesMapping()
    if str(value).upper() not in levels:
        raise ValueError(f"{name} must be False, True or a logging level, not {value!r}")
    return levels[str(value).upper()]
