"""The option `requires`: what a call requires of its runner, and whether a runner can have that."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from dragonfly_executor.core.capacity import Capacity, Requirements
from dragonfly_executor.errors import RequirementsError
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING
from dragonfly_executor.util.validation import finite_number, whole

if TYPE_CHECKING:
    from typing import Any, Final

KEYS: Final = ("cpus", "gpus", "memory", "label", "labels")


def requirements(value: Mapping[str, Any] | Requirements | None, name: str) -> Requirements | None:
    """Return what a call requires; None if it requires nothing.

    Args:
        value: by name, what it requires: ``cpus``, ``gpus``, ``memory`` (bytes, or text such as ``"8GiB"``), ``label``
            (one) or ``labels`` (several).
        name: the option's name, for error texts.

    Raises:
        TypeError: a name is none of these, or a value has the wrong type.
        ValueError: a value is out of range.
    """
    if value is None or isinstance(value, Requirements):
        return value
    if not isinstance(value, Mapping):
        example = '{"cpus": 2, "memory": "8GiB"}'
        raise TypeError(f"{name} must be a mapping, such as {example}, not {type(value).__name__}")
    for key in value:
        if key not in KEYS:
            raise TypeError(f"{name} has no {key!r}; it may have {', '.join(KEYS)}")
    # Imported here, because it loads `re`, and few programs use `requires`.
    from dragonfly_executor.util.byte_sizes import byte_size

    cpus = finite_number(value.get("cpus", 0), f"{name}['cpus']")
    if cpus < 0:
        raise ValueError(f"{name}['cpus'] must be at least 0, not {cpus!r}")
    made = Requirements(
        cpus=cpus,
        gpus=whole(value.get("gpus", 0), f"{name}['gpus']", 0),
        memory=byte_size(value.get("memory", 0), f"{name}['memory']"),
        labels=frozenset([*_labels(value, "label", name), *_labels(value, "labels", name)]),
    )
    return made if made.key else None


def _labels(value: Mapping[str, Any], key: str, name: str) -> Iterable[str]:
    given = value.get(key, ())
    labels = (given,) if isinstance(given, str) else given
    if not isinstance(labels, Iterable) or isinstance(labels, bytes):
        raise TypeError(f"{name}[{key!r}] must be text, or several texts, not {type(given).__name__}")
    labels = tuple(labels)
    for label in labels:
        if not isinstance(label, str):
            raise TypeError(f"{name}[{key!r}] must be text, or several texts, not {type(label).__name__}")
        if not label:
            raise ValueError(f"{name}[{key!r}] must not be empty")
    return labels


def check_possible(required: Requirements, capacities: Sequence[Capacity], backend: str) -> None:
    """Raise if no runner can ever fit these requirements.

    Args:
        required: the requirements of a call.
        capacities: what the pool's runners can have; empty if that is unknown.
        backend: the name of the backend, or the names of several.

    Raises:
        RequirementsError: none of the capacities has them. The text names the nearest.
    """
    if not capacities or any(required.fit(capacity) for capacity in capacities):
        return
    nearest = min(capacities, key=required.missing)
    raise RequirementsError(
        f"the call requires {required}, and no runner of the {backend} backend can have that;"
        f" the nearest has {nearest}: require less, or use a backend whose runners have it"
    )
