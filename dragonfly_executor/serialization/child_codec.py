"""The encoder of the calls that a call submits to the pool that runs it."""

from __future__ import annotations

from dragonfly_executor.errors import CallSerializationError
from dragonfly_executor.serialization.parent_codec import CallCodec
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from dragonfly_executor.serialization.formats import SerializerFormat

VERSION_STEP = 2.0**-40
"""Difference between the versions of definitions that a slot sends to others.

All of them are between 0 and 1, and those of the parent begin with 1. So what the parent has sent stays.
"""


def child_codec(serializer: SerializerFormat, *, script_travels: bool) -> CallCodec:
    """Return an encoder of calls in a slot, for other slots of the same pool.

    A payload from a slot has nothing that runners get once: the parent forwards it as it is.

    Args:
        serializer: the slot's.
        script_travels: whether this slot has imported the script, so that others can too.
    """
    codec = CallCodec(serializer.custom or serializer.name, script_travels=script_travels, copies=False)
    codec.travel_from_slot(VERSION_STEP, _refuse)
    return codec


def _refuse(found: Any, _held: list[object]) -> Any:
    if type(type(found)).__module__ == "_ctypes" and not hasattr(found, "_wrapper"):
        return NotImplemented  # its memory is not shared: it travels as a copy
    raise CallSerializationError(
        f"a {type(found).__name__} of multiprocessing that was made in a call cannot travel to other calls: the parent"
        " does not have it. Make it in the parent, and pass it to both calls from there"
    )
