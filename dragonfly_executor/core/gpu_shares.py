"""Divides GPUs by their numbers."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def usual_share(count: int, number: int, slots: int) -> Sequence[int]:
    """Return the numbers of the GPUs of a slot while the GPUs are not given to calls.

    If there are no more slots than GPUs, each slot has GPUs of its own. Otherwise slots whose numbers differ by a
    multiple of the number of GPUs have the same GPU.

    Args:
        count: the number of GPUs, at least 1.
        number: the slot's number.
        slots: the number of slots.
    """
    place = number % slots
    if count < slots:
        return (place % count,)
    # Neighbours stay together, because they may have a faster connection.
    return range(place * count // slots, (place + 1) * count // slots)


def pick(free: Collection[int], wanted: int) -> frozenset[int]:
    """Return the numbers of `wanted` GPUs: neighbours if there are enough, because they may be connected faster."""
    numbers = sorted(free)
    for start in range(len(numbers) - wanted + 1):
        chosen = numbers[start : start + wanted]
        if not chosen or chosen[-1] - chosen[0] == wanted - 1:
            return frozenset(chosen)
    return frozenset(numbers[:wanted])
