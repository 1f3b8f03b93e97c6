"""Backends that commands find by their entry points: of other packages, and of this one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points

from dragonfly_executor.backends.base import Backend

GROUP = "dragonfly_executor.backends"
"""The group of entry points. A value is a `Backend` class, or a function that returns a backend."""


def installed() -> Mapping[str, EntryPoint]:
    """Return the entry points of installed packages by the backend's name."""
    return {point.name: point for point in entry_points(group=GROUP)}


def find(name: str, others: Iterable[str]) -> EntryPoint:
    """Return the entry point of this name.

    Args:
        name: the backend's name.
        others: names that the command knows without an entry point.

    Raises:
        ValueError: there is none.
    """
    points = installed()
    if name not in points:
        known = ", ".join([*others, *sorted(points)])
        how = f"A package adds one by an entry point in the group {GROUP}"
        raise ValueError(f"there is no backend {name!r}: there are {known}. {how}")
    return points[name]


def make(point: EntryPoint, settings: Mapping[str, str]) -> Backend:
    """Load an entry point and call it.

    Args:
        settings: keyword arguments, as strings.

    Raises:
        ValueError: it cannot be loaded, cannot make a backend from the settings, or returns no backend.
    """
    try:
        factory = point.load()
    except Exception as error:  # the module belongs to another package
        raise ValueError(f"cannot load the backend {point.name!r} ({point.value}): {_told(error)}") from error
    try:
        backend = factory(**settings)
    except Exception as error:
        raise ValueError(_failure(point, settings, error)) from error
    if not isinstance(backend, Backend):
        found = type(backend).__name__
        raise ValueError(  # noqa: TRY004  # a usage error of the command line
            f"{point.value} of the backend {point.name!r} returned an object of type {found}, which is no Backend"
        )
    return backend


def _failure(point: EntryPoint, settings: Mapping[str, str], error: Exception) -> str:
    """Return the error text for a backend that cannot be made, with what to do next."""
    text = f"cannot make the backend {point.name!r} ({point.value})"
    if settings:
        text += f" with --set {', '.join(settings)}"
    if isinstance(error, ImportError):
        return f"{text}: an import failed: {error}"
    advice = "correct the settings, or add more with --set KEY=VALUE" if settings else "it may need --set KEY=VALUE"
    return f"{text}: {_told(error)}; {advice}"


def read_settings(texts: Iterable[str]) -> dict[str, str]:
    """Return the settings of ``KEY=VALUE`` texts; ValueError for other texts, and for a key that comes twice."""
    settings: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.isidentifier():
            raise ValueError(f"--set takes KEY=VALUE, with a name as the key, and not {text!r}")
        if key in settings:
            raise ValueError(f"--set {key} was given twice")
        settings[key] = value
    return settings


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
